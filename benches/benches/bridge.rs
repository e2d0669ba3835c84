//! The whole way between two hosts, beside a raw TCP socket over the same loopback in the same run: publisher node, dispatcher a,
//! TCP, dispatcher b, subscriber node, each a process of its own.
//!
//! - `throughput`: messages that no other host may miss (`reliable_across_hosts`), their order and every byte checked, beside raw
//!   writes of 64 KiB. The goals are 0.35 of its bytes with 64 bytes a message, 0.6 with 1 KiB, 0.7 with 64 KiB and 1 MiB.
//! - `latency`: 64 bytes there and back, everybody asleep before each, beside a raw blocking socket there and back plus four raw
//!   wake-ups. The goal is at most 1.25.
//!
//! Both sides take turns; the ratios are medians.

#![allow(missing_docs, reason = "a program")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use nodeset::{Node, Publisher, Subscriber};
use nodeset_benches::{
    Compared, DEADLINE, Outcome, Pair, alternate, bench_medians, criterion_of_pairs, is_quick, median,
};
use nodeset_dispatcher::cli::Program;
use nodeset_dispatcher::{Dispatcher, Shutdown};
use nodeset_examples::measure::fill::{fill, is_intact};
use nodeset_examples::measure::wakeup::pause;
use nodeset_examples::measure::worker::{self, Finish, Role, WorkError};
use nodeset_examples::measure::{
    Budget, Clock, Cores, Limit, LimitPair, LimitTask, Recorder, Report, Worker, monotonic_ns,
};
use serde::{Deserialize, Serialize};

/// bytes of the messages, and the part of a raw socket's throughput that is the goal
const SIZES: [(usize, f64); 4] = [(64, 0.35), (1 << 10, 0.6), (64 << 10, 0.7), (1 << 20, 0.7)];
/// bytes of a raw write
const CHUNK: usize = 64 << 10;
/// Turns of a size; a turn of each side takes so long.
const TURNS: usize = 7;
const TURN: Duration = Duration::from_millis(500);
/// Round trips at the start of a run that are not counted.
const WARM_UP: u64 = 10;
/// A message that ends a run; no other one is as short.
const END: [u8; 1] = [0];

/// What a worker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Task {
    Limit(LimitTask),
    /// A dispatcher with those options.
    Host(Vec<String>),
    Publish {
        socket: PathBuf,
        size: usize,
    },
    Subscribe {
        socket: PathBuf,
        size: usize,
    },
    Echo {
        socket: PathBuf,
        asks: bool,
    },
    Raw {
        address: SocketAddr,
        asks: bool,
    },
}

fn main() -> Outcome {
    if worker::is_worker() {
        return worker::work(prepare);
    }
    let place = tempfile::tempdir()?;
    let hosts = Hosts::start(place.path())?;
    for (size, goal) in SIZES {
        throughput(&hosts, size, goal)?;
    }
    latency(&hosts)
}

/// Two dispatchers with a bridge between them.
struct Hosts {
    sockets: [PathBuf; 2],
    _workers: [Worker; 2],
}

impl Hosts {
    fn start(place: &Path) -> Outcome<Hosts> {
        let address = free_address()?.to_string();
        let sockets = ["a", "b"].map(|name| place.join(format!("{name}.sock")));
        let start = |name: &str, socket: &Path, bridge: [String; 4]| -> Outcome<Worker> {
            let socket = socket.display().to_string();
            let options = ["--host-name", name, "--socket", &socket].map(str::to_owned).into_iter().chain(bridge);
            Ok(Worker::start(name, None, &Task::Host(options.collect()), &[])?)
        };
        let a = ["--listen", &address, "--peer", "b"].map(str::to_owned);
        let b = ["--peer", &format!("a={address}"), "--log-level", "warn"].map(str::to_owned);
        let (mut a, mut b) = (start("a", &sockets[0], a)?, start("b", &sockets[1], b)?);
        Worker::await_all_ready(&mut [&mut a, &mut b], DEADLINE)?;
        Ok(Hosts { sockets, _workers: [a, b] })
    }
}

/// Nobody listens there, at least for now.
fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

