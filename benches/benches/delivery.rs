//! What a direct publisher costs, beside a plain one.
//!
//! - `throughput`: messages of 64 bytes through one worker on another core, content and order checked, beside the same through a
//!   plain publisher to one reliable subscriber. In turns, so that both meet the same machine.
//! - `publish`: the publisher's own cost with 1 and with 16 workers, which read only when nothing is measured, beside a plain
//!   publisher with one.

#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use nodeset::{DirectPublisher, Node, Publisher, Subscriber, WaitStrategy};
use nodeset_benches::{Outcome, is_quick, median, turns};
use nodeset_bus::sys::{available_cores, pin_to_core};

const LEN: usize = 64;
/// Of each turn of a throughput.
const SLICE: Duration = Duration::from_millis(100);
/// Messages that are published at a time before the workers read.
const BURST: u64 = 2_000;
const LINKED: Duration = Duration::from_secs(10);
const TARGETS: (f64, f64) = (0.9, 1.5);

/// One way to publish.
trait Publish: Send {
    fn publish(&mut self, message: &[u8]) -> Outcome;
}

impl Publish for Publisher<[u8]> {
    #[inline]
    fn publish(&mut self, message: &[u8]) -> Outcome {
        Publisher::publish(self, message)?;
        Ok(())
    }
}

impl Publish for DirectPublisher<[u8]> {
    #[inline]
    fn publish(&mut self, message: &[u8]) -> Outcome {
        DirectPublisher::publish(self, message)?;
        Ok(())
    }
}

fn main() -> Outcome {
    let place = tempfile::tempdir()?;
    let node = Node::builder("delivery").socket(place.path().join("delivery.sock")).embedded().connect()?;
    let quick = is_quick();

    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let mut group = criterion.benchmark_group("delivery");
    let mut plain = Burst::plain(&node, "plain")?;
    let mut one = Burst::direct(&node, "one", 1)?;
    let mut sixteen = Burst::direct(&node, "sixteen", 16)?;
    for (name, burst) in [("plain", &mut plain as &mut dyn Run), ("one_worker", &mut one), ("16_workers", &mut sixteen)]
    {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| burst.run(times).expect("bursts are published and read"));
        });
    }
    group.finish();
    criterion.final_summary();

    let turns = turns();
    let mut ratios = Vec::new();
    for _ in 0..turns {
        let [plain, one, sixteen] = [&mut plain as &mut dyn Run, &mut one, &mut sixteen]
            .map(|burst| burst.run(if quick { 1 } else { 200 }).map(|time| time.as_secs_f64()));
        let plain = plain?;
        ratios.push((one? / plain, sixteen? / plain));
    }
    let (one, sixteen) = (median(ratios.iter().map(|it| it.0)), median(ratios.iter().map(|it| it.1)));
    println!(
        "a direct publisher's cost, to a plain one's: {one:.2} with one worker, {sixteen:.2} with 16 (target: at most {:.1})",
        TARGETS.1
    );
    drop((plain, one, sixteen));

    let cores = available_cores();
    if cores.len() < 2 {
        println!("throughput: left out, it takes two cores");
        return Ok(());
    }
    let slice = if quick { SLICE / 10 } else { SLICE };
    let mut ratios = Vec::new();
    for turn in 0..turns {
        let topic = format!("plain/{turn}");
        let subscriber = reading(&node, &topic)?;
        let plain = throughput(node.publisher::<[u8]>(&topic).create()?, subscriber, slice, (cores[0], cores[1]))?;
        let topic = format!("direct/{turn}");
        let subscriber = reading(&node, &topic)?;
        let publisher = node.publisher::<[u8]>(&topic).direct().create()?;
        publisher.wait_for_subscribers(1, LINKED)?;
        let direct = throughput(publisher, subscriber, slice, (cores[0], cores[1]))?;
        ratios.push((direct, plain));
    }
    println!(
        "{LEN} bytes to one worker: {:.1} million a second, {:.1} by a plain publisher; ratio {:.2} (target: at least {:.1})",
        median(ratios.iter().map(|it| it.0)) / 1e6,
        median(ratios.iter().map(|it| it.1)) / 1e6,
        median(ratios.iter().map(|it| it.0 / it.1)),
        TARGETS.0
    );
    Ok(())
}

