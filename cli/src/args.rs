//! Arguments as typed.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nodeset::AppOptions;

/// Look into a NodeSet bus, and take part in it, from a terminal.
///
/// In one terminal `nodeset echo greeting`, in another one `nodeset pub greeting hello`: the message crosses. Nothing has to be
/// started before.
#[derive(Debug, Parser)]
#[command(name = "nodeset", version)]
pub(crate) struct Program {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish text on a topic
    Pub(PubArgs),
    /// Print what is published on a topic or on all topics of a pattern, one line a message
    Echo(EchoArgs),
    /// Print who is there: nodes, publications, subscriptions
    List(ListArgs),
    /// Make the keys of this host, for a bridge to others
    Keygen(KeygenArgs),
    /// Run the dispatcher of this host, as `nodeset-dispatcher` does
    Dispatcher(Box<nodeset_dispatcher::cli::Args>),
}

#[derive(Debug, Args)]
pub(crate) struct PubArgs {
    /// Where to publish
    pub(crate) topic: String,

    /// What to publish
    pub(crate) text: String,

    /// How often; 0 goes on until it is interrupted
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1)]
    pub(crate) count: u64,

    /// Messages a second, when there is more than one
    #[arg(long, value_name = "HZ", default_value_t = 1.0, value_parser = rate)]
    pub(crate) rate: f64,

    /// Wait until so many subscribers are there
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) subscribers: usize,

    /// How long to wait for them; without them nothing is published
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) wait: Duration,

    #[command(flatten)]
    pub(crate) nodeset: AppOptions,
}

#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// What to listen to: a topic (`robot/arm`), a pattern (`robot/*`, `robot/**`), or those of one node (`arm@local/robot/**`)
    pub(crate) topic: String,

    /// End after so many messages; 0 goes on until it is interrupted
    #[arg(long, short = 'n', value_name = "N", default_value_t = 0)]
    pub(crate) count: u64,

    /// Miss nothing: publishers wait for this terminal
    #[arg(long)]
    pub(crate) reliable: bool,

    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,

    /// Begin with so many messages that were published before, if their publisher keeps them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) history: u64,

    #[command(flatten)]
    pub(crate) nodeset: AppOptions,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("of_board").args(["links", "peers"]))]
pub(crate) struct ListArgs {
    /// Print each link: how far its subscriber is behind, and which one of a publication's is slowest. Read from the
    /// dispatcher's board, also when it is dead
    #[arg(long)]
    pub(crate) links: bool,

    /// Print each other host that the dispatcher's bridge knows: whether it is connected, round trip, what was sent, sent
    /// again, received and lost, how far it is behind, why the last connection ended. Read from the board as well
    #[arg(long, conflicts_with = "links")]
    pub(crate) peers: bool,

    /// The board's name, if it is not the instance's
    #[arg(long, value_name = "NAME", requires = "of_board")]
    pub(crate) board: Option<String>,

    /// One JSON object a line
    #[arg(long, requires = "of_board")]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) nodeset: AppOptions,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Where the private key is written, for its owner only; the public one comes beside it, with `.pub` at its end. Nothing is
    /// overwritten
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if f64::is_finite(rate) && rate > 0.0 => Ok(rate),
        _ => Err("give a number above 0".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// An error and what caused it, unless the error's own text says so already.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in
            [&["x", "pub", "a", "b", "--rate", "0"][..], &["x", "pub", "a", "b", "--wait", "-1"], &["x", "echo"]]
        {
            assert!(Program::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
    }
}
