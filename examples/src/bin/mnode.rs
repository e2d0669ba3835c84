//! Nodes that listen: prints what `mnode_publish` says about the machine, one line a message.
//!
//! ```text
//! cargo run --release --bin mnode            # in one terminal
//! cargo run --release --bin mnode_publish    # in another one
//! ```
//!
//! One sees, twice a second for each publisher and once for each listening node:
//!
//! ```text
//! [mnode] sensor: #4 myhost load 3% 11%, memory 4.1 of 31.2 GiB, eth0 +1204/+860 bytes
//! ```
//!
//! Kill and start either as you like: the other one goes on. SIGHUP makes its nodes look for their dispatcher at once.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nodeset::{AppOptions, Node, NodeBuilder};
use nodeset_examples::machine::{Reading, TOPIC};
use nodeset_examples::stop::{ReconnectOnHangup, Stop};

/// Print what `mnode_publish` says about the machine, one line a message on standard output; logs go to standard error.
#[derive(Debug, Parser)]
#[command(name = "mnode", version)]
struct Arguments {
    /// How many nodes listen, all in this process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,

    /// End after so many messages at each node; 0 goes on until it is interrupted
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,

    #[command(flatten)]
    nodeset: AppOptions,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mnode: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error + Send + Sync>> {
    arguments.nodeset.start_logging()?;
    let stop = Stop::on_signals()?;
    let mut nodes = Vec::new();
    for _ in 0..arguments.nodes {
        nodes.push(NodeBuilder::from_options(&arguments.nodeset, "mnode").connect()?);
    }
    let _hangup = ReconnectOnHangup::of(nodes.clone())?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| {
                scope.spawn(|| {
                    let outcome = listen(node, arguments.count, &stop);
                    if outcome.is_err() {
                        stop.ask();
                    }
                    outcome
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("listening does not panic"))
    })
}

fn listen(node: &Node, count: u64, stop: &Stop) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut subscriber = node.subscriber::<Reading>(TOPIC).create()?;
    let mut received = 0;
    while !stop.is_asked() && (count == 0 || received < count) {
        // The time limit is for the signals.
        let Some(reading) = subscriber.receive_timeout(Duration::from_millis(200))? else { continue };
        if reading.missed_before() > 0 {
            eprintln!("mnode: {} messages of {} were missed", reading.missed_before(), reading.publisher());
        }
        let line = format!("[{}] {}: {}\n", node.name(), reading.publisher(), *reading);
        let mut out = io::stdout().lock();
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => received += 1,
            // Whoever read our output has gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
