//! The chaos: starts everybody, kills and stops at random, starts again, and checks what must hold.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::ledger::{Common, ENTRIES, Ledger};
use super::roles::{Pair, SoakTask};
use crate::measure::{Budget, Worker, WorkerError, monotonic_ns};

/// How long a worker may take to be ready, or to report, once nobody is killed any more.
const SETTLE: Duration = Duration::from_secs(120);
/// How long nobody is killed at first: a tenth of the time, but within these.
const SHORTEST_CALM: Duration = Duration::from_secs(1);
const LONGEST_CALM: Duration = Duration::from_secs(10);
/// The longest time that a process is stopped.
const LONGEST_STOP: Duration = Duration::from_millis(200);

/// What to do to whom.
#[derive(Debug, Clone)]
pub struct Chaos {
    /// How long.
    pub time: Duration,
    /// Publishers, spread over the topics.
    pub publishers: usize,
    /// Subscribers, spread over the topics; every other one is reliable.
    pub subscribers: usize,
    /// How many topics.
    pub topics: usize,
    /// From one kill to the next.
    pub every: Duration,
    /// bytes; the longest message
    pub longest: usize,
    /// Messages a second of each publisher.
    pub rate: u64,
    /// Two runs of one seed pick the same victims.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How long the chaos took.
    pub seconds: f64,
    /// Processes killed.
    pub kills: u64,
    /// Of them, dispatchers.
    pub dispatcher_kills: u64,
    /// Processes stopped for a while.
    pub stops: u64,
    /// Messages received and checked by those who lived to the end.
    pub messages: u64,
    /// Messages that lossy ones of them missed, and counted.
    pub missed: u64,
    /// Of them, by the pair that nobody touched.
    pub untouched_messages: u64,
    /// Of 100 messages of that pair 99 took at most so long, before the first one was killed; nanoseconds.
    pub untouched_calm_p99_ns: u64,
    /// The same, since.
    pub untouched_p99_ns: u64,
    /// The same as the last, of a pair on a bus of its own, at the same time.
    pub apart_p99_ns: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { seconds, kills, dispatcher_kills, stops, messages, missed, .. } = self;
        writeln!(
            f,
            "{seconds:.0} s: {kills} killed ({dispatcher_kills} of them dispatchers), {stops} stopped for a while"
        )?;
        writeln!(
            f,
            "{messages} messages checked by those who lived, {missed} missed by lossy ones and counted exactly"
        )?;
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let ratio = |to: u64| self.untouched_p99_ns as f64 / to.max(1) as f64;
        writeln!(
            f,
            "{} of them by the pair that nobody touched: 99 of 100 within {:.1} us",
            self.untouched_messages,
            microseconds(self.untouched_p99_ns),
        )?;
        let Summary { apart_p99_ns, untouched_calm_p99_ns, .. } = *self;
        writeln!(
            f,
            "  {:.1} us at the same time for a pair on a bus of its own ({:.2}x), {:.1} us before the first kill ({:.2}x)",
            microseconds(apart_p99_ns),
            ratio(apart_p99_ns),
            microseconds(untouched_calm_p99_ns),
            ratio(untouched_calm_p99_ns)
        )?;
        write!(f, "nothing lost, torn, repeated, stuck or left")
    }
}

/// What a process holds of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    /// Mappings of unnamed shared memory.
    mappings: usize,
}

impl Held {
    fn by(pid: u32) -> Held {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count());
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        Held { descriptors, mappings: maps.lines().filter(|line| line.contains("/memfd:")).count() }
    }

    fn exceeds(&self, before: &Held) -> bool {
        self.descriptors > before.descriptors || self.mappings > before.mappings
    }
}

struct Member {
    worker: Worker,
    task: SoakTask,
    stopped_until: Option<Instant>,
}

/// See the module.
pub struct Supervisor {
    chaos: Chaos,
    socket: PathBuf,
    ledger: Ledger,
    next_entry: u64,
    random: u64,
    /// The dispatcher, publishers, subscribers, in this order; then the two that nobody touches.
    members: Vec<Member>,
    /// A bus of its own: its dispatcher, its subscriber, its publisher.
    apart: Vec<Member>,
    summary: Summary,
}

