//! Two hosts whose link is cut and whose dispatchers are killed, again and again, while numbered messages cross.
//!
//! ```text
//! cargo run --release --bin bridge_soak -- --messages 10000000 --cuts 1000
//! ```
//!
//! A publisher on host a, a subscriber on host b that may miss nothing (`reliable_across_hosts`). Connections are cut at random
//! bytes, and with `--kills` either dispatcher is killed in turn. One sees how it goes on, then
//!
//! ```text
//! 10000000 messages, 1000 connections cut, 0 dispatchers killed: 0 lost (0 told), 0 repeated, 0 damaged; the longest silence took 0.4 s
//! ```
//!
//! It exits with 0 only if nothing was lost, repeated or damaged. So far that holds for connections that are cut; when the
//! publisher's dispatcher is killed, what it had read and not sent is lost, and the subscriber is told how much.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nodeset_examples::bridge_soak::{Plan, run};
use nodeset_examples::programs::Programs;

/// Cut the link between two hosts and kill their dispatchers while numbered messages cross, and check each of them
#[derive(Debug, Parser)]
#[command(name = "bridge_soak", version)]
struct Arguments {
    /// Messages in all
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    messages: u64,

    /// bytes of each
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    size: u32,

    /// Connections that are cut, at random bytes
    #[arg(long, value_name = "N", default_value_t = 100)]
    cuts: u32,

    /// Dispatchers that are killed, of either host in turn
    #[arg(long, value_name = "N", default_value_t = 0)]
    kills: u32,

    /// What decides where connections are cut
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// Where the program nodeset is, and mnode and mnode_publish; without it, cargo builds them first
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    match soak(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bridge_soak: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let programs = match &arguments.programs {
        Some(directory) => Programs::of(directory)?,
        None => Programs::built()?,
    };
    let Arguments { messages, size, cuts, kills, seed, .. } = *arguments;
    let summary = run(&Plan { messages, size: size as usize, cuts, kills, seed }, &programs)?;
    println!("{summary}");
    Ok(summary.held())
}
