//! The `nodeset` command: what people do with a bus from a terminal.

#![forbid(unsafe_code)]

mod args;
mod echo;
mod keygen;
mod links;
mod list;
mod peers;
mod publish;

use std::process::ExitCode;

use clap::Parser;

use args::{Command, Program};

fn main() -> ExitCode {
    let outcome = match Program::parse().command {
        Command::Pub(args) => publish::run(&args),
        Command::Echo(args) => echo::run(&args),
        Command::List(args) => list::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Dispatcher(args) => return nodeset_dispatcher::cli::main_with(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodeset: {}", args::chain(&*error));
            ExitCode::FAILURE
        }
    }
}
