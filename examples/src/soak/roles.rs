//! What each process of a soak does.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nodeset::{Node, NodeBuilder, PublishError, Publisher, ReceiveError, Subscriber};
use nodeset_dispatcher::{Config, Dispatcher, Endpoint, Shutdown};
use serde::{Deserialize, Serialize};

use super::ledger::{Common, Ledger};
use crate::measure::worker::{Finish, Role, WorkError};
use crate::measure::{Budget, Report, fill, monotonic_ns};

/// How long a publisher waits for room before it looks whether it shall end.
const DEADLINE: Duration = Duration::from_millis(100);
/// How long a node waits for a dispatcher that is being killed again and again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long all links of the last publishers may take.
const LINKED: Duration = Duration::from_secs(60);
/// Without a message for so long, a subscriber looks whether it shall end.
const QUIET: Duration = Duration::from_millis(20);
/// How long a subscriber that shall end waits for the ends of its publishers.
const DRAIN: Duration = Duration::from_secs(20);
/// Messages between two looks.
const LOOK: u64 = 512;
/// bytes; entry, time and number come first
const LEAST: usize = 24;
/// The longest delay that is told from longer ones: an hour.
const LONGEST_DELAY_NS: u64 = 3_600_000_000_000;

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum SoakTask {
    /// Runs a standalone dispatcher.
    Dispatcher {
        /// Where.
        socket: PathBuf,
    },
    /// Publishes numbered messages of changing lengths.
    Publisher {
        /// The dispatcher.
        socket: PathBuf,
        /// Where to publish.
        topic: String,
        /// Its entry in the ledger.
        entry: u64,
        /// bytes; the longest message
        longest: usize,
        /// Messages a second.
        rate: u64,
        /// Is ready when so many subscribers are there.
        subscribers: usize,
    },
    /// Receives and checks them.
    Subscriber {
        /// The dispatcher.
        socket: PathBuf,
        /// Where they are published.
        topic: String,
        /// Loses nothing.
        reliable: bool,
        /// Nobody touches it: it says how long messages take.
        measured: Option<Pair>,
    },
}

/// A publisher and a subscriber that nobody touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pair {
    /// On the bus whose other members are killed.
    Beside,
    /// On a bus of its own, on the same machine: what happens to its messages is the machine's doing.
    Apart,
}

/// Makes the role of a worker.
///
/// # Errors
///
/// When the dispatcher, or the node and its publisher or subscriber, cannot be made.
pub fn prepare(task: SoakTask, descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
    let ledger = || {
        let descriptor = descriptors.into_iter().next().ok_or("the ledger is missing; is `ulimit -n` very low?")?;
        Ok::<_, WorkError>(Ledger::open(descriptor)?)
    };
    Ok(match task {
        SoakTask::Dispatcher { socket } => Box::new(Dispatch { _running: Running::start(socket)? }),
        SoakTask::Publisher { socket, topic, entry, longest, rate, subscribers } => {
            let node = connect(&socket, "publisher")?;
            let publisher = node.publisher::<[u8]>(&topic).deadline(DEADLINE).blocks(256).create()?;
            publisher.wait_for_subscribers(subscribers, LINKED)?;
            Box::new(Publish { publisher, ledger: ledger()?, entry, longest, rate, number: 0 })
        }
        SoakTask::Subscriber { socket, topic, reliable, measured } => {
            let node = connect(&socket, "subscriber")?;
            let builder = node.subscriber::<[u8]>(&topic);
            let subscriber = if reliable { builder.reliable() } else { builder }.create()?;
            Box::new(Subscribe {
                subscriber,
                ledger: ledger()?,
                reliable,
                delays: measured.map(Delays::new).transpose()?,
                from: HashMap::new(),
                received: 0,
                missed: 0,
            })
        }
    })
}