fn reading(node: &Node, topic: &str) -> Outcome<Subscriber<[u8]>> {
    Ok(node.subscriber::<[u8]>(topic).reliable().wait(WaitStrategy::Spin).create()?)
}

fn message(number: u64) -> [u8; LEN] {
    let mut message = [number as u8; LEN];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

fn check(found: &[u8], number: u64) -> Outcome {
    if found == message(number) { Ok(()) } else { Err(format!("message {number} is another one, or torn").into()) }
}

/// Messages a second, from one core to another.
fn throughput(
    mut publisher: impl Publish,
    mut subscriber: Subscriber<[u8]>,
    slice: Duration,
    cores: (usize, usize),
) -> Outcome<f64> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let writing = scope.spawn(move || -> Outcome<u64> {
            pin_to_core(cores.0)?;
            let mut number = 0;
            // Relaxed: it ends a moment sooner or later.
            while !over.load(Ordering::Relaxed) {
                for _ in 0..256 {
                    publisher.publish(&message(number))?;
                    number += 1;
                }
            }
            Ok(number)
        });
        let reading = scope.spawn(move || -> Outcome<(u64, Duration)> {
            pin_to_core(cores.1)?;
            let mut number = 0;
            let started = Instant::now();
            while number % 256 != 0 || started.elapsed() < slice {
                check(&subscriber.receive()?, number)?;
                number += 1;
            }
            let took = started.elapsed();
            over.store(true, Ordering::Relaxed);
            // Until the writer has left: it may wait for this one.
            while let Some(sample) = subscriber.receive_timeout(Duration::from_millis(20))? {
                check(&sample, number)?;
                number += 1;
            }
            Ok((number, took))
        });
        let sent = writing.join().map_err(|_| "the writer panicked")??;
        let (received, took) = reading.join().map_err(|_| "the reader panicked")??;
        if received != sent {
            return Err(format!("{sent} were sent, {received} came").into());
        }
        Ok(received as f64 / took.as_secs_f64())
    })
}

/// Publishes in bursts, and reads what was published when nothing is measured.
struct Burst<P> {
    publisher: P,
    workers: Vec<Subscriber<[u8]>>,
}

impl Burst<Publisher<[u8]>> {
    fn plain(node: &Node, topic: &str) -> Outcome<Self> {
        let workers = vec![reading(node, topic)?];
        Ok(Burst { publisher: node.publisher::<[u8]>(topic).create()?, workers })
    }
}

impl Burst<DirectPublisher<[u8]>> {
    fn direct(node: &Node, topic: &str, workers: usize) -> Outcome<Self> {
        let workers: Vec<_> = (0..workers).map(|_| reading(node, topic)).collect::<Outcome<_>>()?;
        // None is passed over.
        let publisher = node.publisher::<[u8]>(topic).direct().backlog(BURST).create()?;
        publisher.wait_for_subscribers(workers.len(), LINKED)?;
        Ok(Burst { publisher, workers })
    }
}

trait Run {
    /// How long so many bursts took to publish.
    fn run(&mut self, bursts: u64) -> Outcome<Duration>;
}

impl<P: Publish> Run for Burst<P> {
    fn run(&mut self, bursts: u64) -> Outcome<Duration> {
        let mut took = Duration::ZERO;
        for _ in 0..bursts {
            let started = Instant::now();
            for number in 0..BURST {
                self.publisher.publish(black_box(&message(number)))?;
            }
            took += started.elapsed();
            let mut read = 0;
            for worker in &mut self.workers {
                while worker.try_receive()?.is_some() {
                    read += 1;
                }
            }
            if read != BURST {
                return Err(format!("{BURST} were published, {read} read").into());
            }
        }
        Ok(took)
    }
}
