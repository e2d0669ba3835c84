//! What those do who die: a publisher and a subscriber that come by each of their points again and again.

use std::path::PathBuf;
use std::time::Duration;

use nodeset::{Node, OwnedSample, PublishError, Subscriber};
use serde::{Deserialize, Serialize};

use super::points::{self, Plan};
use crate::measure::fill;
use crate::measure::worker::WorkError;
use crate::soak::ledger::Ledger;

/// The topic of the publisher that dies.
pub const DYING: &str = "crash/dying";
/// The topic of the publisher that lives.
pub const LIVING: &str = "crash/living";
/// How long anybody waits for anything that must come.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Of all logs: small, so that blocks end and fill often.
pub const BLOCK_LEN: u32 = 4096;
/// Of the dying publisher's log: it has to wait for room.
const FEW_BLOCKS: u32 = 10;
/// Of the living one's, too; but more than its subscribers' kept samples can cut into pieces too short for a long message.
pub const BLOCKS: u32 = 24;
/// Messages of one publisher, or of one subscriber, before the next one takes its place.
pub const CYCLE: u64 = 150;
/// bytes; cycle and number come first
pub const LEAST: usize = 16;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Publishes on [`DYING`].
    Publisher,
    /// Subscribes to [`LIVING`], reliably.
    Reliable,
    /// The same, lossy.
    Lossy,
}

impl Role {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Role::Publisher => "publisher",
            Role::Reliable => "reliable subscriber",
            Role::Lossy => "lossy subscriber",
        }
    }
}

/// What such a process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// What it does.
    pub role: Role,
    /// The dispatcher.
    pub socket: PathBuf,
    /// The ledger's memory.
    pub ledger: PathBuf,
    /// What it does at its points.
    pub plan: Plan,
    /// How many publishers, or subscribers, one after the other.
    pub cycles: u64,
}

/// Bytes of message `number`: most fit a block many times, some are longer than one.
pub fn len(number: u64) -> usize {
    LEAST + (fill::pattern(number) >> 20) as usize % if number % 31 == 0 { 9000 } else { 600 }
}

/// What the dying publisher sends beside message `number`: nothing with most, so that frames of both kinds follow each other.
pub fn tag(number: u64) -> Option<u64> {
    (number % 3 == 1).then(|| fill::pattern(number))
}

/// Fills a message.
pub fn write(bytes: &mut [u8], cycle: u64, number: u64) {
    bytes[..8].copy_from_slice(&cycle.to_le_bytes());
    fill::fill(&mut bytes[8..], number);
}

/// The cycle of a message that is what it should be.
pub fn check(bytes: &[u8], number: u64) -> Result<u64, WorkError> {
    let Some((cycle, content)) = bytes.split_first_chunk().filter(|_| bytes.len() == len(number)) else {
        return Err(format!("message {number} has {} bytes, not {}", bytes.len(), len(number)).into());
    };
    if !fill::is_intact(content, number) {
        return Err(format!("message {number} is torn").into());
    }
    Ok(u64::from_le_bytes(*cycle))
}

/// Does what the task says.
///
/// # Errors
///
/// What could not be done.
pub fn play(task: &Task) -> Result<(), WorkError> {
    points::follow(&task.plan);
    let node = Node::builder("victim").socket(&task.socket).connect_timeout(DEADLINE).connect()?;
    match task.role {
        Role::Publisher => {
            let ledger = Ledger::open(std::fs::OpenOptions::new().read(true).write(true).open(&task.ledger)?.into())?;
            (0..task.cycles).try_for_each(|cycle| publish(&node, &ledger, cycle))?;
        }
        Role::Reliable => {
            (0..task.cycles).try_for_each(|_| subscribe(&mut node.subscriber::<[u8]>(LIVING).reliable().create()?))?
        }
        Role::Lossy => {
            (0..task.cycles).try_for_each(|_| subscribe(&mut node.subscriber::<[u8]>(LIVING).depth(16).create()?))?
        }
    }
    // What the session says last has points as well.
    drop(node);
    if matches!(task.plan, Plan::Record) {
        serde_json::to_writer(std::io::stdout(), &points::recorded())?;
    }
    Ok(())
}

fn publish(node: &Node, ledger: &Ledger, cycle: u64) -> Result<(), WorkError> {
    let mut publisher =
        node.publisher::<[u8]>(DYING).block_len(BLOCK_LEN).blocks(FEW_BLOCKS).deadline(DEADLINE).create()?;
    publisher.wait_for_subscribers(2, DEADLINE)?;
    for number in 0..CYCLE {
        let mut loan = match tag(number) {
            Some(tag) => publisher.loan_tagged(len(number), tag)?,
            None => publisher.loan_uninit(len(number))?,
        };
        write(&mut loan, cycle, number);
        loan.send();
        ledger.set(cycle, number + 1);
        match number % 50 {
            // A loan that comes to nothing.
            20 => drop(publisher.loan(100)?),
            // Long enough for subscribers to fall asleep.
            40 => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
    Ok(())
}

fn subscribe(subscriber: &mut Subscriber<[u8]>) -> Result<(), WorkError> {
    let mut kept: Vec<OwnedSample<[u8]>> = Vec::new();
    let mut received = 0;
    while received < CYCLE {
        let Some(sample) = subscriber.receive_timeout(DEADLINE)? else {
            return Err(format!("nothing came after {received} messages").into());
        };
        check(&sample, sample.sequence())?;
        received += 1;
        if received % 9 == 0 {
            kept.push(sample.into_owned()?);
        }
        if kept.len() > 4 {
            for sample in kept.drain(..) {
                check(&sample, sample.sequence())?;
            }
        }
        if received % 60 == 30 {
            // Long enough for the publisher to fill its log, and to wait for room.
            std::thread::sleep(Duration::from_millis(15));
        }
    }
    Ok(())
}

/// Whether a message did not go for want of room.
pub fn is_full(error: &PublishError) -> bool {
    matches!(error, PublishError::Full { .. })
}
