//! The bridge's connections beside a raw TCP socket, over loopback, in the same run: writes of 64 KiB, one way.
//!
//! Each transfer goes from one thread to another and checks every byte. First criterion measures all; then each kind of
//! connection is run against the raw socket in turns, and the median of the ratios is printed: 1.00 is as fast.

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use mio::{Events, Interest, Poll, Token};
use nodeset_benches::{is_quick, median};
use nodeset_dispatcher::bridge::transport::connection::{Connection, Received, Security, Stage, Written};
use nodeset_dispatcher::bridge::transport::keys::KeyPair;
use nodeset_dispatcher::bridge::transport::progress::Progress;
use nodeset_dispatcher::bridge::transport::tls::Tls;

/// bytes; of a header, of the payload behind it, and of both
const HEADER: usize = 32;
const PAYLOAD: usize = CHUNK - HEADER;
const CHUNK: usize = 64 << 10;
/// Turns of a kind against the raw socket, and chunks of each: 128 MiB.
const TURNS: usize = 11;
const CHUNKS: u64 = 2048;

fn chunk() -> Vec<u8> {
    (0..CHUNK).map(|at| (at * 31 + (at >> 8)) as u8).collect()
}

/// Compares what arrives in pieces of any length with the chunk that is sent again and again.
struct Check {
    expected: Vec<u8>,
    /// bytes; arrived in all
    arrived: usize,
}

impl Check {
    fn new() -> Check {
        Check { expected: chunk(), arrived: 0 }
    }

    fn take(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let rest = &self.expected[self.arrived % CHUNK..];
            let (now, later) = piece.split_at(rest.len().min(piece.len()));
            assert!(now == &rest[..now.len()], "what arrived is not what was sent");
            self.arrived += now.len();
            piece = later;
        }
    }
}

fn loopback() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

fn raw(chunks: u64) -> Duration {
    let (listener, address) = loopback();
    let mut sender = TcpStream::connect(address).expect("a connection");
    let (mut receiver, _) = listener.accept().expect("a connection");
    let total = chunks as usize * CHUNK;
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = chunk();
            for _ in 0..chunks {
                sender.write_all(&chunk).expect("a socket that takes bytes");
            }
        });
        let (mut check, mut buffer) = (Check::new(), vec![0; CHUNK]);
        while check.arrived < total {
            let count = receiver.read(&mut buffer).expect("bytes");
            assert!(count > 0, "the end came early");
            check.take(&buffer[..count]);
        }
    });
    began.elapsed()
}

/// A connection in a loop of its own.
struct Looped {
    poll: Poll,
    events: Events,
    connection: Connection,
}

impl Looped {
    fn new(connection: Connection) -> Looped {
        let poll = Poll::new().expect("a poll");
        let both = Interest::READABLE | Interest::WRITABLE;
        let mut looped = Looped { poll, events: Events::with_capacity(8), connection };
        looped.connection.register(looped.poll.registry(), Token(0), both).expect("a socket that can be watched");
        looped
    }

    fn wait(&mut self) {
        self.poll.poll(&mut self.events, None).expect("events");
    }

    fn open(mut self) -> Looped {
        while self.connection.advance().expect("a connection") != Stage::Open {
            self.wait();
        }
        self
    }

    fn send(&mut self, chunks: u64) {
        let chunk = chunk();
        let (header, payload) = chunk.split_at(HEADER);
        assert_eq!(payload.len(), PAYLOAD);
        // As many pairs at a time as a bridge finds in a log of large messages.
        let pairs = [(header, payload); 16];
        let mut left = chunks;
        while left > 0 {
            let pairs = &pairs[..left.min(16) as usize];
            let mut progress = Progress::default();
            while self.connection.write(pairs, &mut progress).expect("a connection") == Written::Blocked {
                self.wait();
            }
            left -= pairs.len() as u64;
        }
        while self.connection.flush().expect("a connection") == Written::Blocked {
            self.wait();
        }
    }

    fn receive(&mut self, chunks: u64) {
        let (mut check, mut buffer) = (Check::new(), vec![0; CHUNK]);
        while check.arrived < chunks as usize * CHUNK {
            match self.connection.read(&mut buffer).expect("a connection") {
                Received::Bytes(count) => check.take(&buffer[..count]),
                Received::Nothing => self.wait(),
                Received::End => panic!("the end came early"),
            }
        }
    }
}

fn connections(encrypted: bool) -> (Looped, Looped) {
    let pairs = [0, 1].map(|_| KeyPair::generate().expect("random numbers"));
    let tls = |own: usize, other: usize| Tls::new(&pairs[own], [("other", pairs[other].public())]).expect("keys");
    let (here, there) = (tls(0, 1), tls(1, 0));
    let (listener, address) = loopback();
    let security = if encrypted { Security::Encrypted(&here, pairs[1].public()) } else { Security::Plain };
    let dialled = Connection::dial(address, security).expect("a socket");
    let (stream, from) = listener.accept().expect("a connection");
    stream.set_nonblocking(true).expect("a socket");
    let stream = mio::net::TcpStream::from_std(stream);
    let accepted = Connection::accept(stream, from, encrypted.then_some(&there)).expect("a socket");
    let opening = thread::spawn(move || Looped::new(accepted).open());
    (Looped::new(dialled).open(), opening.join().expect("a handshake"))
}

fn over_connection(encrypted: bool, chunks: u64) -> Duration {
    let (mut sender, mut receiver) = connections(encrypted);
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(chunks);
            // Kept until the other side has all of it.
            sender
        });
        receiver.receive(chunks);
    });
    began.elapsed()
}

fn plain(chunks: u64) -> Duration {
    over_connection(false, chunks)
}

fn encrypted(chunks: u64) -> Duration {
    over_connection(true, chunks)
}

type Run = fn(u64) -> Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("bridge connection, 64 KiB");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    let kinds: [(&str, Run); 3] = [("raw", raw), ("plain", plain), ("encrypted", encrypted)];
    for (name, run) in kinds {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter_custom(run));
    }
    group.finish();
    criterion.final_summary();

    let (turns, chunks) = if is_quick() { (1, CHUNKS / 64) } else { (TURNS, CHUNKS) };
    println!("median of {turns} turns of {chunks} writes of 64 KiB each, over loopback:");
    for (name, run) in &kinds[1..] {
        let (mut ours, mut limit, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let rate = |time: Duration| (chunks as usize * CHUNK) as f64 / time.as_secs_f64() / 1e9;
            let (one, other) = (rate(run(chunks)), rate(raw(chunks)));
            ours.push(one);
            limit.push(other);
            ratios.push(one / other);
        }
        let (ours, limit, ratio) = (median(ours), median(limit), median(ratios));
        println!("{name:<9} {ours:>5.2} GB/s, raw socket {limit:>5.2} GB/s: ratio {ratio:.2}");
    }
    Ok(())
}
