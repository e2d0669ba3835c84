//! How long a request and its reply take, busy-waiting, beside two plain messages of the same length, there and back, in the same
//! run.
//!
//! Both ends are processes of their own on different cores. Each message has 64 bytes and its number in it, which both sides
//! check. Plain messages and requests take turns; the ratio printed at the end is the median of those turns. The goal is at
//! most 1.15.
//!
//! Also printed: what a client costs before its second request, in time and in memory, with 100 clients of one server.

#![allow(missing_docs, reason = "a program")]

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nodeset::{Client, Node, Publisher, Sample, Server, Subscriber, WaitStrategy};
use nodeset_benches::{Compared, DEADLINE, Outcome, Pair, alternate, bench_medians, criterion_of_pairs};
use nodeset_examples::measure::worker::{self, Finish, Role, WorkError};
use nodeset_examples::measure::{Budget, Clock, Cores, Recorder, Report, Worker, monotonic_ns};
use serde::{Deserialize, Serialize};

/// Round trips at the start of a run that are not counted.
const WARM_UP: u64 = 1000;
/// Clients of one server, to see what they cost.
const CLIENTS: u64 = 100;
/// The message that ends a run.
const END: u64 = u64::MAX;

/// How a message gets there and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    /// A publisher and a subscriber at each end.
    Plain,
    /// A client and a server.
    Request,
}

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    socket: PathBuf,
    way: Way,
    asks: bool,
}

fn main() -> Outcome {
    if worker::is_worker() {
        return worker::work(prepare);
    }
    let instance = format!("bench-{}", std::process::id());
    let node = Node::builder("bench").instance(&instance).embedded().connect()?;
    let endpoint = nodeset::AppOptions { instance, ..nodeset::AppOptions::default() }.endpoint()?;
    let cores = Cores::of_this_process();
    let mut plain = start(endpoint.path(), Way::Plain, cores)?;
    let mut request = start(endpoint.path(), Way::Request, cores)?;
    let mut two_messages = |budget| Ok(2.0 * plain.run(budget)?);
    let mut with_reply = |budget| Ok(2.0 * request.run(budget)?);
    let mut criterion = criterion_of_pairs();
    bench_medians(&mut criterion, "request", "two messages", &mut two_messages)?;
    bench_medians(&mut criterion, "request", "request and reply", &mut with_reply)?;
    criterion.final_summary();

    let Compared { figure, limit, ratio } = alternate(with_reply, two_messages)?;
    println!("request and reply {figure:7.1} ns, two messages {limit:7.1} ns, ratio {ratio:.2}");
    new_clients(&node)?;
    if !cores.are_two() {
        println!("this process has one core: busy waiting measures the scheduler here");
    }
    Ok(())
}

