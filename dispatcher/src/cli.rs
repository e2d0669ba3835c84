//! The dispatcher as a program: what `nodeset-dispatcher` and `nodeset dispatcher` do.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

pub use crate::args::{Args, ConfigError, LogFormat, Program, ReplaceHow};

use crate::allocate::{chain, raise_descriptor_limit};
use crate::{RunError, Shutdown, policy, run};

/// The program ended with an error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Give another instance, path or policy.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Give a level or filter.
    #[error(
        "`{0}` is no log level: give error, warn, info, debug, trace, or a filter such as `nodeset_dispatcher=debug`"
    )]
    LogLevel(String),
    /// The kernel refused to tell signals.
    #[error("signals cannot be caught")]
    Signals(#[source] io::Error),
    /// The dispatcher could not start or go on.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs a dispatcher until SIGINT or SIGTERM, or SIGHUP if it has no policy to read again; says on standard error what went wrong. Sets the process' log subscriber,
/// unless there is one.
pub fn main_with(args: &Args) -> ExitCode {
    match run_program(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodeset-dispatcher: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run_program(args: &Args) -> Result<(), ProgramError> {
    let config = args.resolve()?;
    if args.print_config {
        println!("{config}");
        return Ok(());
    }
    start_logging(args)?;
    raise_descriptor_limit();
    let shutdown = Shutdown::new();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(ProgramError::Signals)?;
    let handle = signals.handle();
    let (on_signal, reloading) = (shutdown.clone(), args.clone());
    let watcher = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            info!(event = "signal", signal);
            // Also SIGHUP, when there is nothing to read again: its terminal was closed.
            if signal != SIGHUP || !reload(&reloading, &on_signal) {
                on_signal.request();
            }
        }
    });
    let watcher = watcher.map_err(ProgramError::Signals)?;
    let outcome = run(config, shutdown);
    handle.close();
    // The thread only waits for signals; it has nothing that could be lost.
    drop(watcher.join());
    Ok(outcome?)
}

/// Reads again what stands in files; what is wrong changes nothing. False: nothing does.
fn reload(args: &Args, dispatcher: &Shutdown) -> bool {
    if let Some(path) = &args.policy {
        match policy::file::read(path) {
            Ok(policy) => dispatcher.set_policy(policy),
            Err(error) => error!(event = "policy_refused", why = chain(&error), "the rules from before hold on"),
        }
    }
    reload_bridge(args, dispatcher) || args.policy.is_some()
}

#[cfg(feature = "bridge")]
fn reload_bridge(args: &Args, dispatcher: &Shutdown) -> bool {
    if args.bridge.config.is_none() {
        return false;
    }
    match args.bridge.resolve(&crate::config::node_name()) {
        Ok(config) => dispatcher.set_bridge(config),
        Err(error) => error!(event = "bridge_refused", why = chain(&error), "the hosts from before stay"),
    }
    true
}

#[cfg(not(feature = "bridge"))]
fn reload_bridge(_args: &Args, _dispatcher: &Shutdown) -> bool {
    false
}

fn start_logging(args: &Args) -> Result<(), ProgramError> {
    let filter =
        EnvFilter::builder().parse(&args.log_level).map_err(|_| ProgramError::LogLevel(args.log_level.clone()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error here: the program that we are part of logs already.
    let _ = match args.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
