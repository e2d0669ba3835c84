//! Many nodes, topics and links: how long they take to come together, to hear of a death and to find a new dispatcher, and
//! what each node costs.
//!
//! ```text
//! cargo run --release --bin scale
//! cargo run --release --bin scale -- --json
//! ```
//!
//! Ends with success only if every count held: links, messages, ends of links, and what is left behind. Times are printed
//! beside their targets and decide nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use nodeset_examples::measure::worker;
use nodeset_examples::scale::fleet::{Fleet, ScaleError};
use nodeset_examples::scale::join::Costs;
use nodeset_examples::scale::plan::Plan;
use nodeset_examples::scale::{death, join, prepare, reattach};
use serde::Serialize;

/// Bring many nodes together, kill the dispatcher and some nodes, and say what it took.
#[derive(Debug, Parser)]
#[command(name = "scale", version)]
struct Arguments {
    #[command(flatten)]
    deaths: DeathArguments,

    #[command(flatten)]
    join: JoinArguments,

    /// Only this measurement
    #[arg(long, value_name = "WHICH", value_enum)]
    only: Option<Part>,

    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The dispatcher and nodes are killed
    Deaths,
    /// All nodes join and leave
    Join,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The dispatcher and nodes are killed")]
struct DeathArguments {
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 50)]
    nodes: usize,

    /// Processes that the nodes are spread over
    #[arg(long, value_name = "N", default_value_t = 10)]
    processes: usize,

    /// Topics, each with one publisher
    #[arg(long, value_name = "N", default_value_t = 200)]
    topics: usize,

    /// Subscribers of each topic
    #[arg(long, value_name = "N", default_value_t = 5)]
    subscribers: usize,

    /// How often the dispatcher is killed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    restarts: u16,

    /// Topics with traffic meanwhile
    #[arg(long, value_name = "N", default_value_t = 10)]
    pairs: usize,

    /// Messages a second on each of them
    #[arg(long, value_name = "HZ", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Milliseconds for which the traffic is watched, without a kill and for each kill
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    window: u64,

    /// Nodes that are killed, one after the other
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    deaths: u16,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "All nodes join and leave")]
struct JoinArguments {
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 200)]
    join_nodes: usize,

    /// Processes that the nodes are spread over
    #[arg(long, value_name = "N", default_value_t = 8)]
    join_processes: usize,

    /// Topics, each with one publisher
    #[arg(long, value_name = "N", default_value_t = 1000)]
    join_topics: usize,

    /// Subscribers of each topic
    #[arg(long, value_name = "N", default_value_t = 10)]
    join_subscribers: usize,
}

fn main() -> ExitCode {
    let outcome = if worker::is_worker() { worker::work(prepare) } else { scale(&Arguments::parse()) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn scale(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let place = Place::new()?;
    if arguments.only != Some(Part::Join) {
        kill(&arguments.deaths, &place.0.join("deaths.sock"), arguments.json)?;
    }
    if arguments.only != Some(Part::Deaths) {
        let JoinArguments { join_nodes, join_processes, join_topics, join_subscribers } = arguments.join;
        let plan =
            Plan { nodes: join_nodes, processes: join_processes, topics: join_topics, subscribers: join_subscribers };
        let mut fleet = Fleet::start(&place.0.join("join.sock"), plan)?;
        print(&join::measure(&mut fleet)?, arguments.json)?;
    }
    Ok(())
}

fn kill(arguments: &DeathArguments, socket: &Path, json: bool) -> Result<(), ScaleError> {
    let DeathArguments { nodes, processes, topics, subscribers, restarts, pairs, rate, window, deaths } = *arguments;
    let mut fleet = Fleet::start(socket, Plan { nodes, processes, topics, subscribers })?;
    let before = Costs::of(&fleet)?;
    let settings = reattach::Settings { restarts: restarts.into(), pairs, rate, window: Duration::from_millis(window) };
    print(&reattach::measure(&mut fleet, settings)?, json)?;
    print(&death::measure(&mut fleet, deaths.into())?, json)?;
    join::leave(&mut fleet, &before)
}

fn print(result: &(impl Serialize + std::fmt::Display), json: bool) -> Result<(), ScaleError> {
    let text =
        if json { serde_json::to_string(result).map_err(|error| failed(error.into()))? } else { result.to_string() };
    writeln!(io::stdout(), "{text}").map_err(failed)
}

fn failed(source: io::Error) -> ScaleError {
    ScaleError::Io { doing: "print a result", source }
}

/// A folder of this run's own, for the sockets.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Place> {
        let path = std::env::temp_dir().join(format!("nodeset-scale-{}", std::process::id()));
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
