//! Workers: each job goes to one of them, in turns, and what a worker that dies had not done goes to another.
//!
//! ```text
//! cargo run --release --bin workers
//! ```
//!
//! It starts workers as processes of their own and gives them jobs. Each gets the next job only when it has done the last one
//! (`backlog`). The first one gets stuck in its third job, and is killed: another one does that job. One sees, in some order:
//!
//! ```text
//! worker did job 0
//! worker-2 did job 1
//! worker got stuck in job 6
//! worker-3 did job 6
//! all 30 jobs are done, none is lost
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use clap::Parser;
use nodeset::{AppOptions, Node};

const TOPIC: &str = "workers/jobs";
/// How long workers may take to come, or to take another job.
const PATIENCE: Duration = Duration::from_secs(30);

/// Give jobs to workers, one of which dies. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "workers", version)]
struct Arguments {
    /// How many jobs
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(20..=1_000_000))]
    jobs: u64,

    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=6))]
    workers: u64,

    /// Be a worker, and get stuck in so manieth job
    #[arg(long, value_name = "N", hide = true)]
    work: Option<u64>,

    #[command(flatten)]
    nodeset: AppOptions,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    arguments.nodeset.start_logging()?;
    match arguments.work {
        Some(stuck_in) => work(&arguments, stuck_in),
        None => give_jobs(&arguments),
    }
}

fn work(arguments: &Arguments, stuck_in: u64) -> Result<(), Box<dyn Error>> {
    let node = Node::from_options(&arguments.nodeset, "worker")?;
    let mut jobs = node.subscriber::<u64>(TOPIC).create()?;
    println!("{} is ready", node.name());
    for number in 1.. {
        let job = jobs.receive()?.to_native();
        if number == stuck_in {
            println!("{} got stuck in job {job}", node.name());
            loop {
                std::thread::park();
            }
        }
        println!("{} did job {job}", node.name());
    }
    Ok(())
}

fn give_jobs(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let node = Node::from_options(&arguments.nodeset, "foreman")?;
    let jobs = node.publisher::<u64>(TOPIC).direct();
    let mut jobs = jobs.backlog(1).redeliver(true).deadline(PATIENCE).create()?;
    let (says, said) = channel();
    let mut workers = Vec::new();
    for number in 0..arguments.workers {
        workers.push(start(if number == 0 { 3 } else { 0 }, says.clone())?);
        // One after the other, so that the first one is the one without a number.
        jobs.wait_for_subscribers(workers.len(), PATIENCE)?;
    }
    drop(says);
    let giving = std::thread::spawn({
        let count = arguments.jobs;
        move || (0..count).try_for_each(|job| jobs.publish(&job)).map(|()| jobs)
    });
    let mut done = BTreeSet::new();
    while (done.len() as u64) < arguments.jobs {
        let line: String = said.recv_timeout(PATIENCE)?;
        match line.split_once(" did job ") {
            Some((_, job)) if !done.insert(job.to_owned()) => return Err(format!("{line}, a second time").into()),
            Some(_) => println!("{line}"),
            None if line.contains("stuck") => {
                println!("{line}");
                drop(workers.remove(0));
            }
            None => {}
        }
    }
    let mut jobs = giving.join().map_err(|_| "the thread that gives jobs panicked")??;
    if jobs.lost() > 0 {
        return Err(format!("{} jobs are lost", jobs.lost()).into());
    }
    println!("all {} jobs are done, none is lost", done.len());
    Ok(())
}

/// Starts a worker, whose lines go to `says`.
fn start(stuck_in: u64, says: Sender<String>) -> Result<Worker, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).args(["--work", &stuck_in.to_string()]);
    let mut worker = Worker(command.stdout(Stdio::piped()).spawn()?);
    if let Some(lines) = worker.0.stdout.take() {
        let lines = BufReader::new(lines).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(|line| drop(says.send(line))));
    }
    Ok(worker)
}

/// A process that is killed where this is dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