impl Supervisor {
    /// With a dispatcher at that socket.
    ///
    /// # Errors
    ///
    /// When the processes cannot be started.
    pub fn new(chaos: Chaos, socket: PathBuf) -> Result<Supervisor, WorkerError> {
        let random = chaos.seed | 1;
        let mut supervisor = Supervisor {
            chaos,
            socket,
            ledger: Ledger::create()?,
            next_entry: 0,
            random,
            members: Vec::new(),
            apart: Vec::new(),
            summary: Summary::default(),
        };
        let socket = supervisor.socket.clone();
        let socket_apart = socket.with_extension("apart.sock");
        let dispatcher = supervisor.dispatcher(&socket)?;
        supervisor.members.push(dispatcher);
        let dispatcher = supervisor.dispatcher(&socket_apart)?;
        supervisor.apart.push(dispatcher);
        let Chaos { publishers, subscribers, topics, longest, rate, .. } = supervisor.chaos;
        let subscriber = |socket: &PathBuf, topic, reliable, measured| SoakTask::Subscriber {
            socket: socket.clone(),
            topic: topic_name(topic),
            reliable,
            measured,
        };
        let publisher = |socket: &PathBuf, topic| SoakTask::Publisher {
            socket: socket.clone(),
            topic: topic_name(topic),
            entry: 0,
            longest,
            rate,
            subscribers: 0,
        };
        for at in 0..publishers {
            supervisor.add(publisher(&socket, at % topics))?;
        }
        for at in 0..subscribers {
            supervisor.add(subscriber(&socket, at % topics, at / topics % 2 == 0, None))?;
        }
        supervisor.add(subscriber(&socket, topics, true, Some(Pair::Beside)))?;
        supervisor.add(publisher(&socket, topics))?;
        for task in [subscriber(&socket_apart, topics, true, Some(Pair::Apart)), publisher(&socket_apart, topics)] {
            let member = supervisor.start(task)?;
            supervisor.apart.push(member);
        }
        for member in supervisor.members.iter_mut().chain(&mut supervisor.apart) {
            member.worker.await_checked(SETTLE)?;
        }
        Ok(supervisor)
    }

    /// Starts a dispatcher, and waits until it is ready.
    fn dispatcher(&mut self, socket: &Path) -> Result<Member, WorkerError> {
        let mut member = self.start(SoakTask::Dispatcher { socket: socket.to_owned() })?;
        member.worker.await_checked(SETTLE)?;
        Ok(member)
    }

    fn add(&mut self, task: SoakTask) -> Result<(), WorkerError> {
        let member = self.start(task)?;
        self.members.push(member);
        Ok(())
    }

    /// Starts a process; it goes to work as soon as it can.
    fn start(&mut self, mut task: SoakTask) -> Result<Member, WorkerError> {
        let name = match &mut task {
            SoakTask::Dispatcher { .. } => "dispatcher".to_owned(),
            SoakTask::Publisher { topic, entry, .. } => {
                *entry = self.next_entry % ENTRIES;
                self.next_entry += 1;
                // The entry may be a dead one's, after very many.
                self.ledger.set(*entry, 0);
                format!("publisher {entry} of {topic}")
            }
            SoakTask::Subscriber { topic, reliable, .. } => {
                format!("{} subscriber of {topic}", if *reliable { "reliable" } else { "lossy" })
            }
        };
        let mut worker = Worker::start(&name, None, &task, &[self.ledger.fd().as_fd()])?;
        worker.run(Budget::Messages(u64::MAX))?;
        Ok(Member { worker, task, stopped_until: None })
    }

    /// Lets it happen, then checks.
    ///
    /// # Errors
    ///
    /// The first thing that did not hold, in words.
    pub fn run(mut self, mut progress: impl FnMut(&Summary)) -> Result<Summary, WorkerError> {
        let untouched = self.members.len() - 2;
        let before = self.held(untouched);
        // What it is like while nobody is killed.
        std::thread::sleep((self.chaos.time / 10).clamp(SHORTEST_CALM, LONGEST_CALM));
        self.ledger.say(Common::ChaosBegan, monotonic_ns());
        let started = Instant::now();
        let mut due = started;
        while started.elapsed() < self.chaos.time {
            due += self.chaos.every;
            self.go_on(due);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.strike(untouched)?;
            self.summary.seconds = started.elapsed().as_secs_f64();
            progress(&self.summary);
        }
        self.settle(untouched)?;
        let after = self.held(untouched - self.chaos.publishers);
        if before.iter().zip(&after).any(|(before, after)| after.exceeds(before)) {
            return Err(failed(format!(
                "the pair that nobody touched held {before:?} and holds {after:?} now: not all was given back"
            )));
        }
        self.finish(untouched)?;
        self.finish_apart()?;
        Ok(self.summary)
    }

    /// What the pair that nobody touches holds.
    fn held(&self, at: usize) -> Vec<Held> {
        self.members[at..at + 2].iter().map(|member| Held::by(member.worker.pid())).collect()
    }

    /// Kills or stops somebody.
    fn strike(&mut self, untouched: usize) -> Result<(), WorkerError> {
        // A tenth of all strikes are the dispatcher's.
        let victim = if self.draw(10) == 0 { 0 } else { 1 + self.draw(untouched as u64 - 1) as usize };
        self.members[victim].worker.check()?;
        if self.draw(5) == 0 {
            let for_millis = 1 + self.draw(LONGEST_STOP.as_millis() as u64);
            let member = &mut self.members[victim];
            signal(member, Signal::STOP);
            member.stopped_until = Some(Instant::now() + Duration::from_millis(for_millis));
            self.summary.stops += 1;
            return Ok(());
        }
        let task = self.members[victim].task.clone();
        // Killed and waited for, before its successor starts: the place of a dispatcher is free then.
        self.members.remove(victim);
        let successor = self.start(task)?;
        self.members.insert(victim, successor);
        self.summary.kills += 1;
        self.summary.dispatcher_kills += u64::from(victim == 0);
        Ok(())
    }

