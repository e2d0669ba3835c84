//! Options that every program with a node has.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nodeset_bus::protocol::endpoint::{DEFAULT_INSTANCE, Endpoint, EndpointError};
use tracing_subscriber::EnvFilter;

/// What a program with nodes is told on its command line; to flatten into its own arguments. Logs go to standard error.
///
/// ```
/// use clap::Parser;
/// use nodeset::{AppOptions, Node};
///
/// #[derive(Parser)]
/// struct Arguments {
///     #[command(flatten)]
///     nodeset: AppOptions,
///     /// Messages a second
///     #[arg(long, default_value_t = 10)]
///     rate: u32,
/// }
///
/// let arguments = Arguments::parse_from(["program", "--rate", "20", "--instance", "doc-options"]);
/// arguments.nodeset.start_logging()?;
/// let node = Node::from_options(&arguments.nodeset, "camera")?;
/// assert_eq!(&*node.name(), "camera");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NodeSet options")]
pub struct AppOptions {
    /// Path of the dispatcher's socket, instead of the one that follows from the instance's name
    #[arg(long, value_name = "PATH", env = "NODESET_DISPATCHER")]
    pub dispatcher: Option<PathBuf>,

    /// Name of the dispatcher among those of this user
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INSTANCE, env = "NODESET_INSTANCE")]
    pub instance: String,

    /// Name of the node, instead of the program's own choice; a suffix is added to one that is taken
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `nodeset=debug`
    #[arg(long, value_name = "LEVEL", default_value = "warn", env = "NODESET_LOG")]
    pub log_level: String,

    /// How it is logged, on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Never run a dispatcher in this process: fail where none is there
    #[arg(long)]
    pub no_embedded: bool,
}

/// How log lines are written.
///
/// ```
/// use clap::Parser;
/// use nodeset::{AppOptions, LogFormat};
///
/// #[derive(Parser)]
/// struct Arguments {
///     #[command(flatten)]
///     nodeset: AppOptions,
/// }
///
/// let arguments = Arguments::parse_from(["program", "--log-format", "json"]);
/// assert_eq!(arguments.nodeset.log_format, LogFormat::Json);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, ValueEnum)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl Default for AppOptions {
    fn default() -> AppOptions {
        AppOptions {
            dispatcher: None,
            instance: DEFAULT_INSTANCE.to_owned(),
            node_name: None,
            log_level: "warn".to_owned(),
            log_format: LogFormat::Text,
            no_embedded: false,
        }
    }
}

impl AppOptions {
    /// Starts logging to standard error, unless the process logs already.
    ///
    /// # Errors
    ///
    /// When `log_level` is neither a level nor a filter.
    pub fn start_logging(&self) -> Result<(), LogLevelError> {
        let filter =
            EnvFilter::builder().parse(&self.log_level).map_err(|_| LogLevelError { given: self.log_level.clone() })?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        // An error here: the process logs already.
        let _ = match self.log_format {
            LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
        Ok(())
    }

    /// Where the dispatcher's socket is.
    ///
    /// ```
    /// use nodeset::AppOptions;
    ///
    /// let options = AppOptions { dispatcher: Some("/run/robot/d.sock".into()), ..AppOptions::default() };
    /// println!("the dispatcher listens at {}", options.endpoint()?.path().display());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The instance's name is not valid, or the path too long.
    pub fn endpoint(&self) -> Result<Endpoint, EndpointError> {
        Endpoint::resolve(&self.instance, self.dispatcher.as_deref())
    }
}

/// Give a level or a filter.
///
/// ```
/// use nodeset::AppOptions;
///
/// let options = AppOptions { log_level: "[loud".to_owned(), ..AppOptions::default() };
/// let error = options.start_logging().unwrap_err();
/// assert!(error.to_string().starts_with("`[loud` is no log level"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no log level: give error, warn, info, debug, trace, or a filter such as `nodeset=debug`")]
pub struct LogLevelError {
    given: String,
}
