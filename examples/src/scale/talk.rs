//! Pairs that talk at a pace, on threads of their own, and notice every pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nodeset::{Publisher, Subscriber};
use serde::{Deserialize, Serialize};

use crate::measure::monotonic_ns;
use crate::measure::worker::WorkError;

/// Without a message for so long, a reader looks whether it shall end.
const QUIET: Duration = Duration::from_millis(20);
/// How long the last messages may take.
const DRAIN: Duration = Duration::from_secs(30);
/// Readers do not know yet how many messages there will be.
const UNKNOWN: u64 = u64::MAX;
/// bytes; the number of the message, and when it was due
const LEN: usize = 16;

/// What was received during some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// messages
    pub messages: u64,
    /// The longest time between two messages of one publisher at one subscriber.
    pub longest_gap_ns: u64,
    /// The longest time from when a message was due to be published to its arrival.
    pub longest_delay_ns: u64,
}

impl Window {
    /// Both together.
    pub fn and(self, other: Window) -> Window {
        Window {
            messages: self.messages + other.messages,
            longest_gap_ns: self.longest_gap_ns.max(other.longest_gap_ns),
            longest_delay_ns: self.longest_delay_ns.max(other.longest_delay_ns),
        }
    }
}

/// The threads of one process.
#[derive(Default)]
pub struct Talk {
    stop: Arc<AtomicBool>,
    publishers: Vec<(usize, JoinHandle<Result<u64, WorkError>>)>,
    readers: Vec<Reader>,
}

struct Reader {
    topic: usize,
    /// How many messages there are.
    goal: Arc<AtomicU64>,
    window: Arc<Mutex<Window>>,
    thread: JoinHandle<Result<u64, WorkError>>,
}

impl Talk {
    /// Receives what is published on a topic.
    pub fn read(&mut self, topic: usize, subscriber: Subscriber<[u8]>) {
        let goal = Arc::new(AtomicU64::new(UNKNOWN));
        let window = Arc::new(Mutex::new(Window::default()));
        let of_thread = (Arc::clone(&goal), Arc::clone(&window));
        let thread = std::thread::spawn(move || read(subscriber, &of_thread.0, &of_thread.1));
        self.readers.push(Reader { topic, goal, window, thread });
    }

    /// Publishes on a topic, `rate` messages a second.
    pub fn publish(&mut self, topic: usize, publisher: Publisher<[u8]>, rate: u32) {
        let stop = Arc::clone(&self.stop);
        let interval = Duration::from_secs(1) / rate.max(1);
        self.publishers.push((topic, std::thread::spawn(move || publish(publisher, interval, &stop))));
    }

    /// What was received since the last call.
    pub fn window(&self) -> Window {
        let windows = self
            .readers
            .iter()
            .map(|reader| std::mem::take(&mut *reader.window.lock().unwrap_or_else(PoisonError::into_inner)));
        windows.fold(Window::default(), Window::and)
    }

    /// Ends publishing; each topic, and how many messages it got.
    ///
    /// # Errors
    ///
    /// Publishing failed.
    pub fn hush(&mut self) -> Result<Vec<(usize, u64)>, WorkError> {
        // Relaxed: it says no more than that.
        self.stop.store(true, Ordering::Relaxed);
        self.publishers.drain(..).map(|(topic, thread)| Ok((topic, joined(thread)?))).collect()
    }

    /// Reads the rest of so many messages of each topic; returns how many were received in all.
    ///
    /// # Errors
    ///
    /// A message was lost, repeated, or did not come.
    pub fn drain(&mut self, published: &[(usize, u64)]) -> Result<u64, WorkError> {
        for reader in &self.readers {
            let count = published.iter().find(|(topic, _)| *topic == reader.topic);
            let (_, count) = count.ok_or_else(|| format!("nobody says how much was published on {}", reader.topic))?;
            // Relaxed: the number is all that is told.
            reader.goal.store(*count, Ordering::Relaxed);
        }
        self.readers.drain(..).map(|reader| joined(reader.thread)).sum()
    }
}

fn joined(thread: JoinHandle<Result<u64, WorkError>>) -> Result<u64, WorkError> {
    thread.join().map_err(|_| "a thread of a talking pair panicked (a bug in this program)")?
}

fn publish(mut publisher: Publisher<[u8]>, interval: Duration, stop: &AtomicBool) -> Result<u64, WorkError> {
    let mut number: u64 = 0;
    let mut due_ns = monotonic_ns();
    // Relaxed: as in `hush`.
    while !stop.load(Ordering::Relaxed) {
        let mut message = [0; LEN];
        message[..8].copy_from_slice(&number.to_le_bytes());
        message[8..].copy_from_slice(&due_ns.to_le_bytes());
        publisher.publish(&message)?;
        number += 1;
        // By the plan, not by when the last one went: a publisher that was held up makes up for it, and it shows.
        due_ns += interval.as_nanos() as u64;
        std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(monotonic_ns())));
    }
    Ok(number)
}

fn read(mut subscriber: Subscriber<[u8]>, goal: &AtomicU64, window: &Mutex<Window>) -> Result<u64, WorkError> {
    let mut received: u64 = 0;
    let mut last_ns = None;
    let mut drained_since: Option<Instant> = None;
    loop {
        // Relaxed: as in `drain`.
        let goal = goal.load(Ordering::Relaxed);
        if received >= goal {
            return Ok(received);
        }
        if goal != UNKNOWN && drained_since.get_or_insert_with(Instant::now).elapsed() > DRAIN {
            let text = format!("{received} of {goal} messages of `{}` came", subscriber.topic());
            return Err(text.into());
        }
        let Some(sample) = subscriber.receive_timeout(QUIET)? else { continue };
        let now_ns = monotonic_ns();
        let (number, due_ns) = numbers(sample.payload())?;
        if number != received {
            let text = format!("message {number} of `{}` came, {received} was due", sample.topic());
            return Err(text.into());
        }
        received += 1;
        let one = Window {
            messages: 1,
            longest_gap_ns: last_ns.map_or(0, |last| now_ns.saturating_sub(last)),
            longest_delay_ns: now_ns.saturating_sub(due_ns),
        };
        last_ns = Some(now_ns);
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        *window = window.and(one);
    }
}

fn numbers(message: &[u8]) -> Result<(u64, u64), WorkError> {
    let message: &[u8; LEN] = message.try_into().map_err(|_| format!("a message of {} bytes", message.len()))?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| message[at + byte]));
    Ok((number(0), number(8)))
}