    /// Whoever is stopped goes on when its time has come.
    fn go_on(&mut self, now: Instant) {
        for member in &mut self.members {
            if member.stopped_until.is_some_and(|until| until <= now) {
                member.stopped_until = None;
                signal(member, Signal::CONT);
            }
        }
    }

    /// Nobody is killed any more: everybody gets ready, the publishers end, and each topic gets a last one that finds all its
    /// subscribers.
    fn settle(&mut self, untouched: usize) -> Result<(), WorkerError> {
        self.go_on(Instant::now() + LONGEST_STOP * 2);
        for member in &mut self.members {
            member.worker.await_checked(SETTLE)?;
        }
        let last = 1 + self.chaos.publishers;
        let mut publishers: Vec<_> = self.members[1..last].iter_mut().map(|member| &mut member.worker).collect();
        for publisher in &mut publishers {
            publisher.finish(0)?;
        }
        Worker::reports(&mut publishers, SETTLE)?;
        self.members.drain(1..last);
        let untouched = untouched - self.chaos.publishers;
        for topic in 0..self.chaos.topics {
            let subscribers = self.members[1..untouched]
                .iter()
                .filter(
                    |member| matches!(&member.task, SoakTask::Subscriber { topic: it, .. } if *it == topic_name(topic)),
                )
                .count();
            let task = SoakTask::Publisher {
                socket: self.socket.clone(),
                topic: topic_name(topic),
                entry: 0,
                longest: self.chaos.longest,
                rate: self.chaos.rate,
                subscribers,
            };
            let mut member = self.start(task)?;
            // Ready when everybody is linked to it.
            member.worker.await_checked(SETTLE)?;
            self.members.push(member);
        }
        Ok(())
    }

    /// Everybody ends, and says what it saw.
    fn finish(&mut self, untouched: usize) -> Result<(), WorkerError> {
        let untouched = untouched - self.chaos.publishers;
        let mut ends = vec![0; self.chaos.topics + 1];
        // The untouched one, then those of `settle`.
        for member in &mut self.members[untouched + 1..] {
            let SoakTask::Publisher { topic, entry, .. } = &member.task else { continue };
            let topic = (0..ends.len()).find(|&at| topic_name(at) == *topic).expect("it has a name of ours");
            ends[topic] = *entry;
            member.worker.finish(0)?;
        }
        let mut publishers: Vec<_> =
            self.members[untouched + 1..].iter_mut().map(|member| &mut member.worker).collect();
        Worker::reports(&mut publishers, SETTLE)?;
        self.members.truncate(untouched + 1);
        for member in &mut self.members[1..] {
            let SoakTask::Subscriber { topic, .. } = &member.task else { continue };
            let topic = (0..ends.len()).find(|&at| topic_name(at) == *topic).expect("it has a name of ours");
            member.worker.finish(ends[topic])?;
        }
        let mut subscribers: Vec<_> = self.members[1..].iter_mut().map(|member| &mut member.worker).collect();
        let reports = Worker::reports(&mut subscribers, SETTLE)?;
        for report in &reports {
            self.summary.messages += report.messages;
            self.summary.missed += report.missed;
        }
        self.summary.untouched_calm_p99_ns = self.ledger.said(Common::CalmP99);
        self.summary.untouched_p99_ns = self.ledger.said(Common::ChaosP99);
        self.summary.untouched_messages = reports.last().map_or(0, |report| report.messages);
        Ok(())
    }

    /// The pair on a bus of its own ends as well.
    fn finish_apart(&mut self) -> Result<(), WorkerError> {
        let mut publisher = self.apart.pop().expect("a bus has a publisher");
        let SoakTask::Publisher { entry, .. } = publisher.task else { unreachable!("it is started last") };
        publisher.worker.finish(0)?;
        Worker::reports(&mut [&mut publisher.worker], SETTLE)?;
        drop(publisher);
        let mut subscriber = self.apart.pop().expect("a bus has a subscriber");
        subscriber.worker.finish(entry)?;
        Worker::reports(&mut [&mut subscriber.worker], SETTLE)?;
        self.summary.apart_p99_ns = self.ledger.said(Common::ApartP99);
        Ok(())
    }

    /// A number below `limit` (xorshift64, Marsaglia 2003).
    fn draw(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit.max(1)
    }
}

fn topic_name(topic: usize) -> String {
    format!("soak/{topic}")
}

fn signal(member: &Member, signal: Signal) {
    if let Some(pid) = i32::try_from(member.worker.pid()).ok().and_then(Pid::from_raw) {
        // It may have died by itself: then its worker says so.
        let _ = kill_process(pid, signal);
    }
}

fn failed(text: String) -> WorkerError {
    WorkerError::Failed { name: "soak".to_owned(), text }
}
