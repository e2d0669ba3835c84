//! Nodes that speak: publishes what this machine is doing, for `mnode` to print.
//!
//! ```text
//! cargo run --release --bin mnode            # in one terminal
//! cargo run --release --bin mnode_publish    # in another one
//! ```
//!
//! It says on standard error to how many it speaks; the readings (load of each core, memory, network) are real.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use nodeset::{AppOptions, NodeBuilder, PublishError};
use nodeset_examples::machine::{Machine, TOPIC};
use nodeset_examples::stop::{ReconnectOnHangup, Stop};

/// Publish what this machine is doing: load of each core, memory, network. Logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "mnode_publish", version)]
struct Arguments {
    /// How many nodes publish, all in this process
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,

    /// Readings a second of each node
    #[arg(long, value_name = "HZ", default_value_t = 2.0, value_parser = rate)]
    rate: f64,

    /// End after so many readings; 0 goes on until it is interrupted
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,

    #[command(flatten)]
    nodeset: AppOptions,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("give a number from 0.001 to 1000000".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mnode_publish: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    arguments.nodeset.start_logging()?;
    let stop = Stop::on_signals()?;
    let (mut nodes, mut publishers) = (Vec::new(), Vec::new());
    for _ in 0..arguments.nodes {
        let node = NodeBuilder::from_options(&arguments.nodeset, "sensor").connect()?;
        publishers.push((node.publisher(TOPIC).create()?, Machine::new()));
        nodes.push(node);
    }
    let _hangup = ReconnectOnHangup::of(nodes)?;
    let interval = Duration::from_secs_f64(1.0 / arguments.rate);
    let (mut due, mut sent, mut spoken_to) = (Instant::now(), 0, None);
    while !stop.wait_until(due) {
        for (publisher, machine) in &mut publishers {
            match publisher.publish(&machine.read()?) {
                Ok(_) => {}
                // Somebody asked for every message and does not read: this reading is lost to all, the next one may not be.
                Err(error @ PublishError::Full { .. }) => eprintln!("mnode_publish: {error}"),
                Err(error) => return Err(error.into()),
            }
        }
        let subscribers = publishers[0].0.subscribers();
        if spoken_to.replace(subscribers) != Some(subscribers) {
            eprintln!("mnode_publish: {subscribers} listening");
        }
        sent += 1;
        if sent == arguments.count {
            break;
        }
        due += interval;
    }
    Ok(())
}
