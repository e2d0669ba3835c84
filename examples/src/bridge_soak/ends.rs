//! The publisher, and the subscriber that checks every message.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use nodeset::{Node, Publisher, ReceiveError, Subscriber};

use super::PATIENCE;
use crate::measure::fill::{fill, is_intact, sequence};
use crate::measure::worker::WorkError;

const TOPIC: &str = "numbers";
/// Between messages behind the last one that counts.
const FURTHER: Duration = Duration::from_millis(10);

/// What came that should not have, and what did not come.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) lost: u64,
    /// Of which the subscriber was told so many.
    pub(super) told: u64,
    pub(super) repeated: u64,
    pub(super) damaged: u64,
    /// Between two messages.
    pub(super) longest: Duration,
}

pub(super) fn publisher(socket: PathBuf) -> Result<Publisher<[u8]>, WorkError> {
    let node = Node::builder("writer").socket(socket).connect()?;
    let publisher = node.publisher(TOPIC).deadline(PATIENCE).create()?;
    publisher.wait_for_subscribers(1, PATIENCE)?;
    Ok(publisher)
}

pub(super) fn subscriber(socket: PathBuf) -> Result<Subscriber<[u8]>, WorkError> {
    let node = Node::builder("reader").socket(socket).connect()?;
    Ok(node.subscriber(TOPIC).reliable_across_hosts(PATIENCE).create()?)
}

/// Publishes them, and then further ones, by which the subscriber learns what it lost of them, until `done` hangs up.
pub(super) fn publish(
    mut publisher: Publisher<[u8]>,
    messages: u64,
    size: usize,
    done: &Receiver<()>,
) -> Result<(), WorkError> {
    let mut message = vec![0; size];
    for number in 0.. {
        if number >= messages && done.recv_timeout(FURTHER) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        fill(&mut message, number);
        publisher.publish(&message)?;
    }
    Ok(())
}

/// Receives until the last one, and says every so often how many came.
pub(super) fn check(
    mut subscriber: Subscriber<[u8]>,
    messages: u64,
    every: u64,
    progress: &Sender<u64>,
) -> Result<Count, WorkError> {
    let (mut count, mut next) = (Count::default(), 0);
    let mut last = Instant::now();
    while next < messages {
        let sample = match subscriber.receive_timeout(PATIENCE) {
            Ok(Some(sample)) => sample,
            Ok(None) => return Err(format!("nothing came after message {next}").into()),
            Err(ReceiveError::Wait(error)) => return Err(error.into()),
            // Of one link: another one follows.
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        let now = Instant::now();
        count.longest = count.longest.max(now - last);
        last = now;
        count.told += sample.missed_before();
        let number = sequence(&sample);
        if !is_intact(&sample, number) {
            count.damaged += 1;
            continue;
        }
        if number < next {
            count.repeated += 1;
            continue;
        }
        count.lost += number - next;
        let before = next / every;
        next = number + 1;
        if next / every > before {
            progress.send(next.min(messages))?;
        }
    }
    Ok(count)
}
