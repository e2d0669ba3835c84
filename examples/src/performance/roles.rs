//! What each process of a measurement does: a node with a publisher, subscribers, or both.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nodeset::{Node, Publisher, Sample, Subscriber, WaitStrategy};
use serde::{Deserialize, Serialize};

use super::message::{Long, Payload, Short};
use crate::measure::wakeup::pause;
use crate::measure::worker::{Finish, Role, WorkError};
use crate::measure::{Budget, Clock, LimitTask, Recorder, Report, monotonic_ns};

/// How long links may take on a machine that is busy with other things.
const LINK_DEADLINE: Duration = Duration::from_secs(20);
/// Round trips at the start of a run that are not counted.
const WARM_UP: u64 = 200;
/// Messages between two looks at the clock, or at another subscription.
const BATCH: u64 = 256;
/// How long a publisher may wait for its readers: as long as the parent waits for a run.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(60);

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// One end of a limit.
    Limit(LimitTask),
    /// A node.
    Node(NodeTask),
}

/// What a node does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeTask {
    /// The dispatcher.
    pub socket: PathBuf,
    /// Topics begin with it, so that no two measurements meet.
    pub prefix: String,
    /// bytes of a message
    pub size: usize,
    /// Typed messages, or bytes.
    pub typed: bool,
    /// Which end.
    pub part: Part,
}

/// Which end of a measurement a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Sends, waits for the answer, takes the time. Asleep while it waits, or looking all the time.
    Ping {
        /// Asleep.
        asleep: bool,
    },
    /// Answers.
    Echo {
        /// Asleep.
        asleep: bool,
    },
    /// Publishes as fast as it can.
    Writer {
        /// Waits for so many subscribers before it is ready.
        subscribers: usize,
    },
    /// Receives and checks everything, reliably.
    Reader,
    /// Receives and checks what it does not lose, on so many lossy subscriptions.
    Readers {
        /// How many.
        subscriptions: usize,
    },
    /// Holds so many subscriptions and never reads.
    Idle {
        /// How many.
        subscriptions: usize,
    },
}

/// Makes the role of a worker.
///
/// # Errors
///
/// When the node, its publishers or subscribers cannot be made.
pub fn prepare(task: Task, descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
    match task {
        Task::Limit(limit) => limit.prepare(descriptors),
        Task::Node(task) if !task.typed => node::<[u8]>(&task),
        Task::Node(task) if Short::draft(task.size).is_some() => node::<Short>(&task),
        Task::Node(task) => node::<Long>(&task),
    }
}

fn node<T: Payload + ?Sized + 'static>(task: &NodeTask) -> Result<Box<dyn Role>, WorkError>
where
    T::Draft: 'static,
{
    let name = match task.part {
        Part::Ping { .. } => "ping",
        Part::Echo { .. } => "echo",
        Part::Writer { .. } => "writer",
        Part::Reader => "reader",
        Part::Readers { .. } => "readers",
        Part::Idle { .. } => "idle",
    };
    let node = Node::builder(name).socket(&task.socket).connect_timeout(LINK_DEADLINE).connect()?;
    let topic = |name: &str| format!("{}/{name}", task.prefix);
    let draft = T::draft(task.size).ok_or_else(|| format!("no typed message has {} bytes", task.size))?;
    let publisher = |name| node.publisher::<T>(topic(name)).deadline(PUBLISH_DEADLINE).create();
    let subscriber = |name, reliable, wait| {
        let builder = node.subscriber::<T>(topic(name)).wait(wait);
        if reliable { builder.reliable() } else { builder }.create()
    };
    let strategy = |asleep| if asleep { WaitStrategy::Block } else { WaitStrategy::Spin };
    Ok(match task.part {
        Part::Ping { asleep } => {
            let publisher = publisher("ping")?;
            let subscriber = subscriber("pong", true, strategy(asleep))?;
            publisher.wait_for_subscribers(1, LINK_DEADLINE)?;
            Box::new(Ping { publisher, subscriber, draft, asleep, clock: Clock::calibrate() })
        }
        Part::Echo { asleep } => {
            let subscriber = subscriber("ping", true, strategy(asleep))?;
            let publisher = publisher("pong")?;
            publisher.wait_for_subscribers(1, LINK_DEADLINE)?;
            Box::new(Echo { publisher, subscriber, draft })
        }
        Part::Writer { subscribers } => {
            let publisher = publisher("stream")?;
            publisher.wait_for_subscribers(subscribers, LINK_DEADLINE)?;
            Box::new(Writer { publisher, draft, size: task.size })
        }
        Part::Reader => {
            let subscriber = subscriber("stream", true, WaitStrategy::Spin)?;
            Box::new(Reader { subscriber, size: task.size })
        }
        Part::Readers { subscriptions } => {
            let subscribers: Result<Vec<_>, _> =
                (0..subscriptions).map(|_| subscriber("stream", false, WaitStrategy::Yield)).collect();
            Box::new(Readers { subscribers: subscribers?, size: task.size })
        }
        Part::Idle { subscriptions } => {
            let held: Result<Vec<_>, _> =
                (0..subscriptions).map(|_| subscriber("stream", false, WaitStrategy::Block)).collect();
            Box::new(Idle { _held: held? })
        }
    })
}

struct Ping<T: Payload + ?Sized> {
    publisher: Publisher<T>,
    subscriber: Subscriber<T>,
    draft: T::Draft,
    asleep: bool,
    clock: Clock,
}

