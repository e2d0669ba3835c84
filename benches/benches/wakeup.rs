//! How long it takes to wake whoever waits for a message, by each way to wait, beside the shortest way there is: eventfd and
//! epoll, back and forth, in the same run.
//!
//! Both ends are processes of their own on different cores. Before each round trip the first one is busy for a while, so that
//! the other one sleeps for certain. Raw and NodeSet's wake-ups take turns; the ratios printed at the end are medians of
//! those turns. The goal is at most 1.3 for a task.

#![allow(missing_docs, reason = "a program")]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nodeset::wait_set::Key;
use nodeset::{Node, Publisher, Subscriber, WaitSet};
use nodeset_benches::{Compared, DEADLINE, Outcome, Pair, alternate, bench_medians, criterion_of_pairs};
use nodeset_examples::measure::wakeup::pause;
use nodeset_examples::measure::worker::{self, Finish, Role, WorkError};
use nodeset_examples::measure::{
    Budget, Clock, Cores, Limit, LimitPair, LimitTask, Recorder, Report, Worker, monotonic_ns,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

/// Round trips at the start of a run that are not counted.
const WARM_UP: u64 = 10;
/// The message that ends a run.
const END: u64 = u64::MAX;

/// How both ends wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    /// A thread in `receive`.
    Thread,
    /// A task in `receive_async`, in a runtime of one thread.
    Task,
    /// A thread in a wait set.
    Set,
}

impl Way {
    const ALL: [Way; 3] = [Way::Thread, Way::Task, Way::Set];

    fn word(self) -> &'static str {
        match self {
            Way::Thread => "receive",
            Way::Task => "receive_async",
            Way::Set => "wait_set",
        }
    }
}

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    Limit(LimitTask),
    Node { socket: PathBuf, way: Way, pings: bool },
}

fn main() -> Outcome {
    if worker::is_worker() {
        return worker::work(prepare);
    }
    let instance = format!("bench-{}", std::process::id());
    let _node = Node::builder("bench").instance(&instance).embedded().connect()?;
    let endpoint = nodeset::AppOptions { instance, ..nodeset::AppOptions::default() }.endpoint()?;
    let cores = Cores::of_this_process();
    let mut limit = LimitPair::start(Limit::Wakeup, cores, Task::Limit)?;
    let mut raw = |budget| Ok(limit.run(budget, DEADLINE)?.headline());
    let mut pairs = Vec::new();
    for way in Way::ALL {
        pairs.push((way.word(), start(endpoint.path(), way, cores)?));
    }
    let mut criterion = criterion_of_pairs();
    bench_medians(&mut criterion, "wakeup", "eventfd and epoll", &mut raw)?;
    for (word, pair) in &mut pairs {
        bench_medians(&mut criterion, "wakeup", word, |budget| pair.run(budget))?;
    }
    criterion.final_summary();

    for (word, pair) in &mut pairs {
        let Compared { figure, limit, ratio } = alternate(|budget| pair.run(budget), &mut raw)?;
        let [figure, raw] = [figure, limit].map(|ns| ns / 1000.0);
        println!("wakeup {word:<14} {figure:6.2} us, raw {raw:6.2} us, ratio {ratio:.2}");
    }
    Ok(())
}

/// Two nodes that wake each other.
fn start(socket: &Path, way: Way, cores: Cores) -> Outcome<Pair> {
    let task = |pings| Task::Node { socket: socket.to_owned(), way, pings };
    let ping = Worker::start("ping", cores.first, &task(true), &[])?;
    let echo = Worker::start("echo", cores.second, &task(false), &[])?;
    Pair::new(ping, echo)
}

fn prepare(task: Task, descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
    let (socket, way, pings) = match task {
        Task::Limit(limit) => return limit.prepare(descriptors),
        Task::Node { socket, way, pings } => (socket, way, pings),
    };
    let node = Node::builder(if pings { "ping" } else { "echo" }).socket(socket).connect()?;
    let topic = |pings: bool| format!("{}/{}", way.word(), if pings { "ping" } else { "echo" });
    let subscriber = node.subscriber::<u64>(topic(!pings)).reliable().create()?;
    let publisher = node.publisher::<u64>(topic(pings)).create()?;
    publisher.wait_for_subscribers(1, DEADLINE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let receiver = match way {
        Way::Thread => Receiver::Thread(subscriber),
        Way::Task => Receiver::Task(subscriber),
        Way::Set => {
            let mut set = WaitSet::new()?;
            let key = set.attach(subscriber)?;
            Receiver::Set(set, key)
        }
    };
    let end = End { publisher, receiver, runtime };
    Ok(if pings { Box::new(Ping { end, clock: Clock::calibrate() }) } else { Box::new(Echo { end }) })
}

/// What both have.
struct End {
    publisher: Publisher<u64>,
    receiver: Receiver,
    runtime: Runtime,
}

/// A subscriber, waited for in one of the ways.
enum Receiver {
    Thread(Subscriber<u64>),
    Task(Subscriber<u64>),
    Set(WaitSet, Key<Subscriber<u64>>),
}

impl Receiver {
    async fn receive(&mut self) -> Result<u64, WorkError> {
        Ok(match self {
            Receiver::Thread(subscriber) => subscriber.receive()?.to_native(),
            Receiver::Task(subscriber) => subscriber.receive_async().await?.to_native(),
            Receiver::Set(set, key) => loop {
                if let Some(number) = set[*key].try_receive()? {
                    break number.to_native();
                }
                set.wait()?;
            },
        })
    }
}

struct Ping {
    end: End,
    clock: Clock,
}

impl Role for Ping {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let Ping { end: End { publisher, receiver, runtime }, clock } = self;
        let mut recorder = Recorder::new(*clock);
        let started_ns = monotonic_ns();
        runtime.block_on(async {
            for number in 0.. {
                if number >= WARM_UP && budget.is_spent(recorder.count(), started_ns) {
                    break;
                }
                pause(*clock);
                let sent = clock.ticks();
                publisher.publish(&number)?;
                let answer = receiver.receive().await?;
                let ticks = clock.ticks() - sent;
                if answer != number {
                    return Err(format!("{answer} came instead of {number}").into());
                }
                if number >= WARM_UP {
                    recorder.round_trip(ticks);
                }
            }
            publisher.publish(&END)?;
            Ok::<_, WorkError>(())
        })?;
        let messages = recorder.count();
        let latency = recorder.one_way();
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, latency, ..Report::default() })
    }
}

struct Echo {
    end: End,
}

impl Role for Echo {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let End { publisher, receiver, runtime } = &mut self.end;
        let started_ns = monotonic_ns();
        let messages = runtime.block_on(async {
            for messages in 0.. {
                let number = receiver.receive().await?;
                if number == END {
                    return Ok(messages);
                }
                publisher.publish(&number)?;
            }
            Err::<u64, WorkError>("the run never ended".into())
        })?;
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() })
    }
}