/// Has clients made that ask at once, and says what that took. Nobody is busy here: both ends sleep when they wait.
fn new_clients(node: &Node) -> Outcome {
    node.serve("new/clients", |request: Sample<'_, [u8]>| request.to_vec())?;
    let (running, stop) = (node.clone(), node.stop_handle());
    let running = thread::spawn(move || running.run());
    let before = log_bytes()?;
    let (mut clients, mut made, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let since = Instant::now();
        let mut client = node.client::<[u8], Vec<u8>>("new/clients").create()?;
        made.push(since.elapsed());
        let since = Instant::now();
        if *client.request(&message(number), DEADLINE)? != message(number)[..] {
            return Err("an answer is not what was asked".into());
        }
        asked.push(since.elapsed());
        clients.push(client);
    }
    let (logs, bytes) = log_bytes()?;
    stop.stop();
    running.join().map_err(|_| "the server panicked")??;
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (made, asked) = (median(&mut made), median(&mut asked));
    let (logs, kib) = (logs - before.0, (bytes - before.1) >> 10);
    println!("a new client {made:.1?}, its first request {asked:.1?} (medians of {CLIENTS})");
    println!("{CLIENTS} clients of a server: {logs} logs, {kib} KiB, {} KiB each", kib / logs.max(1));
    Ok(())
}

/// How many logs this process has mapped or may map, and how much memory they take.
fn log_bytes() -> Outcome<(u64, u64)> {
    let (mut logs, mut bytes) = (HashSet::new(), 0);
    for descriptor in fs::read_dir("/proc/self/fd")? {
        let path = descriptor?.path();
        // Some are gone again, the one of this folder at the latest.
        let (Ok(target), Ok(found)) = (fs::read_link(&path), fs::metadata(&path)) else { continue };
        if target.to_string_lossy().contains("memfd:nodeset-log") && logs.insert(found.ino()) {
            bytes += found.blocks() * 512;
        }
    }
    Ok((logs.len() as u64, bytes))
}

/// Both ends of `way`, in processes of their own.
fn start(socket: &Path, way: Way, cores: Cores) -> Outcome<Pair> {
    let task = |asks| Task { socket: socket.to_owned(), way, asks };
    let asks = Worker::start("asks", cores.first, &task(true), &[])?;
    let answers = Worker::start("answers", cores.second, &task(false), &[])?;
    Pair::new(asks, answers)
}

fn prepare(task: Task, _descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
    let Task { socket, way, asks } = task;
    let node = Node::builder(if asks { "asks" } else { "answers" }).socket(socket).connect()?;
    let wait = WaitStrategy::Spin;
    let end = match (way, asks) {
        (Way::Request, true) => {
            let mut client = node.client("request").wait(wait).create()?;
            client.wait_for_servers(1, DEADLINE)?;
            End::Client(client)
        }
        (Way::Request, false) => {
            let mut server = node.server("request").wait(wait).create()?;
            // A server meets its clients while it receives.
            while server.clients() == 0 {
                if server.receive_timeout(Duration::from_millis(1))?.is_some() {
                    return Err("a request came before the first run".into());
                }
            }
            End::Server(server)
        }
        (Way::Plain, _) => {
            let topic = |asks| if asks { "plain/there" } else { "plain/back" };
            let subscriber = node.subscriber(topic(!asks)).reliable().wait(wait).create()?;
            let publisher = node.publisher(topic(asks)).create()?;
            publisher.wait_for_subscribers(1, DEADLINE)?;
            End::Plain(publisher, subscriber)
        }
    };
    Ok(if asks { Box::new(Asks { end, clock: Clock::calibrate() }) } else { Box::new(Answers { end }) })
}

/// Message `number`.
fn message(number: u64) -> [u8; 64] {
    let mut bytes = [number as u8; 64];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The number of a message.
fn check(bytes: &[u8]) -> Result<u64, WorkError> {
    let number = bytes.first_chunk().map(|first| u64::from_le_bytes(*first)).ok_or("a message is too short")?;
    if *bytes == message(number) { Ok(number) } else { Err("a message is not what was sent".into()) }
}

/// One end of either way.
enum End {
    Plain(Publisher<[u8]>, Subscriber<[u8]>),
    Client(Client<[u8], [u8]>),
    Server(Server<[u8], [u8]>),
}

impl End {
    /// There and back.
    fn ask(&mut self, number: u64) -> Result<(), WorkError> {
        let answer = match self {
            End::Plain(publisher, subscriber) => {
                publisher.publish(&message(number))?;
                check(&subscriber.receive()?)?
            }
            End::Client(client) => check(&client.request(&message(number), DEADLINE)?)?,
            End::Server(_) => return Err("a server does not ask".into()),
        };
        if answer == number { Ok(()) } else { Err(format!("{answer} came instead of {number}").into()) }
    }

    /// Answers one message with itself. Says its number.
    fn answer(&mut self) -> Result<u64, WorkError> {
        match self {
            End::Plain(publisher, subscriber) => {
                let number = check(&subscriber.receive()?)?;
                publisher.publish(&message(number))?;
                Ok(number)
            }
            End::Server(server) => {
                let request = server.receive()?;
                let number = check(&request)?;
                request.reply(&message(number))?;
                Ok(number)
            }
            End::Client(_) => Err("a client does not answer".into()),
        }
    }
}

struct Asks {
    end: End,
    clock: Clock,
}

impl Role for Asks {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let Asks { end, clock } = self;
        let mut recorder = Recorder::new(*clock);
        let started_ns = monotonic_ns();
        for number in 0.. {
            if number >= WARM_UP && budget.is_spent(recorder.count(), started_ns) {
                break;
            }
            let sent = clock.ticks();
            end.ask(number)?;
            let ticks = clock.ticks() - sent;
            if number >= WARM_UP {
                recorder.round_trip(ticks);
            }
        }
        end.ask(END)?;
        let messages = recorder.count();
        let latency = recorder.one_way();
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, latency, ..Report::default() })
    }
}

struct Answers {
    end: End,
}

impl Role for Answers {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut messages = 0;
        while self.end.answer()? != END {
            messages += 1;
        }
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() })
    }
}
