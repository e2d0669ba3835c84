//! How a new topic finds its subscribers among 100 000 patterns, beside a scan of all of them; and what messages through a
//! subscription by pattern cost, beside a plain one.
//!
//! The patterns are those of a large fleet: most name a machine, some a kind of sensor on every machine (`*`, `**`), a few
//! want everything of a part. Before anything is measured, index and scan must find the same for every topic.

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use nodeset::{Node, WaitStrategy};
use nodeset_benches::{TURNS, is_quick, median};
use nodeset_bus::topic::{Pattern, PatternIndex, Topic};

const PATTERNS: usize = 100_000;
/// Topics that are looked for in turns.
const TOPICS: usize = 64;
/// What a new topic may take to find its subscribers.
const ALLOWED: Duration = Duration::from_micros(50);

const PARTS: [&str; 4] = ["arm", "base", "camera", "battery"];

fn main() -> Result<(), Box<dyn Error>> {
    let patterns = (0..PATTERNS).map(pattern).collect::<Result<Vec<_>, _>>()?;
    let topics = (0..TOPICS).map(topic).collect::<Result<Vec<_>, _>>()?;
    let mut index = PatternIndex::new();
    for (key, pattern) in patterns.iter().enumerate() {
        index.insert(pattern, key);
    }
    let found = check(&patterns, &topics, &index)?;

    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let mut group = criterion.benchmark_group("patterns");
    let mut topic = topics.iter().cycle();
    group.bench_function("index", |bencher| {
        bencher.iter(|| topic.next().map(|topic| index.matching(black_box(topic)).count()));
    });
    group.bench_function("scan", |bencher| {
        bencher.iter(|| topic.next().map(|topic| scan(&patterns, black_box(topic)).count()));
    });
    group.bench_function("insert_and_remove", |bencher| {
        let mut turn = patterns.iter().cycle();
        bencher.iter(|| turn.next().map(|pattern| (index.insert(pattern, PATTERNS), index.remove(pattern, &PATTERNS))));
    });
    group.finish();
    criterion.final_summary();

    let by_index = time(&topics, 1_000, |topic| index.matching(topic).count());
    let by_scan = time(&topics, 1, |topic| scan(&patterns, topic).count());
    println!(
        "a new topic among {PATTERNS} patterns ({found} found on average): {by_index:.1?} by the index, {by_scan:.1?} by a scan \
         ({:.0} times as long); allowed are {ALLOWED:?}",
        by_scan.as_secs_f64() / by_index.as_secs_f64()
    );
    compare_messages(is_quick())
}

/// Messages of each turn: published and read in bursts, and sent to and fro.
const BURSTS: u32 = 200;
const BURST: u64 = 2_000;
const ROUND_TRIPS: u32 = 20_000;
/// What a pattern may cost beside a plain topic.
const ALLOWED_RATIO: f64 = 1.05;

/// The same messages through a plain subscription and through one by pattern, in turns.
fn compare_messages(quick: bool) -> Result<(), Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let node = Node::builder("patterns").socket(place.path().join("patterns.sock")).embedded().connect()?;
    let (turns, bursts, round_trips) = if quick { (1, 1, 100) } else { (TURNS, BURSTS, ROUND_TRIPS) };
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for turn in 0..turns {
        let plain = [burst(&node, &format!("a/{turn}"), &format!("a/{turn}"), bursts)?, {
            ping_pong(&node, &format!("b/{turn}"), |topic| topic.to_owned(), round_trips)?
        }];
        let by_pattern = [burst(&node, &format!("c/{turn}/x"), &format!("c/{turn}/*"), bursts)?, {
            ping_pong(&node, &format!("d/{turn}"), |topic| format!("{topic}/**"), round_trips)?
        }];
        for (ratios, (plain, by_pattern)) in ratios.iter_mut().zip(plain.iter().zip(by_pattern)) {
            ratios.push(by_pattern.as_secs_f64() / plain.as_secs_f64());
        }
    }
    let [throughput, latency] = ratios.map(median);
    println!(
        "messages by pattern, to those of a plain topic: {throughput:.3} of the time to publish and read, {latency:.3} of a round \
         trip; allowed are {ALLOWED_RATIO}"
    );
    Ok(())
}

