//! Measures NodeSet on this machine, beside what the machine can do at best.
//!
//! ```text
//! cargo run --release --bin performance1
//! cargo run --release --bin performance1 -- --json --workload latency --size 64
//! ```
//!
//! It starts publishers and subscribers as processes of their own, with a dispatcher embedded in this one, sends real messages
//! and prints a table: one-way latency, wake-up, reliable throughput, cost of many subscribers, each with its ratio to a raw
//! limit of this machine, measured in the same run. Every message is read and checked.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use nodeset::{AppOptions, Node, NodeBuilder};
use nodeset_examples::measure::{Budget, Cores, worker};
use nodeset_examples::performance::{Plan, Runner, Workload, prepare, report};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long slices are measured again whose limit moved.
const PATIENCE: Duration = Duration::from_secs(20);

/// Measure NodeSet on this machine, beside what the machine can do at best.
#[derive(Debug, Parser)]
#[command(
    name = "performance1",
    version,
    after_help = "Without arguments everything is measured, in less than 40 seconds."
)]
struct Arguments {
    /// What to measure; may be given several times [possible: latency, wakeup, throughput, fanout, fanout_read, limit_line,
    /// limit_stream, limit_wakeup] [default: all]
    #[arg(long, value_name = "WORKLOAD")]
    workload: Vec<Workload>,

    /// Bytes of a message; may be given several times [default: what suits the workload]
    #[arg(long, value_name = "BYTES")]
    size: Vec<usize>,

    /// How many subscribers, for fanout (0 allowed) and fanout_read; may be given several times
    #[arg(long, value_name = "N")]
    subscribers: Vec<usize>,

    /// How many messages (or round trips) a measurement sends, instead of how long it takes
    #[arg(long, value_name = "N")]
    msgcount: Option<u64>,

    /// How long each measurement takes; wins over --msgcount [default: 0.45]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,

    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    nodeset: AppOptions,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let outcome = if worker::is_worker() { worker::work(prepare) } else { measure(&Arguments::parse()) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has gone: nothing is left to do.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("performance1: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    arguments.nodeset.start_logging()?;
    let budget = match (arguments.seconds, arguments.msgcount) {
        (Some(time), _) => Budget::Time(time),
        (None, Some(messages)) => Budget::Messages(messages),
        (None, None) => Budget::Time(Duration::from_millis(450)),
    };
    // Without arguments it ends in time also where the machine does not hold still.
    let patient_until =
        (arguments.seconds.is_none() && arguments.msgcount.is_none()).then(|| Instant::now() + PATIENCE);
    let cores = Cores::of_this_process();
    let plan = Plan::new(&arguments.workload, &arguments.size, &arguments.subscribers, budget, cores.available)?;
    if !plan.left_out.is_empty() {
        let names: Vec<_> = plan.left_out.iter().map(|workload| workload.word()).collect();
        eprintln!(
            "performance1: this process may use one core only: {} left out; allow it another one (taskset, cgroup, container)",
            names.join(", ")
        );
    }
    // A dispatcher of its own, unless another one was asked for: nothing that runs on this machine is disturbed.
    let mut options = arguments.nodeset.clone();
    if options.dispatcher.is_none() && options.instance == AppOptions::default().instance && !options.no_embedded {
        options.instance = format!("performance1-{}", std::process::id());
        // By its path, it has no board: nobody would take the name over if this run were killed.
        let endpoint = options.endpoint()?;
        endpoint.prepare()?;
        options.dispatcher = Some(endpoint.path().to_owned());
    }
    let node = Arc::new(Mutex::new(None));
    leave_on_signal(Arc::clone(&node))?;
    *lock(&node) = Some(NodeBuilder::from_options(&options, "performance1").connect()?);
    let runner = Runner::new(options.endpoint()?.path().to_owned(), cores, patient_until);
    let outcome = report(runner, &plan, arguments.json);
    drop(lock(&node).take());
    outcome
}

fn report(mut runner: Runner, plan: &Plan, json: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let progress = io::stderr().is_terminal();
    let mut rows = Vec::new();
    for (at, &item) in plan.items.iter().enumerate() {
        if progress {
            eprint!("\r\x1b[K[{}/{}] {} {} bytes", at + 1, plan.items.len(), item.workload, item.size);
        }
        let row = runner.measure(item, plan.budget);
        if progress {
            eprint!("\r\x1b[K");
        }
        let row = row?;
        if json {
            print(&format!("{}\n", row.json()))?;
        }
        rows.push(row);
    }
    if !json {
        print(&format!("{}\n{}", report::table(&rows), report::legend(&rows)))?;
    }
    Ok(())
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// SIGINT and SIGTERM end the program at once, but not without its dispatcher's clearing up. The workers die with it.
fn leave_on_signal(node: Arc<Mutex<Option<Node>>>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Held to the end: without its dispatcher a worker fails, and main must not report that in the meantime.
            let mut node = lock(&node);
            drop(node.take());
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

fn lock(node: &Mutex<Option<Node>>) -> MutexGuard<'_, Option<Node>> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}
