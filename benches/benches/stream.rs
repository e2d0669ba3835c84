//! The stream ring beside crate `rtrb`: the same items between the same two threads, in the same run.
//!
//! Each case moves numbered items of 8 or 64 bytes, one by one or in batches, and checks each word of each of them on the
//! other side. First criterion measures all; then each case is run against `rtrb` in turns, and the median of the ratios is
//! printed: above 1.00 the stream is faster.
//!
//! | case | on our side |
//! |---|---|
//! | `bytes` | `Sender` and `Receiver`: items without anything around them, which is what `rtrb` moves |
//! | `frames` | `FrameSender` and `FrameReceiver`: each item a message with a header, of any length, numbered |

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::hint::spin_loop;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::{NODE_PAGE_LEN, NodePage, PeerPage};
use nodeset_bus::stream::{
    Content, FrameReceiver, FrameSender, Receiver, Sender, StreamFault, StreamShape, create, map_readable,
    map_writable, segment_len,
};
use nodeset_bus::sys::pin_to_core;
use nodeset_examples::measure::Cores;
use rtrb::RingBuffer;
use rtrb::chunks::ChunkError;

/// bytes; of each ring, ours or not
const CAPACITY: usize = 256 * 1024;
/// Items of a batch.
const BATCH: usize = 32;
/// Turns of a case against `rtrb`, and items of each.
const TURNS: usize = 21;
const ITEMS: u64 = 2_000_000;

/// What is moved: follows from its number.
trait Item: Copy + Send + 'static {
    /// bytes
    const LEN: usize;
    fn of(number: u64) -> Self;
    fn write(self, into: &mut [u8]);
    fn read(from: &[u8]) -> Self;
    fn check(self, number: u64);
}

impl<const WORDS: usize> Item for [u64; WORDS] {
    const LEN: usize = 8 * WORDS;

    #[inline(always)]
    fn of(number: u64) -> Self {
        std::array::from_fn(|word| number.wrapping_add((word as u64) << 48))
    }

    #[inline(always)]
    fn write(self, into: &mut [u8]) {
        for (word, place) in self.iter().zip(into.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
    }

    #[inline(always)]
    fn read(from: &[u8]) -> Self {
        let mut words = from.chunks_exact(8);
        std::array::from_fn(|_| {
            let word = words.next().and_then(|word| word.try_into().ok());
            u64::from_ne_bytes(word.expect("an item has all its words"))
        })
    }

    #[inline(always)]
    fn check(self, number: u64) {
        let expected = Self::of(number);
        let wrong = self.iter().zip(expected).fold(0, |wrong, (found, expected)| wrong | (found ^ expected));
        assert!(wrong == 0, "item {number} is damaged");
    }
}

/// Both ends of a stream, each with memory of its own mapping.
fn stream(content: Content) -> (SharedWords, SharedWords, PeerPage<SharedWords>, Arc<NodePage<SharedWords>>) {
    let shape = StreamShape { capacity: CAPACITY as u64, content };
    let segment = Segment::create("stream", segment_len(shape)).expect("memory");
    let ours = map_writable(&segment, shape).expect("memory");
    create(&ours, shape);
    let theirs = map_readable(&segment, shape).expect("memory");
    let page = Segment::create("page", NODE_PAGE_LEN).expect("memory");
    let own = Arc::new(NodePage::create(SharedWords::mapped(page.map_writable().expect("memory"))));
    let peer = PeerPage::open(SharedWords::mapped(page.map_readable().expect("memory"))).expect("a page");
    (ours, theirs, peer, own)
}

fn bytes() -> (Sender<SharedWords>, Receiver<SharedWords>) {
    let shape = StreamShape { capacity: CAPACITY as u64, content: Content::Bytes };
    let (ours, theirs, peer, own) = stream(Content::Bytes);
    let receiver = Receiver::open(theirs, shape, own, 0).expect("a stream");
    (Sender::open(ours, shape, peer, 0).expect("a stream"), receiver)
}

fn frames() -> (FrameSender<SharedWords>, FrameReceiver<SharedWords>) {
    let (ours, theirs, peer, own) = stream(Content::Frames);
    let receiver = FrameReceiver::open(theirs, CAPACITY as u64, own, 0).expect("a stream");
    (FrameSender::open(ours, CAPACITY as u64, peer, 0).expect("a stream"), receiver)
}

/// Runs both at once, each on a core of its own; the time from the start until the second one, which receives, is done.
fn race(send: impl FnOnce() + Send, receive: impl FnOnce() + Send) -> Duration {
    let cores = Cores::of_this_process();
    let start = Barrier::new(2);
    let on = |core: Option<usize>| {
        // Refused, the scheduler places it: for both contestants alike.
        let _ = core.map(pin_to_core);
        start.wait();
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            on(cores.first);
            send();
        });
        let receiving = scope.spawn(|| {
            on(cores.second);
            let began = Instant::now();
            receive();
            began.elapsed()
        });
        receiving.join().expect("all items came as they were sent")
    })
}