/// How long so many bursts take to publish and to read.
fn burst(node: &Node, topic: &str, subscribed: &str, bursts: u32) -> Result<Duration, Box<dyn Error>> {
    let mut subscriber = node.subscriber::<u64>(subscribed).reliable().create()?;
    let mut publisher = node.publisher::<u64>(topic).create()?;
    let start = Instant::now();
    for _ in 0..bursts {
        for number in 0..BURST {
            publisher.publish(&number)?;
        }
        for number in 0..BURST {
            if subscriber.try_receive()?.is_none_or(|sample| sample.to_native() != number) {
                return Err(format!("{number} did not come").into());
            }
        }
    }
    Ok(start.elapsed())
}

/// How long so many round trips between two threads take.
fn ping_pong(
    node: &Node,
    prefix: &str,
    subscribed: impl Fn(&str) -> String,
    round_trips: u32,
) -> Result<Duration, Box<dyn Error>> {
    let [there, back] = [format!("{prefix}/there"), format!("{prefix}/back")];
    let listen = |topic: &str| node.subscriber::<u64>(&subscribed(topic)).reliable().wait(WaitStrategy::Spin).create();
    let (mut pings, mut pongs) = (listen(&there)?, listen(&back)?);
    let (mut ping, mut pong) = (node.publisher::<u64>(&there).create()?, node.publisher::<u64>(&back).create()?);
    let took = std::thread::scope(|scope| -> Result<Duration, Box<dyn Error + Send + Sync>> {
        let echoing = scope.spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
            for _ in 0..round_trips {
                let number = pings.receive()?.to_native();
                pong.publish(&number)?;
            }
            Ok(())
        });
        let start = Instant::now();
        for number in 0..u64::from(round_trips) {
            ping.publish(&number)?;
            if pongs.receive()?.to_native() != number {
                return Err(format!("another one than {number} came back").into());
            }
        }
        let took = start.elapsed();
        echoing.join().map_err(|_| "the thread that echoes panicked")??;
        Ok(took)
    });
    took.map_err(|error| error.to_string().into())
}

fn pattern(number: usize) -> Result<Pattern, Box<dyn Error>> {
    let (machine, part) = (number / 10, PARTS[number / 3 % PARTS.len()]);
    let text = match number % 100 {
        0 => format!("fleet/**/{part}/sensor-{number}"),
        1 => format!("fleet/*/{part}/sensor-{}", number % 1_000),
        2 => format!("**/sensor-{number}/raw"),
        3 => format!("*/machine-{machine}/**"),
        4..10 => format!("fleet/machine-{machine}/**"),
        10..40 => format!("fleet/machine-{machine}/{part}/*"),
        _ => format!("fleet/machine-{machine}/{part}/sensor-{number}"),
    };
    Ok(Pattern::new(&text)?)
}

fn topic(number: usize) -> Result<Topic, Box<dyn Error>> {
    let pattern = number * (PATTERNS / TOPICS) + number;
    let part = PARTS[pattern / 3 % PARTS.len()];
    Ok(Topic::new(&format!("fleet/machine-{}/{part}/sensor-{}", pattern / 10, pattern % 1_000))?)
}

fn scan<'a>(patterns: &'a [Pattern], topic: &'a Topic) -> impl Iterator<Item = usize> + 'a {
    patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(topic)).map(|(key, _)| key)
}

/// Both find the same, and something; says how many patterns a topic has on average.
fn check(patterns: &[Pattern], topics: &[Topic], index: &PatternIndex<usize>) -> Result<usize, Box<dyn Error>> {
    let mut all = 0;
    for topic in topics {
        let mut by_index: Vec<usize> = index.matching(topic).copied().collect();
        by_index.sort_unstable();
        if !by_index.iter().copied().eq(scan(patterns, topic)) {
            return Err(format!("index and scan find different patterns for `{topic}`").into());
        }
        all += by_index.len();
    }
    if all == 0 {
        return Err("no topic has a pattern: nothing would be measured".into());
    }
    Ok(all / topics.len())
}

/// Mean of so many rounds.
fn time(topics: &[Topic], rounds: u32, find: impl Fn(&Topic) -> usize) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        for topic in topics {
            black_box(find(black_box(topic)));
        }
    }
    start.elapsed() / rounds / u32::try_from(topics.len()).unwrap_or(u32::MAX)
}
