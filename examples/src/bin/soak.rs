//! Publishers, subscribers and a dispatcher that are killed, stopped and started again at random, for a while.
//!
//! ```text
//! cargo run --release --bin soak -- --seconds 60
//! ```
//!
//! Prints what was done and checked, and ends with success only if every invariant held: nothing lost, torn, repeated, stuck
//! or left behind.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nodeset_examples::measure::worker;
use nodeset_examples::soak::{Chaos, Supervisor, prepare};

/// Kill and stop publishers, subscribers and dispatchers at random, and check that nobody else notices.
#[derive(Debug, Parser)]
#[command(name = "soak", version)]
struct Arguments {
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,

    /// Publishers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=200))]
    publishers: u16,

    /// Subscribers; every other one of a topic is reliable
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    subscribers: u16,

    /// Topics
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=200))]
    topics: u16,

    /// Milliseconds from one kill to the next
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,

    /// Bytes of the longest message
    #[arg(long, value_name = "BYTES", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    longest: u32,

    /// Messages a second of each publisher
    #[arg(long, value_name = "HZ", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: u64,

    /// Pick the victims of an earlier run again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let outcome = if worker::is_worker() { worker::work(prepare) } else { soak(&Arguments::parse()) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let chaos = Chaos {
        time: Duration::from_secs(arguments.seconds),
        publishers: arguments.publishers.into(),
        subscribers: arguments.subscribers.into(),
        topics: arguments.topics.into(),
        every: Duration::from_millis(arguments.every),
        longest: arguments.longest as usize,
        rate: arguments.rate,
        seed,
    };
    let place = Place::new()?;
    let shared_memory = names_in("/dev/shm");
    let progress = io::stderr().is_terminal();
    let supervisor = Supervisor::new(chaos, place.0.join("soak.sock"))?;
    let outcome = supervisor.run(|summary| {
        if progress {
            eprint!("\r\x1b[K{:.0} s, {} killed", summary.seconds, summary.kills);
        }
    });
    if progress {
        eprint!("\r\x1b[K");
    }
    let summary = outcome.map_err(|error| format!("{error} (--seed {seed})"))?;
    let left = names_in("/dev/shm");
    if left != shared_memory {
        return Err(format!("/dev/shm had {shared_memory:?}, it has {left:?} now (--seed {seed})").into());
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary}");
    }
    Ok(())
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A folder of this run's own, for the socket.
struct Place(std::path::PathBuf);

impl Place {
    fn new() -> io::Result<Place> {
        let path = std::env::temp_dir().join(format!("nodeset-soak-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left of it harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