fn throughput(hosts: &Hosts, size: usize, goal: f64) -> Outcome {
    let [a, b] = hosts.sockets.clone();
    let mut subscribe = Worker::start("subscribe", None, &Task::Subscribe { socket: b, size }, &[])?;
    let mut publish = Worker::start("publish", None, &Task::Publish { socket: a, size }, &[])?;
    Worker::await_all_ready(&mut [&mut subscribe, &mut publish], DEADLINE)?;
    let turn = if is_quick() { TURN / 10 } else { TURN };
    let (mut ratios, mut figures, mut raws) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if is_quick() { 1 } else { TURNS } {
        let before = raw_throughput(turn / 2)?;
        subscribe.run(Budget::Time(turn))?;
        publish.run(Budget::Time(turn))?;
        let reports = Worker::reports(&mut [&mut subscribe, &mut publish], DEADLINE)?;
        let [received, sent] = &reports[..] else { return Err("a report is missing".into()) };
        if received.messages != sent.messages {
            return Err(format!("{} messages were sent, {} came", sent.messages, received.messages).into());
        }
        let seconds = (received.ended_ns - sent.started_ns) as f64 / 1e9;
        let figure = received.messages as f64 / seconds;
        let raw = (before + raw_throughput(turn / 2)?) / 2.0;
        ratios.push(figure * size as f64 / raw);
        figures.push(figure);
        raws.push(raw);
    }
    let (ratio, figure, raw) = (median(ratios), median(figures), median(raws));
    println!(
        "bridge {size:>7} B  {:8.3} M/s, {:5.2} GB/s, raw {:5.2} GB/s, ratio {ratio:.2} (goal {goal})",
        figure / 1e6,
        figure * size as f64 / 1e9,
        raw / 1e9
    );
    Ok(())
}

/// bytes a second of a raw socket between two threads, each byte read into a buffer
fn raw_throughput(time: Duration) -> Outcome<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let began = Instant::now();
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        let chunk = vec![7; CHUNK];
        while began.elapsed() < time {
            sender.write_all(&chunk)?;
        }
        Ok(())
    });
    let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        match receiver.read(&mut buffer)? {
            0 => break,
            count => bytes += count,
        }
    }
    let took = began.elapsed();
    sending.join().map_err(|_| "the sending thread panicked")??;
    Ok(bytes as f64 / took.as_secs_f64())
}

fn latency(hosts: &Hosts) -> Outcome {
    let cores = Cores::of_this_process();
    let mut wakeup = LimitPair::start(Limit::Wakeup, cores, Task::Limit)?;
    let pair = |asks: &Task, answers: &Task| -> Outcome<Pair> {
        let answers = Worker::start("answers", None, answers, &[])?;
        Pair::new(Worker::start("asks", None, asks, &[])?, answers)
    };
    let address = free_address()?;
    let mut socket = pair(&Task::Raw { address, asks: true }, &Task::Raw { address, asks: false })?;
    let [a, b] = hosts.sockets.clone();
    let mut bridge = pair(&Task::Echo { socket: a, asks: true }, &Task::Echo { socket: b, asks: false })?;
    let mut raw = |budget| Ok(socket.run(budget)? + 2.0 * wakeup.run(budget, DEADLINE)?.headline());
    let mut criterion = criterion_of_pairs();
    bench_medians(&mut criterion, "bridge", "one way, raw", &mut raw)?;
    bench_medians(&mut criterion, "bridge", "one way", |budget| bridge.run(budget))?;
    criterion.final_summary();
    let Compared { figure, limit, ratio } = alternate(|budget| bridge.run(budget), raw)?;
    println!(
        "bridge one way {:6.1} us, raw socket and two wake-ups {:6.1} us, ratio {ratio:.2} (goal 1.25)",
        figure / 1e3,
        limit / 1e3
    );
    Ok(())
}

fn prepare(task: Task, descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
    Ok(match task {
        Task::Limit(limit) => return limit.prepare(descriptors),
        Task::Host(options) => {
            let options = std::iter::once("nodeset-dispatcher".to_owned()).chain(options);
            let config = Program::try_parse_from(options)?.args.resolve()?;
            let dispatcher = Dispatcher::bind(config)?;
            std::thread::spawn(move || dispatcher.run(Shutdown::new()));
            Box::new(Host)
        }
        Task::Publish { socket, size } => {
            let node = Node::builder("publish").socket(socket).connect()?;
            let publisher = node.publisher(topic(size)).deadline(DEADLINE).create()?;
            publisher.wait_for_subscribers(1, DEADLINE)?;
            Box::new(Publish { publisher, message: vec![0; size] })
        }
        Task::Subscribe { socket, size } => {
            let node = Node::builder("subscribe").socket(socket).connect()?;
            let subscriber = node.subscriber(topic(size)).reliable_across_hosts(DEADLINE).create()?;
            Box::new(Subscribe { subscriber, size })
        }
        Task::Echo { socket, asks } => {
            let node = Node::builder(if asks { "asks" } else { "answers" }).socket(socket).connect()?;
            let topic = |asks| if asks { "there" } else { "back" };
            let subscriber = node.subscriber(topic(!asks)).reliable().create()?;
            let publisher = node.publisher(topic(asks)).create()?;
            publisher.wait_for_subscribers(1, DEADLINE)?;
            end_of_pair(Line::Bridge(Box::new(publisher), Box::new(subscriber)), asks)
        }
        Task::Raw { address, asks } => {
            let stream = if asks { dial(address)? } else { TcpListener::bind(address)?.accept()?.0 };
            stream.set_nodelay(true)?;
            end_of_pair(Line::Socket(stream), asks)
        }
    })
}

