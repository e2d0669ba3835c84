//! Arguments as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, ValueEnum};
use nix::unistd::Group;
use nodeset_bus::page::HEARTBEAT_EVERY;
use nodeset_bus::protocol::endpoint::{DEFAULT_INSTANCE, EndpointError, check_instance};
use thiserror::Error;

use crate::Replace;
#[cfg(feature = "bridge")]
use crate::bridge::config::{BridgeConfigError, args::BridgeArgs};
use crate::config::{self, Config};
use crate::policy;
use crate::policy::file::PolicyError;
use crate::registry::Quotas;

/// The NodeSet dispatcher: keeps the table of who publishes and who subscribes on this host, and hands out the shared
/// memory. Messages never pass through it; nodes go on when it ends, and come back to the next one.
#[derive(Debug, Clone, Parser)]
#[command(name = "nodeset-dispatcher", version)]
pub struct Program {
    /// What the program takes.
    #[command(flatten)]
    pub args: Args,
}

/// What a dispatcher is told on the command line; to flatten into other programs.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Name of this dispatcher among those of this user; nodes find it by the same name
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INSTANCE)]
    pub instance: String,

    /// Path of the socket, instead of the one that follows from the instance's name: $XDG_RUNTIME_DIR/nodeset/NAME.sock,
    /// /run/nodeset/NAME.sock for a system service, or a folder of this user's in the temporary directory
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Mode of the socket, in octal: who has the permission to write may connect; root always may [default: 600, or 660 with
    /// --group]
    #[arg(long, value_name = "MODE", value_parser = socket_mode)]
    pub mode: Option<u32>,

    /// Group of the socket, by name or number: its members may connect
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub group: Option<u32>,

    /// File with rules: which user or group may publish or subscribe which topics (docs/security.md). Read again at SIGHUP
    /// [default: all who can connect may do all]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Take over from a dispatcher that is running: it hands its socket over and leaves, nodes go on and come to this one.
    /// With `force`, a process that holds the socket and does not answer is ended, whatever else it does. (Embedded
    /// dispatchers of nodes always make way.)
    #[arg(long, value_name = "HOW", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "ask")]
    pub replace: Option<ReplaceHow>,

    /// Name under which `nodeset list --links` finds what this dispatcher knows, also after its death [default: the
    /// instance's; none with --socket]
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,

    /// Keep no board: nothing in /dev/shm
    #[arg(long, conflicts_with = "board")]
    pub no_board: bool,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `nodeset_dispatcher=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// How it is logged, on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Most nodes at a time [default: 4096]
    #[arg(long, value_name = "N")]
    pub max_nodes: Option<usize>,

    /// Most publications of all nodes [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_publications: Option<usize>,

    /// Most subscriptions of all nodes [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_subscriptions: Option<usize>,

    /// Most different topics [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_topics: Option<usize>,

    /// Most links between publications and subscriptions [default: 262144]
    #[arg(long, value_name = "N")]
    pub max_links: Option<usize>,

    /// Most bytes of one publication's log [default: a quarter of the memory, which is also the most]
    #[arg(long, value_name = "BYTES")]
    pub max_log_bytes: Option<u64>,

    /// Most bytes that may wait for a session that does not read; beyond that it is ended [default: 4194304]
    #[arg(long, value_name = "BYTES")]
    pub max_queue_bytes: Option<usize>,

    /// Most nodes of each user; as the other --user options, by default a quarter of the whole for each user but the
    /// dispatcher's own and root
    #[arg(long, value_name = "N")]
    pub user_nodes: Option<usize>,

    /// Most publications of each user
    #[arg(long, value_name = "N")]
    pub user_publications: Option<usize>,

    /// Most subscriptions of each user
    #[arg(long, value_name = "N")]
    pub user_subscriptions: Option<usize>,

    /// Most different topics of each user
    #[arg(long, value_name = "N")]
    pub user_topics: Option<usize>,

    /// Most segments of each user: one a node, one a publication
    #[arg(long, value_name = "N")]
    pub user_segments: Option<usize>,

    /// Most bytes of each user's segments, touched or not; a log whose publisher asks for no size then gets a sixteenth
    /// [default: --max-log-bytes for other users]
    #[arg(long, value_name = "BYTES")]
    pub user_bytes: Option<u64>,

    /// How long, after this dispatcher took over, a link named by one end only waits for the other end [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub grace_seconds: Option<Duration>,

    /// A node whose heart has not beaten for so long is called slow; it beats twice a second [default: 1.5]
    #[arg(long, value_name = "SECONDS", value_parser = silence, allow_negative_numbers = true)]
    pub slow_after: Option<Duration>,

    /// A node whose heart has not beaten for so long is called stopped, as is at once one that was stopped by a signal. Nothing
    /// else happens to either [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = silence, allow_negative_numbers = true)]
    pub stopped_after: Option<Duration>,

    /// Print what follows from all this, and end
    #[arg(long)]
    pub print_config: bool,

    /// Other hosts.
    #[cfg(feature = "bridge")]
    #[command(flatten)]
    pub bridge: BridgeArgs,
}

/// The arguments do not make a configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Give another instance or path.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Correct the file.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Correct the options or the file.
    #[cfg(feature = "bridge")]
    #[error(transparent)]
    Bridge(#[from] BridgeConfigError),
}

/// How a running dispatcher is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplaceHow {
    /// It is asked to hand over
    Ask,
    /// The same, and ended if it does not answer
    Force,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Args {
    /// The configuration that follows.
    ///
    /// # Errors
    ///
    /// There is no such place for a socket, or the policy cannot be read.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let mut config = Config::resolve(&self.instance, self.socket.as_deref())?;
        config.replace = match self.replace {
            None => Replace::Embedded,
            Some(ReplaceHow::Ask) => Replace::Any,
            Some(ReplaceHow::Force) => Replace::Force,
        };
        if let Some(board) = &self.board {
            check_instance(board)?;
            config.board = Some(board.clone());
        }
        if self.no_board {
            config.board = None;
        }
        config.access.group = self.group;
        config.access.mode = self.mode.unwrap_or(if self.group.is_some() { 0o660 } else { config.access.mode });
        if let Some(path) = &self.policy {
            config.policy = policy::file::read(path)?;
        }
        let limits = &mut config.limits;
        set(&mut limits.nodes, self.max_nodes);
        set(&mut limits.publications, self.max_publications);
        set(&mut limits.subscriptions, self.max_subscriptions);
        set(&mut limits.topics, self.max_topics);
        set(&mut limits.links, self.max_links);
        set(&mut limits.log_bytes, self.max_log_bytes.map(config::log_bytes));
        set(&mut config.queue_bytes, self.max_queue_bytes);
        set(&mut config.grace, self.grace_seconds);
        set(&mut config.patience.slow_after, self.slow_after);
        set(&mut config.patience.stopped_after, self.stopped_after);
        config.quotas = Quotas {
            nodes: self.user_nodes,
            publications: self.user_publications,
            subscriptions: self.user_subscriptions,
            topics: self.user_topics,
            segments: self.user_segments,
            bytes: self.user_bytes,
        };
        #[cfg(feature = "bridge")]
        {
            config.bridge = self.bridge.resolve(&config.host)?;
            config.host = config.bridge.host.to_string();
        }
        Ok(config)
    }
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

/// A socket's mode: its owner can connect in any case, and there is nothing to execute.
fn socket_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => {
            Err("give three octal digits, 6 for the owner, then 0, 2, 4 or 6 for group and others; 660 is usual"
                .to_owned())
        }
    }
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err("there is no such group on this machine: correct the name, or give a number".to_owned()),
        Err(error) => Err(format!("it cannot be looked up ({error})")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// How long a heart may be silent: with less than two beats everybody would be called slow now and then.
fn silence(text: &str) -> Result<Duration, String> {
    let least = 2 * HEARTBEAT_EVERY;
    let given = seconds(text)?;
    if given < least { Err(format!("give at least {} s: two beats", least.as_secs_f64())) } else { Ok(given) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Patience;
    use crate::registry::Limits;

    #[test]
    fn the_help_names_the_defaults_that_are() {
        Program::command().debug_assert();
        let help = Program::command().render_long_help().to_string();
        let limits = Limits::default();
        for (option, default) in [
            ("--max-nodes", limits.nodes),
            ("--max-publications", limits.publications),
            ("--max-subscriptions", limits.subscriptions),
            ("--max-topics", limits.topics),
            ("--max-links", limits.links),
            ("--max-queue-bytes", config::DEFAULT_QUEUE_BYTES),
            ("--grace-seconds", config::DEFAULT_GRACE.as_secs() as usize),
            ("--stopped-after", Patience::default().stopped_after.as_secs() as usize),
        ] {
            let about = help.split(option).nth(1).unwrap_or_else(|| panic!("{option} is not in the help"));
            let about = about.split("--").next().unwrap();
            assert!(about.contains(&format!("[default: {default}]")), "{option}: {about}");
        }
    }

    #[test]
    fn what_is_given_wins_and_can_be_printed() {
        let typed =
            ["x", "--socket", "/tmp/a.sock", "--max-nodes", "7", "--grace-seconds", "0.5", "--max-log-bytes", "4096"];
        let config = Program::parse_from(typed).args.resolve().unwrap();
        assert_eq!((config.limits.nodes, config.limits.log_bytes), (7, 4096));
        let printed = config.to_string();
        for line in ["socket            /tmp/a.sock", "max-nodes         7", "grace-seconds     0.5"] {
            assert!(printed.contains(line), "{printed}");
        }
        assert!(Program::try_parse_from(["x", "--grace-seconds", "-1"]).is_err());
        assert!(Program::try_parse_from(["x", "--slow-after", "0.9"]).is_err());
    }
}
