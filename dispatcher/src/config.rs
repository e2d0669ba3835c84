//! The configuration as resolved; every default is here.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use nodeset_bus::protocol::endpoint::{Endpoint, EndpointError};
use nodeset_bus::sys::memory_limit;

#[cfg(feature = "bridge")]
use crate::bridge::config::BridgeConfig;
use crate::policy::Policy;
use crate::registry::{Limits, Quotas};
use crate::{Access, Patience, Replace};

/// bytes; what may wait for a session that does not read
pub const DEFAULT_QUEUE_BYTES: usize = 4 << 20;
/// How long a link that only one end named waits for the other end.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// The log may take this part of the memory: one in so many bytes.
const PART_OF_MEMORY: u64 = 4;

/// What a dispatcher does and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where its socket is.
    pub endpoint: Endpoint,
    /// It runs on a thread of some node's process: it leaves to a standalone one that asks. Set by
    /// [`Dispatcher::start_embedded`](crate::Dispatcher::start_embedded).
    pub embedded: bool,
    /// Who may connect.
    pub access: Access,
    /// Who may publish and subscribe what.
    pub policy: Policy,
    /// Whom it takes the socket from.
    pub replace: Replace,
    /// The name under which tools find its board; `None` for none. The instance's, unless the socket's path was given.
    pub board: Option<String>,
    /// Name of this host, as nodes are told.
    pub host: String,
    /// How long a link that only one end named waits for the other end.
    pub grace: Duration,
    /// From when on a silent node is called slow or stopped.
    pub patience: Patience,
    /// What is refused.
    pub limits: Limits,
    /// What each user may have of it.
    pub quotas: Quotas,
    /// bytes; a session for which more waits is ended
    pub queue_bytes: usize,
    /// Other hosts.
    #[cfg(feature = "bridge")]
    pub bridge: BridgeConfig,
}

impl Config {
    /// The defaults, at that endpoint.
    pub fn at(endpoint: Endpoint) -> Config {
        let board = endpoint.instance().map(str::to_owned);
        let host = node_name();
        Config {
            #[cfg(feature = "bridge")]
            bridge: BridgeConfig::none(&host),
            endpoint,
            embedded: false,
            access: Access::default(),
            policy: Policy::default(),
            replace: Replace::Embedded,
            board,
            host,
            grace: DEFAULT_GRACE,
            patience: Patience::default(),
            limits: Limits { log_bytes: log_bytes(u64::MAX), ..Limits::default() },
            quotas: Quotas::default(),
            queue_bytes: DEFAULT_QUEUE_BYTES,
        }
    }

    /// The defaults, where [`Endpoint::resolve`] says.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::resolve`].
    pub fn resolve(instance: &str, socket: Option<&Path>) -> Result<Config, EndpointError> {
        Endpoint::resolve(instance, socket).map(Config::at)
    }
}

/// What the system calls this host.
pub(crate) fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// bytes; the most that a log may have: `wished`, but no more than a quarter of the memory that this process may use.
pub fn log_bytes(wished: u64) -> u64 {
    wished.min(memory_limit() / PART_OF_MEMORY)
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            endpoint,
            embedded,
            access,
            policy,
            replace,
            board,
            host,
            grace,
            patience,
            limits,
            quotas,
            queue_bytes,
            #[cfg(feature = "bridge")]
            bridge,
        } = self;
        let Limits { nodes, publications, subscriptions, topics, links, log_bytes } = limits;
        writeln!(f, "socket            {}", endpoint.path().display())?;
        writeln!(f, "mode              {:o}", access.mode)?;
        writeln!(f, "group             {}", said(access.group))?;
        match policy.path() {
            Some(path) => writeln!(f, "policy            {} ({} rules)", path.display(), policy.len())?,
            None => writeln!(f, "policy            none")?,
        }
        writeln!(f, "board             {}", board.as_deref().unwrap_or("none"))?;
        writeln!(f, "host              {host}")?;
        writeln!(f, "embedded          {embedded}")?;
        writeln!(f, "replace           {}", format!("{replace:?}").to_lowercase())?;
        writeln!(f, "grace-seconds     {}", grace.as_secs_f64())?;
        writeln!(f, "slow-after        {}", patience.slow_after.as_secs_f64())?;
        writeln!(f, "stopped-after     {}", patience.stopped_after.as_secs_f64())?;
        writeln!(f, "max-nodes         {nodes}")?;
        writeln!(f, "max-publications  {publications}")?;
        writeln!(f, "max-subscriptions {subscriptions}")?;
        writeln!(f, "max-topics        {topics}")?;
        writeln!(f, "max-links         {links}")?;
        writeln!(f, "max-log-bytes     {log_bytes}")?;
        let Quotas { nodes, publications, subscriptions, topics, segments, bytes } = quotas;
        writeln!(f, "max-queue-bytes   {queue_bytes}")?;
        writeln!(f, "user-nodes        {}", said(*nodes))?;
        writeln!(f, "user-publications {}", said(*publications))?;
        writeln!(f, "user-subscriptions {}", said(*subscriptions))?;
        writeln!(f, "user-topics       {}", said(*topics))?;
        writeln!(f, "user-segments     {}", said(*segments))?;
        write!(f, "user-bytes        {}", said(*bytes))?;
        #[cfg(feature = "bridge")]
        if bridge.is_wanted() {
            write!(f, "\n{bridge}")?;
        }
        Ok(())
    }
}

fn said(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "default".to_owned(), |value| value.to_string())
}