fn topic(size: usize) -> String {
    format!("bytes/{size}")
}

/// Whoever answers may not listen yet.
fn dial(address: SocketAddr) -> Result<TcpStream, WorkError> {
    let until = Instant::now() + DEADLINE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= until => return Err(error.into()),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Works on a thread of its own, until its process ends.
struct Host;

impl Role for Host {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        Err("a dispatcher makes no runs".into())
    }
}

struct Publish {
    publisher: Publisher<[u8]>,
    message: Vec<u8>,
}

impl Role for Publish {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut messages = 0;
        // The clock is looked at once a batch.
        while !budget.is_spent(messages, started_ns) {
            for _ in 0..(CHUNK / self.message.len()).max(1) {
                fill(&mut self.message, messages);
                self.publisher.publish(&self.message)?;
                messages += 1;
            }
        }
        self.publisher.publish(&END)?;
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() })
    }
}

struct Subscribe {
    subscriber: Subscriber<[u8]>,
    size: usize,
}

impl Role for Subscribe {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut messages = 0;
        loop {
            let sample = self.subscriber.receive_timeout(DEADLINE)?.ok_or("nothing came any more")?;
            if sample.missed_before() > 0 {
                return Err(format!("{} messages were lost", sample.missed_before()).into());
            }
            if *sample == END {
                return Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() });
            }
            if sample.len() != self.size || !is_intact(&sample, messages) {
                return Err(format!("message {messages} is not what was sent").into());
            }
            messages += 1;
        }
    }
}

/// What 64 bytes go over.
enum Line {
    Bridge(Box<Publisher<[u8]>>, Box<Subscriber<[u8]>>),
    Socket(TcpStream),
}

impl Line {
    fn send(&mut self, number: u64) -> Result<(), WorkError> {
        let mut message = [0; 64];
        message[..8].copy_from_slice(&number.to_le_bytes());
        match self {
            Line::Bridge(publisher, _) => drop(publisher.publish(&message)?),
            Line::Socket(stream) => stream.write_all(&message)?,
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<u64, WorkError> {
        let mut message = [0; 64];
        match self {
            Line::Bridge(_, subscriber) => message.copy_from_slice(&subscriber.receive()?),
            Line::Socket(stream) => stream.read_exact(&mut message)?,
        }
        let number = message.first_chunk().map(|first| u64::from_le_bytes(*first));
        number.ok_or_else(|| "a message is too short".into())
    }
}

fn end_of_pair(line: Line, asks: bool) -> Box<dyn Role> {
    if asks { Box::new(Asks { line, clock: Clock::calibrate() }) } else { Box::new(Answers { line }) }
}

struct Asks {
    line: Line,
    clock: Clock,
}

impl Role for Asks {
    fn run(&mut self, budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let Asks { line, clock } = self;
        let mut recorder = Recorder::new(*clock);
        let started_ns = monotonic_ns();
        for number in 0.. {
            if number >= WARM_UP && budget.is_spent(recorder.count(), started_ns) {
                break;
            }
            pause(*clock);
            let sent = clock.ticks();
            line.send(number)?;
            let answer = line.receive()?;
            let ticks = clock.ticks() - sent;
            if answer != number {
                return Err(format!("{answer} came instead of {number}").into());
            }
            if number >= WARM_UP {
                recorder.round_trip(ticks);
            }
        }
        line.send(u64::MAX)?;
        let messages = recorder.count();
        let latency = recorder.one_way();
        Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, latency, ..Report::default() })
    }
}

struct Answers {
    line: Line,
}

impl Role for Answers {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        let mut messages = 0;
        loop {
            let number = self.line.receive()?;
            if number == u64::MAX {
                return Ok(Report { started_ns, ended_ns: monotonic_ns(), messages, ..Report::default() });
            }
            self.line.send(number)?;
            messages += 1;
        }
    }
}
