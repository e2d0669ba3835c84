//! The dispatcher dies while nodes talk, and another one takes its place.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::crew::{Answer, Order};
use super::fleet::{Fleet, ScaleError, must_be};
use super::plan::Plan;
use super::talk::Window;
use super::{Against, milliseconds, quantile};
use crate::measure::monotonic_ns;

/// milliseconds; the table shall be complete after so long
const TARGET_MS: f64 = 1000.0;
/// How long it may take before this run has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often the dispatcher is killed.
    pub restarts: usize,
    /// Topics on which nodes talk meanwhile.
    pub pairs: usize,
    /// Messages a second of each of them.
    pub rate: u32,
    /// How long the talk is watched without and with a kill.
    pub window: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Reattach {
    /// What this is a line of.
    pub measured: &'static str,
    /// Who publishes what to whom.
    pub plan: String,
    /// Links that had to be there again.
    pub links: usize,
    /// How often the dispatcher was killed.
    pub restarts: usize,
    /// From SIGKILL until the table was what it was before; of all restarts, the longest.
    pub complete: Against,
    /// The same, the median.
    pub complete_median_ms: f64,
    /// From SIGKILL until the next dispatcher listened, the longest.
    pub listening_ms: f64,
    /// Messages that the talking pairs received, each checked for its number.
    pub messages: u64,
    /// The longest time between two messages of a pair, undisturbed and with kills.
    pub longest_gap_ms: [f64; 2],
    /// The longest time from when a message was due to its arrival, undisturbed and with kills.
    pub longest_delay_ms: [f64; 2],
}

impl fmt::Display for Reattach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Against { ms, target_ms, ratio } = self.complete;
        writeln!(f, "reattach: {}, {} links, dispatcher killed {} times", self.plan, self.links, self.restarts)?;
        writeln!(
            f,
            "  table complete again after {ms:.0} ms at most ({:.0} ms median); {ratio:.2} of the target of {target_ms:.0} ms",
            self.complete_median_ms
        )?;
        writeln!(f, "  the next dispatcher listened after {:.0} ms", self.listening_ms)?;
        let ([gap, gap_with], [delay, delay_with]) = (self.longest_gap_ms, self.longest_delay_ms);
        writeln!(f, "  {} messages of talking pairs, none lost or repeated", self.messages)?;
        write!(
            f,
            "  longest pause {gap:.1} ms undisturbed, {gap_with:.1} ms with kills; longest delay {delay:.1} ms, {delay_with:.1} ms"
        )
    }
}

/// Measures with all nodes of the fleet, which are there and linked afterwards.
///
/// # Errors
///
/// When a count is not what it must be.
pub fn measure(fleet: &mut Fleet, settings: Settings) -> Result<Reattach, ScaleError> {
    let plan = *fleet.plan();
    fleet.ask(&Order::Join)?;
    must_be("links", fleet.count(&Order::Link)?, plan.links() as u64)?;
    let before = settled(fleet, &plan)?;
    let pairs = settings.pairs.min(plan.topics);
    fleet.ask(&Order::Talk { pairs, rate: settings.rate })?;
    // What they make of each other's start is not looked at.
    watch(fleet, settings.window / 4, |_| Ok(()))?;
    fleet.ask(&Order::Window)?;
    let undisturbed = watch(fleet, settings.window, |_| Ok(()))?;

    let (mut complete, mut listening, mut with_kills) = (Vec::new(), Vec::new(), Window::default());
    for _ in 0..settings.restarts {
        let window = watch(fleet, settings.window, |fleet| {
            let killed_ns = monotonic_ns();
            fleet.kill_dispatcher();
            fleet.start_dispatcher()?;
            listening.push(monotonic_ns() - killed_ns);
            wait_until_table_is(fleet, &before)?;
            complete.push(monotonic_ns() - killed_ns);
            Ok(())
        })?;
        with_kills = with_kills.and(window);
    }
    let messages = end_talk(fleet, plan.subscribers)?;
    Ok(Reattach {
        measured: "reattach",
        plan: plan.to_string(),
        links: plan.links(),
        restarts: settings.restarts,
        complete: Against::new(quantile(&mut complete, 1.0), TARGET_MS),
        complete_median_ms: milliseconds(quantile(&mut complete, 0.5)),
        listening_ms: milliseconds(quantile(&mut listening, 1.0)),
        messages,
        longest_gap_ms: [undisturbed, with_kills].map(|window| milliseconds(window.longest_gap_ns)),
        longest_delay_ms: [undisturbed, with_kills].map(|window| milliseconds(window.longest_delay_ns)),
    })
}

/// What the pairs received in a time in which something is done.
fn watch(
    fleet: &mut Fleet,
    time: Duration,
    act: impl FnOnce(&mut Fleet) -> Result<(), ScaleError>,
) -> Result<Window, ScaleError> {
    let until = Instant::now() + time;
    act(fleet)?;
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    let answers = fleet.ask(&Order::Window)?;
    let windows =
        answers.into_iter().map(|answer| if let Answer::Window(it) = answer { it } else { Window::default() });
    Ok(windows.fold(Window::default(), Window::and))
}

/// Nothing more is said; everything that was said was heard.
fn end_talk(fleet: &mut Fleet, subscribers: usize) -> Result<u64, ScaleError> {
    let answers = fleet.ask(&Order::Hush)?;
    let published: Vec<_> = answers
        .into_iter()
        .flat_map(|answer| if let Answer::Published(counts) = answer { counts } else { Vec::new() })
        .collect();
    let expected = published.iter().map(|(_, count)| count * subscribers as u64).sum();
    let received = fleet.count(&Order::Drain { published })?;
    must_be("messages of talking pairs", received, expected)?;
    Ok(received)
}

/// The table with all links; the dispatcher may still have some answers to come.
fn settled(fleet: &Fleet, plan: &Plan) -> Result<Vec<String>, ScaleError> {
    let rows = plan.nodes + plan.topics + plan.links();
    let publication = format!("publishes, {} links", plan.subscribers);
    let until = Instant::now() + DEADLINE;
    loop {
        let table = fleet.table()?.unwrap_or_default();
        let linked = table.iter().filter(|row| row.ends_with(&publication)).count();
        if table.len() == rows && linked == plan.topics {
            return Ok(table);
        }
        if Instant::now() > until {
            let found = format!("{} rows, {linked} publications with all links", table.len());
            return Err(ScaleError::Late { what: "the table is not complete", seconds: DEADLINE.as_secs(), found });
        }
    }
}

fn wait_until_table_is(fleet: &Fleet, before: &[String]) -> Result<(), ScaleError> {
    let until = Instant::now() + DEADLINE;
    loop {
        let table = fleet.table()?.unwrap_or_default();
        if table == before {
            return Ok(());
        }
        if Instant::now() > until {
            let differs = |row: &&String| !before.contains(row);
            let found = match table.iter().find(differs) {
                Some(row) => format!("`{row}` was not there before"),
                None => format!("{} of {} rows", table.len(), before.len()),
            };
            return Err(ScaleError::Late { what: "the table is another one", seconds: DEADLINE.as_secs(), found });
        }
        // The dispatcher has better to do than to list its table all the time.
        std::thread::sleep(Duration::from_millis(5));
    }
}