fn connect(socket: &PathBuf, name: &str) -> Result<Node, WorkError> {
    let give_up = Instant::now() + CONNECT_TIMEOUT;
    let builder: NodeBuilder = Node::builder(name).socket(socket).reconnect_at_most(Duration::from_millis(50));
    loop {
        match builder.clone().connect() {
            Ok(node) => return Ok(node),
            // It is being killed and started again.
            Err(_) if Instant::now() < give_up => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A dispatcher on a thread: its worker answers its parent meanwhile.
struct Running {
    shutdown: Shutdown,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(socket: PathBuf) -> Result<Running, WorkError> {
        let endpoint = Endpoint::resolve("soak", Some(&socket))?;
        let dispatcher = Dispatcher::bind(Config::at(endpoint))?;
        let shutdown = Shutdown::new();
        let of_thread = shutdown.clone();
        let thread = std::thread::spawn(move || {
            if let Err(error) = dispatcher.run(of_thread) {
                eprintln!("soak: the dispatcher failed: {error}");
                std::process::abort();
            }
        });
        Ok(Running { shutdown, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Dispatch {
    _running: Running,
}

impl Role for Dispatch {
    fn run(&mut self, _budget: Budget, finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        while finish.messages()?.is_none() {
            std::thread::sleep(QUIET);
        }
        Ok(Report { started_ns, ended_ns: monotonic_ns(), ..Report::default() })
    }
}

struct Publish {
    publisher: Publisher<[u8]>,
    ledger: Ledger,
    entry: u64,
    longest: usize,
    rate: u64,
    number: u64,
}

impl Publish {
    fn publish(&mut self) -> Result<(), PublishError> {
        // Most messages are short, a few are longer than a block.
        let mixed = fill::pattern(self.number);
        let room = if mixed % 64 == 0 { self.longest } else { 512.min(self.longest) };
        let len = LEAST + (mixed >> 8) as usize % room;
        let mut loan = self.publisher.loan_uninit(len)?;
        loan[..8].copy_from_slice(&self.entry.to_le_bytes());
        fill::fill(&mut loan[16..], self.number);
        loan[8..16].copy_from_slice(&monotonic_ns().to_le_bytes());
        loan.send();
        self.number += 1;
        self.ledger.set(self.entry, self.number);
        Ok(())
    }
}

impl Role for Publish {
    fn run(&mut self, _budget: Budget, finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        // In bursts, with pauses in which subscribers fall asleep.
        let burst = (self.rate / 50).clamp(1, LOOK);
        let interval = Duration::from_nanos(1_000_000_000 * burst / self.rate);
        let mut due = Instant::now();
        // At least one message each, also by one that is told to end at once: its subscribers wait for it.
        while self.number == 0 || finish.messages()?.is_none() {
            for _ in 0..burst {
                match self.publish() {
                    Ok(()) => {}
                    // Somebody is stopped: look whether to end, then try the same message again.
                    Err(PublishError::Full { .. }) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            due += interval;
            let now = Instant::now();
            match due.checked_duration_since(now) {
                Some(left) => std::thread::sleep(left),
                None => due = now,
            }
        }
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages: self.number, ..Report::default() })
    }
}

/// A message's publisher, when it was sent, and its content.
fn parts(message: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (entry, rest) = message.split_first_chunk()?;
    let (sent, content) = rest.split_first_chunk()?;
    Some((u64::from_le_bytes(*entry), u64::from_le_bytes(*sent), content))
}

/// What was received of one publisher.
struct From {
    /// Of the next message.
    due: u64,
    received: u64,
}

/// How long messages took from publisher to subscriber.
struct Delays {
    pair: Pair,
    calm: Histogram<u64>,
    chaos: Histogram<u64>,
}

impl Delays {
    fn new(pair: Pair) -> Result<Delays, WorkError> {
        let histogram = || Histogram::new_with_bounds(1, LONGEST_DELAY_NS, 3);
        Ok(Delays { pair, calm: histogram()?, chaos: histogram()? })
    }

    /// A message that was sent then has come now.
    fn take(&mut self, sent_ns: u64, ledger: &Ledger) {
        let began = ledger.said(Common::ChaosBegan);
        let histogram = if began == 0 || sent_ns < began { &mut self.calm } else { &mut self.chaos };
        histogram.saturating_record(monotonic_ns().saturating_sub(sent_ns).max(1));
    }

    fn say(&self, ledger: &Ledger) {
        let chaos = self.chaos.value_at_quantile(0.99);
        match self.pair {
            Pair::Beside => {
                ledger.say(Common::CalmP99, self.calm.value_at_quantile(0.99));
                ledger.say(Common::ChaosP99, chaos);
            }
            Pair::Apart => ledger.say(Common::ApartP99, chaos),
        }
    }
}

struct Subscribe {
    subscriber: Subscriber<[u8]>,
    ledger: Ledger,
    reliable: bool,
    delays: Option<Delays>,
    from: HashMap<u64, From>,
    received: u64,
    missed: u64,
}

impl Subscribe {
    /// Takes a message if one comes soon.
    fn take(&mut self) -> Result<bool, WorkError> {
        let sample = match self.subscriber.receive_timeout(QUIET) {
            Ok(Some(sample)) => sample,
            Ok(None) => return Ok(false),
            // It may happen to one that was stopped for long while dispatchers changed; then it is no longer a reliable one
            // that lived on undisturbed.
            Err(error @ ReceiveError::Evicted { .. }) => return Err(error.into()),
            Err(error) => return Err(error.into()),
        };
        let Some((entry, sent, content)) = parts(&sample) else {
            return Err(format!("a message of {} bytes is too short", sample.len()).into());
        };
        if let Some(delays) = &mut self.delays {
            delays.take(sent, &self.ledger);
        }
        let number = sample.sequence();
        if !fill::is_intact(content, number) {
            return Err(format!("message {number} of publisher {entry} is torn or another one").into());
        }
        let missed = sample.missed_before();
        let from = self.from.entry(entry).or_insert(From { due: number - missed, received: 0 });
        if number != from.due + missed {
            let due = from.due;
            return Err(format!("publisher {entry}: message {number} came where {due} was due, {missed} missed").into());
        }
        if self.reliable && missed > 0 {
            return Err(
                format!("publisher {entry}: {missed} messages missed before {number}, by a reliable one").into()
            );
        }
        from.due = number + 1;
        from.received += 1;
        self.received += 1;
        self.missed += missed;
        Ok(true)
    }

    /// Everything is drained: what was committed must be here.
    fn balance(&self) -> Result<(), WorkError> {
        for (&entry, from) in self.from.iter().filter(|_| self.reliable) {
            let committed = self.ledger.committed(entry);
            if from.due < committed {
                let due = from.due;
                return Err(format!("publisher {entry}: it committed {committed}, only those before {due} came").into());
            }
        }
        Ok(())
    }
}

impl Role for Subscribe {
    fn run(&mut self, _budget: Budget, finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut looked = 0;
        let last_publisher = loop {
            let came = self.take()?;
            looked += 1;
            if !came || looked % LOOK == 0 {
                if let Some(entry) = finish.messages()? {
                    break entry;
                }
            }
        };
        // The publishers have ended, one way or another: drain what they left.
        let give_up = Instant::now() + DRAIN;
        while self.take()? || self.subscriber.publishers() > 0 {
            if Instant::now() >= give_up {
                return Err("publishers that ended did not end for this subscriber".into());
            }
        }
        self.balance()?;
        if !self.from.contains_key(&last_publisher) {
            return Err(format!("nothing came from publisher {last_publisher}, the last one of the topic").into());
        }
        if let Some(delays) = &self.delays {
            delays.say(&self.ledger);
        }
        let (messages, missed) = (self.received, self.missed);
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, missed, ..Report::default() })
    }
}