impl<T: Payload + ?Sized> Ping<T> {
    fn round_trip(&mut self, number: u64) -> Result<u64, WorkError> {
        if self.asleep {
            pause(self.clock);
        }
        let sent = self.clock.ticks();
        T::publish(&mut self.publisher, &mut self.draft, number)?;
        let answer = self.subscriber.receive()?;
        let ticks = self.clock.ticks() - sent;
        if T::is_intact(&answer, number) { Ok(ticks) } else { Err(damaged(number)) }
    }
}

fn damaged(number: u64) -> WorkError {
    format!("message {number} arrived damaged or out of order").into()
}

impl<T: Payload + ?Sized> Role for Ping<T> {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let warm_up = if self.asleep { 10 } else { WARM_UP };
        let mut recorder = Recorder::new(self.clock);
        for number in 0..warm_up {
            self.round_trip(number)?;
        }
        let started_ns = monotonic_ns();
        while !budget.is_spent(recorder.count(), started_ns) {
            let ticks = self.round_trip(warm_up + recorder.count())?;
            recorder.round_trip(ticks);
        }
        let ended_ns = monotonic_ns();
        T::publish_end(&mut self.publisher)?;
        let messages = recorder.count();
        Ok(Report { started_ns, ended_ns, messages, latency: recorder.one_way(), ..Report::default() })
    }
}

struct Echo<T: Payload + ?Sized> {
    publisher: Publisher<T>,
    subscriber: Subscriber<T>,
    draft: T::Draft,
}

impl<T: Payload + ?Sized> Role for Echo<T> {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut messages = 0;
        loop {
            let sample = self.subscriber.receive()?;
            if T::is_end(&sample) {
                return Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() });
            }
            // Checked while the answer is on its way.
            T::publish(&mut self.publisher, &mut self.draft, messages)?;
            if !T::is_intact(&sample, messages) {
                return Err(damaged(messages));
            }
            messages += 1;
        }
    }
}

struct Writer<T: Payload + ?Sized> {
    publisher: Publisher<T>,
    draft: T::Draft,
    size: usize,
}

impl<T: Payload + ?Sized> Role for Writer<T> {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        // Of long messages fewer lie between two looks at the clock.
        let batch = (BATCH * 64 / self.size as u64).clamp(1, BATCH);
        let started_ns = monotonic_ns();
        let mut messages = 0;
        while !budget.is_spent(messages, started_ns) {
            let batch = if let Budget::Messages(limit) = budget { batch.min(limit - messages) } else { batch };
            for _ in 0..batch {
                T::publish(&mut self.publisher, &mut self.draft, messages)?;
                messages += 1;
            }
        }
        let ended_ns = monotonic_ns();
        T::publish_end(&mut self.publisher)?;
        Ok(Report { started_ns, ended_ns, messages, bytes: messages * self.size as u64, ..Report::default() })
    }
}

/// What a subscriber has seen in a run.
#[derive(Default)]
struct Seen {
    /// Number of the next message.
    due: u64,
    messages: u64,
    missed: u64,
}

impl Seen {
    /// Checks a message; says whether it was the run's last.
    #[inline(always)]
    fn check<T: Payload + ?Sized>(&mut self, sample: &Sample<'_, T>) -> Result<bool, WorkError> {
        self.due += sample.missed_before();
        self.missed += sample.missed_before();
        if T::is_end(sample) {
            return Ok(true);
        }
        if !T::is_intact(sample, self.due) {
            return Err(damaged(self.due));
        }
        self.due += 1;
        self.messages += 1;
        Ok(false)
    }
}

struct Reader<T: Payload + ?Sized> {
    subscriber: Subscriber<T>,
    size: usize,
}

impl<T: Payload + ?Sized> Role for Reader<T> {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut seen = Seen::default();
        while !seen.check(&self.subscriber.receive()?)? {}
        let ended_ns = monotonic_ns();
        let Seen { messages, missed, .. } = seen;
        if missed > 0 {
            return Err(format!("a reliable subscriber missed {missed} messages").into());
        }
        Ok(Report { started_ns, ended_ns, messages, bytes: messages * self.size as u64, ..Report::default() })
    }
}

struct Readers<T: Payload + ?Sized> {
    subscribers: Vec<Subscriber<T>>,
    size: usize,
}

impl<T: Payload + ?Sized> Role for Readers<T> {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut reading: Vec<_> = self.subscribers.iter_mut().map(|it| (it, Seen::default())).collect();
        let (mut messages, mut missed) = (0, 0);
        while !reading.is_empty() {
            let mut found = false;
            let mut at = 0;
            // Each in its turn, several messages at a time.
            while let Some((subscriber, seen)) = reading.get_mut(at) {
                let mut ended = false;
                for _ in 0..BATCH {
                    let Some(sample) = subscriber.try_receive()? else { break };
                    found = true;
                    ended = seen.check(&sample)?;
                    if ended {
                        break;
                    }
                }
                if ended {
                    messages += seen.messages;
                    missed += seen.missed;
                    reading.swap_remove(at);
                } else {
                    at += 1;
                }
            }
            if !found {
                // They share a core.
                std::thread::yield_now();
            }
        }
        let ended_ns = monotonic_ns();
        Ok(Report { started_ns, ended_ns, messages, bytes: messages * self.size as u64, missed, ..Report::default() })
    }
}

struct Idle<T: Payload + ?Sized> {
    _held: Vec<Subscriber<T>>,
}

impl<T: Payload + ?Sized> Role for Idle<T> {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let now = monotonic_ns();
        Ok(Report { started_ns: now, ended_ns: now, ..Report::default() })
    }
}
