//! The bridge: joins this dispatcher with those of other hosts.
//!
//! [`codec`] says how records look on the wire; [`peer`] decides everything about one other host and touches nothing.
//! [`config`] says which hosts there are, [`transport`] carries bytes there and back, [`local`] is the bridge's node on the bus of
//! this host. `engine` joins them on a thread of its own. The protocol is described in `docs/bridge-protocol.md`.

pub mod codec;
pub mod config;
pub mod local;
pub mod peer;
pub mod transport;

mod engine;
mod host;
mod mirrors;
mod outbox;
mod sources;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Sender, unbounded};
use mio::{Poll, Token, Waker};
use nodeset_bus::board::BoardPeer;
use nodeset_bus::protocol::endpoint::Endpoint;
use thiserror::Error;
use tracing::{error, info};

use crate::allocate::chain;
use crate::policy::Policy;
use crate::registry::News;
use config::BridgeConfig;
use engine::Engine;
use local::{LocalError, LocalNode};
use transport::network::{Conduct, Network, NetworkError};

const WAKER: Token = Token(0);
/// Of the bridge's node on the bus.
const LOCAL: std::ops::Range<usize> = 1..1 << 30;
/// Of sockets.
const NETWORK: Token = Token(LOCAL.end);
/// Name of the bridge's node on the bus.
const NODE: &str = "bridge";

/// What the bridge is told.
pub(crate) enum Command {
    News(News),
    Config(Box<BridgeConfig>),
    Policy(Box<Policy>),
    Stop,
}

/// The bridge could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// See there.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// See there.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The kernel refused something.
    #[error("{doing} failed")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// A bridge that runs on a thread of its own; dropped, it says goodbye to all hosts and ends.
#[derive(Debug)]
pub(crate) struct Bridge {
    commands: Sender<Command>,
    waker: Waker,
    shown: Arc<Mutex<Vec<BoardPeer>>>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Listens and dials as `config` says. The dispatcher must listen at `endpoint`, and serve soon.
    ///
    /// # Errors
    ///
    /// It cannot listen where it should, or there is not what a thread and a node need.
    pub(crate) fn start(config: BridgeConfig, policy: Policy, endpoint: &Endpoint) -> Result<Bridge, BridgeError> {
        let failed = |doing| move |source| BridgeError::System { doing, source };
        let poll = Poll::new().map_err(failed("making an epoll descriptor"))?;
        let registry = || poll.registry().try_clone().map_err(failed("sharing an epoll descriptor"));
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed("making a waker"))?;
        let (now, seed) = (Instant::now(), local::random()?);
        info!(event = "bridge", host = %config.host, peers = config.peers.len());
        let conduct = Conduct { seed, ..Conduct::default() };
        let network = Network::start(registry()?, NETWORK, config, conduct, now)?;
        let local = LocalNode::connect(endpoint, NODE, registry()?, LOCAL, now)?;
        let (commands, receiver) = unbounded();
        let shown = Arc::<Mutex<Vec<BoardPeer>>>::default();
        let engine = Engine::new(poll, receiver, local, network, policy, local::random()?, Arc::clone(&shown));
        let run = move || match engine.run() {
            Ok(()) | Err(LocalError::Gone) => info!(event = "bridge_ended"),
            Err(error) => error!(event = "bridge_failed", why = chain(&error), "other hosts are not reached any more"),
        };
        let thread = std::thread::Builder::new().name("nodeset-bridge".to_owned()).spawn(run);
        let thread = Some(thread.map_err(failed("starting a thread"))?);
        Ok(Bridge { commands, waker, shown, thread })
    }

    /// How the other hosts are, as it was a moment ago.
    pub(crate) fn peers(&self) -> Vec<BoardPeer> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn command(&self, command: Command) {
        // One that has failed has said so; nobody is there to hear.
        if self.commands.send(command).is_ok() {
            if let Err(error) = self.waker.wake() {
                error!(event = "wake_failed", %error);
            }
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!(event = "bridge_panicked");
        }
    }
}
