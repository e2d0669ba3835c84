//! The example `bridge_soak`: two dispatchers with a link that breaks, and what came over it.
//!
//! Reading order: `hosts` (dispatchers that are killed and started again), `ends` (who publishes and who checks), this module.

mod ends;
mod hosts;

use std::fmt;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, bounded, unbounded};

use crate::measure::worker::WorkError;
use crate::programs::Programs;
use ends::Count;
use hosts::Hosts;

/// Without a message for so long, something is stuck.
const PATIENCE: Duration = Duration::from_secs(120);
/// Progress is said so often.
const STEPS: u64 = 10;

/// What is to happen.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Messages in all.
    pub messages: u64,
    /// bytes of each
    pub size: usize,
    /// Connections that are cut.
    pub cuts: u32,
    /// Dispatchers that are killed.
    pub kills: u32,
    /// What decides where connections are cut.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub struct Summary {
    plan: Plan,
    cut: usize,
    killed: u32,
    count: Count,
}

impl Summary {
    /// Whether nothing was lost, repeated or damaged, and all of the plan was done.
    pub fn held(&self) -> bool {
        let Count { lost, told, repeated, damaged, .. } = self.count;
        let done = self.cut == self.plan.cuts as usize && self.killed == self.plan.kills;
        lost + told + repeated + damaged == 0 && done
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { plan, cut, killed, count } = self;
        let Count { lost, told, repeated, damaged, longest } = count;
        write!(
            f,
            "{} messages, {cut} connections cut, {killed} dispatchers killed: {lost} lost ({told} told), {repeated} repeated, \
             {damaged} damaged; the longest silence took {:.1} s",
            plan.messages,
            longest.as_secs_f64()
        )
    }
}

/// Does all of it.
///
/// # Errors
///
/// When something could not be started, or is stuck.
pub fn run(plan: &Plan, programs: &Programs) -> Result<Summary, WorkError> {
    let mut hosts = Hosts::start(programs, plan)?;
    let (progress, came) = unbounded();
    let subscriber = ends::subscriber(hosts.socket(1))?;
    let publisher = ends::publisher(hosts.socket(0))?;
    let (size, messages) = (plan.size, plan.messages);
    let (finish, done) = bounded(0);
    let publishing = std::thread::spawn(move || ends::publish(publisher, messages, size, &done));
    let every = (messages / (u64::from(plan.kills) + 1).max(STEPS)).max(1);
    let checking = std::thread::spawn(move || ends::check(subscriber, messages, every, &progress));

    let (mut killed, mut said) = (0, 0);
    loop {
        match came.recv_timeout(PATIENCE) {
            Ok(number) => {
                // Spread over all messages, however many steps there are.
                let due = (u64::from(plan.kills) * number).div_ceil(messages.max(1)).min(plan.kills.into()) as u32;
                while killed < due {
                    hosts.kill((killed % 2) as usize)?;
                    killed += 1;
                }
                if number * STEPS / messages > said {
                    said = number * STEPS / messages;
                    println!("{number} messages, {} connections, {killed} killed", hosts.connections());
                }
            }
            // All of it came, or the thread says why not.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("nothing came for {} s: it is stuck", PATIENCE.as_secs()).into());
            }
        }
    }
    let count = checking.join().map_err(|_| "checking panicked")??;
    drop(finish);
    publishing.join().map_err(|_| "publishing panicked")??;
    Ok(Summary { plan: plan.clone(), cut: plan.cuts as usize - hosts.breaks_left(), killed, count })
}