fn rtrb_one_by_one<I: Item>(items: u64) -> Duration {
    let (mut producer, mut consumer) = RingBuffer::<I>::new(CAPACITY / I::LEN);
    let send = move || {
        for number in 0..items {
            while producer.push(I::of(number)).is_err() {
                spin_loop();
            }
        }
    };
    let receive = move || {
        for number in 0..items {
            loop {
                if let Ok(item) = consumer.pop() {
                    item.check(number);
                    break;
                }
                spin_loop();
            }
        }
    };
    race(send, receive)
}

fn rtrb_batches<I: Item>(items: u64) -> Duration {
    let (mut producer, mut consumer) = RingBuffer::<I>::new(CAPACITY / I::LEN);
    let send = move || {
        let mut number = 0;
        while number < items {
            let len = BATCH.min((items - number) as usize);
            match producer.write_chunk_uninit(len) {
                Ok(chunk) => number += chunk.fill_from_iter((number..).map(I::of)) as u64,
                Err(ChunkError::TooFewSlots(_)) => spin_loop(),
            }
        }
    };
    let receive = move || {
        let mut number = 0;
        while number < items {
            let Ok(chunk) = consumer.read_chunk(consumer.slots()) else { unreachable!("so many are there") };
            let (first, second) = chunk.as_slices();
            if first.is_empty() {
                spin_loop();
            }
            for item in first.iter().chain(second) {
                item.check(number);
                number += 1;
            }
            chunk.commit_all();
        }
    };
    race(send, receive)
}

fn bytes_one_by_one<I: Item>(items: u64) -> Duration {
    let (mut sender, mut receiver) = bytes();
    let send = move || {
        for number in 0..items {
            loop {
                if let Ok(place) = sender.reserve(I::LEN) {
                    I::of(number).write(place);
                    sender.commit(I::LEN);
                    break;
                }
                spin_loop();
            }
        }
    };
    let receive = move || {
        for number in 0..items {
            loop {
                match receiver.peek(I::LEN) {
                    Ok(there) if there.len() >= I::LEN => {
                        I::read(&there[..I::LEN]).check(number);
                        receiver.advance(I::LEN);
                        break;
                    }
                    Ok(_) => spin_loop(),
                    Err(fault) => panic!("{fault} at item {number}"),
                }
            }
        }
    };
    race(send, receive)
}

fn bytes_batches<I: Item>(items: u64) -> Duration {
    let (mut sender, mut receiver) = bytes();
    let send = move || {
        let mut number = 0;
        while number < items {
            let len = BATCH.min((items - number) as usize) * I::LEN;
            let Ok(place) = sender.reserve(len) else {
                spin_loop();
                continue;
            };
            for place in place.chunks_exact_mut(I::LEN) {
                I::of(number).write(place);
                number += 1;
            }
            sender.commit(len);
        }
    };
    let receive = move || {
        let mut number = 0;
        while number < items {
            let there = receiver.peek(I::LEN).expect("the stream goes on until all items came");
            let whole = there.len() / I::LEN * I::LEN;
            if whole == 0 {
                spin_loop();
            }
            for item in there.chunks_exact(I::LEN) {
                I::read(item).check(number);
                number += 1;
            }
            receiver.advance(whole);
        }
    };
    race(send, receive)
}

