//! What the program `performance1` measures, under criterion: changes from run to run, with confidence.
//!
//! Every measurement runs between processes of its own (this program, started again), pinned to different cores, and checks
//! what it moves. Ratios to the machine's limits are `performance1`'s business: it measures both side by side.

#![allow(missing_docs, reason = "a program")]

use std::error::Error;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use nodeset::Node;
use nodeset_examples::measure::{Budget, Cores, Limit, LimitPair, Report, worker};
use nodeset_examples::performance::plan::Item;
use nodeset_examples::performance::{Runner, Task, Workload, prepare};

/// How long a run may take beyond what criterion asks for.
const DEADLINE: Duration = Duration::from_secs(120);

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    if worker::is_worker() {
        return worker::work(prepare);
    }
    let instance = format!("bench-{}", std::process::id());
    let _node = Node::builder("bench").instance(&instance).embedded().connect()?;
    let endpoint = nodeset::AppOptions { instance, ..nodeset::AppOptions::default() }.endpoint()?;
    let mut runner = Runner::new(endpoint.path().to_owned(), Cores::of_this_process(), None);
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    limits(&mut criterion)?;
    for size in [64, 1024] {
        for typed in [false, true] {
            let item = Item { workload: Workload::Latency, size, subscribers: 1, typed };
            bench(&mut criterion, &mut runner, item, |reports| one_way(&reports[0]))?;
        }
    }
    for size in [64, 1024, 16 * 1024, 1 << 20] {
        for typed in [false, true] {
            let item = Item { workload: Workload::Throughput, size, subscribers: 1, typed };
            bench(&mut criterion, &mut runner, item, |reports| between(&reports[0], &reports[1]))?;
        }
    }
    for subscribers in [0, 1, 64] {
        let item = Item { workload: Workload::Fanout, size: 64, subscribers, typed: false };
        bench(&mut criterion, &mut runner, item, |reports| between(&reports[0], &reports[0]))?;
    }
    let item = Item { workload: Workload::Wakeup, size: 64, subscribers: 1, typed: false };
    bench(&mut criterion, &mut runner, item, |reports| one_way(&reports[0]))?;
    criterion.final_summary();
    Ok(())
}

/// Half of the round trips' time; with the pauses of a wake-up left out, its median times their number.
fn one_way(ping: &Report) -> Duration {
    let nanos = ping.latency.map_or(0.0, |latency| latency.p50_ns) * ping.messages as f64;
    Duration::from_nanos(nanos as u64)
}

fn between(begins: &Report, ends: &Report) -> Duration {
    Duration::from_nanos(ends.ended_ns.saturating_sub(begins.started_ns))
}

/// One measurement: criterion says how many messages, the processes move them.
fn bench(criterion: &mut Criterion, runner: &mut Runner, item: Item, time: impl Fn(&[Report]) -> Duration) -> Outcome {
    let Item { workload, size, subscribers, typed } = item;
    let mut processes = runner.start(item)?;
    let mut group = criterion.benchmark_group(workload.word());
    if workload == Workload::Throughput {
        group.throughput(Throughput::Bytes(size as u64));
    }
    let kind = if typed { "typed" } else { "bytes" };
    let name = if workload == Workload::Fanout { format!("{subscribers} subscribers") } else { kind.to_owned() };
    let mut outcome = Ok(());
    group.bench_function(BenchmarkId::new(name, size), |bencher| {
        bencher.iter_custom(|messages| match processes.run(Budget::Messages(messages)) {
            Ok(reports) => time(&reports),
            Err(error) => {
                outcome = Err(error);
                // Criterion cannot be stopped; the error ends the program below.
                Duration::from_nanos(messages)
            }
        });
    });
    group.finish();
    Ok(outcome?)
}

/// The machine itself.
fn limits(criterion: &mut Criterion) -> Outcome {
    let mut group = criterion.benchmark_group("limit");
    let mut outcome = Ok(());
    for (name, limit) in [("line", Limit::Line), ("stream", Limit::Stream), ("wakeup", Limit::Wakeup)] {
        let mut pair = LimitPair::start(limit, Cores::of_this_process(), Task::Limit)?;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|messages| match pair.run(Budget::Messages(messages), DEADLINE) {
                Ok(figure) => match figure.latency {
                    Some(latency) => Duration::from_nanos((latency.p50_ns * messages as f64) as u64),
                    None => Duration::from_secs_f64(figure.seconds),
                },
                Err(error) => {
                    outcome = Err(error);
                    Duration::from_nanos(messages)
                }
            });
        });
    }
    group.finish();
    Ok(outcome?)
}
