//! How soon a node's peers know that it was killed.

use std::fmt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::crew::{Answer, ENDS, Order, Task, victim_name};
use super::fleet::{Fleet, ScaleError, doing, must_be};
use super::{Against, milliseconds, quantile};
use crate::measure::{Worker, monotonic_ns};

/// milliseconds; half of all peers shall know after so long
const TARGET_MS: f64 = 10.0;
/// How long the victims may take to be linked.
const DEADLINE: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Death {
    /// What this is a line of.
    pub measured: &'static str,
    /// Processes that were killed.
    pub deaths: usize,
    /// Peers of each.
    pub peers: usize,
    /// From SIGKILL until a peer was told of the end of a link; the median over all links.
    pub notice: Against,
    /// The same, 99 of 100.
    pub p99_ms: f64,
    /// The same, all.
    pub max_ms: f64,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Against { ms, target_ms, ratio } = self.notice;
        writeln!(f, "death: {} nodes killed, each with {} peers", self.deaths, self.peers)?;
        write!(
            f,
            "  peers know after {ms:.2} ms (median), {:.2} ms (p99), {:.2} ms (all); {ratio:.2} of the target of {target_ms:.0} ms",
            self.p99_ms, self.max_ms
        )
    }
}

/// Measures; the fleet's nodes are there already.
///
/// # Errors
///
/// When somebody is not told of a death.
pub fn measure(fleet: &mut Fleet, deaths: usize) -> Result<Death, ScaleError> {
    let watchers = fleet.plan().processes;
    fleet.ask(&Order::Watch { victims: deaths })?;
    let mut victims = Vec::new();
    for number in 0..deaths {
        let task = Task::Victim { socket: fleet.socket().to_owned(), number, watchers };
        let mut victim = Worker::start(&victim_name(number), None, &task, &[])?;
        // One after the other: their start is not what is measured.
        victim.await_ready(DEADLINE)?;
        victims.push(victim);
    }
    let mut notices = Vec::new();
    for (number, victim) in victims.into_iter().enumerate() {
        // They wait before it happens.
        fleet.tell(&Order::Mourn { victim: number })?;
        let killed_ns = kill(&victim)?;
        let answers = fleet.answers()?;
        let knew = answers.into_iter().flat_map(|answer| if let Answer::Knew(times) = answer { times } else { vec![] });
        notices.extend(knew.map(|at_ns| at_ns.saturating_sub(killed_ns)));
    }
    must_be("ends of links that peers were told of", notices.len() as u64, (deaths * watchers * ENDS) as u64)?;
    Ok(Death {
        measured: "death",
        deaths,
        peers: watchers,
        notice: Against::new(quantile(&mut notices, 0.5), TARGET_MS),
        p99_ms: milliseconds(quantile(&mut notices, 0.99)),
        max_ms: milliseconds(quantile(&mut notices, 1.0)),
    })
}

/// Kills a process and leaves it unreaped; says when.
fn kill(victim: &Worker) -> Result<u64, ScaleError> {
    let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let pid = i32::try_from(victim.pid()).ok().and_then(Pid::from_raw).ok_or_else(gone);
    let killed_ns = monotonic_ns();
    pid.and_then(|pid| Ok(kill_process(pid, Signal::KILL)?)).map_err(doing("kill a process of this program"))?;
    Ok(killed_ns)
}