fn frames_one_by_one<I: Item>(items: u64) -> Duration {
    let (mut sender, mut receiver) = frames();
    let send = move || {
        for number in 0..items {
            let mut message = [0; 64];
            I::of(number).write(&mut message[..I::LEN]);
            while sender.push(&message[..I::LEN]).is_err() {
                spin_loop();
            }
        }
    };
    let receive = move || {
        for number in 0..items {
            loop {
                match receiver.pop() {
                    Ok(Some(frame)) => {
                        assert!(frame.sequence == number && frame.payload.len() == I::LEN, "item {number} is lost");
                        I::read(frame.payload).check(number);
                        break;
                    }
                    Ok(None) => spin_loop(),
                    Err(fault) => panic!("{fault} at item {number}"),
                }
            }
        }
    };
    race(send, receive)
}

fn frames_batches<I: Item>(items: u64) -> Duration {
    let (mut sender, mut receiver) = frames();
    let send = move || {
        let mut number = 0;
        while number < items {
            let len = BATCH.min((items - number) as usize);
            match sender.push_with(len, I::LEN, |at, place| I::of(number + at as u64).write(place)) {
                Ok(pushed) => number += pushed as u64,
                Err(_) => spin_loop(),
            }
        }
    };
    let receive = move || {
        let mut number = 0;
        loop {
            let before = number;
            match receiver.frames() {
                Ok(frames) => {
                    for frame in frames {
                        assert!(frame.sequence == number && frame.payload.len() == I::LEN, "item {number} is lost");
                        I::read(frame.payload).check(number);
                        number += 1;
                    }
                }
                Err(StreamFault::Ended { missed: 0 }) if number == items => break,
                Err(fault) => panic!("{fault} at item {number}"),
            }
            if number == before {
                spin_loop();
            }
        }
    };
    race(send, receive)
}

type Run = fn(u64) -> Duration;

struct Case {
    name: &'static str,
    /// bytes of an item
    len: usize,
    ours: [(&'static str, Run); 2],
    theirs: Run,
}

fn cases<I: Item>() -> [Case; 2] {
    [
        Case {
            name: "one by one",
            len: I::LEN,
            ours: [("bytes", bytes_one_by_one::<I>), ("frames", frames_one_by_one::<I>)],
            theirs: rtrb_one_by_one::<I>,
        },
        Case {
            name: "batches",
            len: I::LEN,
            ours: [("bytes", bytes_batches::<I>), ("frames", frames_batches::<I>)],
            theirs: rtrb_batches::<I>,
        },
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    if !Cores::of_this_process().are_two() {
        println!("stream: left out, both ends need a core of their own");
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let cases: Vec<Case> = cases::<[u64; 1]>().into_iter().chain(cases::<[u64; 8]>()).collect();
    for case in &cases {
        let mut group = criterion.benchmark_group(format!("stream {} B, {}", case.len, case.name));
        group.throughput(Throughput::Elements(1));
        for (name, run) in case.ours.iter().chain([&("rtrb", case.theirs)]) {
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter_custom(run));
        }
        group.finish();
    }
    criterion.final_summary();

    let quick = std::env::args().any(|argument| argument == "--test");
    let (turns, items) = if quick { (1, ITEMS / 100) } else { (TURNS, ITEMS) };
    println!("median of {turns} turns of {items} items each, rings of {CAPACITY} bytes, batches of {BATCH}:");
    for case in &cases {
        for (name, run) in case.ours {
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..turns {
                let rate = |time: Duration| items as f64 / time.as_secs_f64() / 1e6;
                let (one, other) = (rate(run(items)), rate((case.theirs)(items)));
                ours.push(one);
                theirs.push(other);
                ratios.push(one / other);
            }
            println!(
                "{:>2} B {:<10} {:<6} {:>6.1} M/s, rtrb {:>6.1} M/s: ratio {:.2}",
                case.len,
                case.name,
                name,
                median(ours),
                median(theirs),
                median(ratios)
            );
        }
    }
    Ok(())
}
