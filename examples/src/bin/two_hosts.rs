//! Two hosts on one machine: what is published on one is heard on the other, while the link between them is cut and one of
//! the dispatchers is killed.
//!
//! ```text
//! cargo run --release --bin two_hosts
//! ```
//!
//! With the right to make network namespaces (root has it), each host is one of its own, and a veth pair is the link between
//! them; without it, both are ports on the loopback and the link is a small proxy. One sees, within a minute:
//!
//! ```text
//! link: network namespaces nodeset-4711-a and nodeset-4711-b, 198.18.0.1 and 198.18.0.2, encrypted
//! connected: host a listens on 198.18.0.1:7411, host b dials it
//! heard on a: [mnode] sensor: #1 myhost load 3% 11%, memory 4.1 of 31.2 GiB
//! cut: a has lost b, mnode and mnode_publish know nothing of it
//! back: [mnode] sensor: #250 myhost load 3% 12%, memory 4.1 of 31.2 GiB
//! killed: the dispatcher of b, while mnode_publish publishes on
//! back: [mnode] sensor: #261 myhost load 4% 11%, memory 4.1 of 31.2 GiB
//! held: 31 readings arrived, in order and none twice; 240 were missed
//! ```
//!
//! Who asks for all (`.reliable()`) gets what the other host retained meanwhile; `mnode` asks for the newest, and is told what it
//! missed. It exits with 0 only if all of that held.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nodeset_examples::programs::Programs;
use nodeset_examples::two_hosts;

/// Show two hosts on one machine: mnode on one hears mnode_publish on the other, the link is cut, a dispatcher is killed
#[derive(Debug, Parser)]
#[command(name = "two_hosts", version)]
struct Arguments {
    /// Where the programs nodeset, mnode and mnode_publish are; without it, cargo builds them first
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,

    /// Two ports on the loopback, also with the right to make network namespaces
    #[arg(long)]
    loopback: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("two_hosts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error + Send + Sync>> {
    let programs = match &arguments.programs {
        Some(directory) => Programs::of(directory)?,
        None => Programs::built()?,
    };
    two_hosts::show(&programs, arguments.loopback)
}
