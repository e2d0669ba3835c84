//! The dispatcher: one a host, keeps the subscription table and hands out shared memory.
//!
//! # What it does
//!
//! Nodes connect to its Unix socket and say what they publish and what they want. It makes the memory, brings both ends of
//! each link together in an order in which no message is missed, watches who is alive, and cleans up after the dead. It is
//! never on the path of a message.
//!
//! # What it guarantees
//!
//! - Identity comes from the kernel (`SO_PEERCRED`, pidfds), never from what a peer says.
//! - A segment exists for others only after its seals and size were read back from the dispatcher's own descriptor.
//! - A line of a node page is used again only after the publisher confirmed that it no longer looks at it and the
//!   subscriber that it no longer writes it, and under another tag.
//! - It keeps nothing that nodes cannot give it again: when it goes, they go on, and rebuild the table at its successor.
//! - A session that does not read costs a bounded amount of memory, then it is ended; its process is told apart from it.
//!
//! # What it does not promise
//!
//! While no dispatcher runs, no new links are made, and nobody is told of deaths except by the kernel. Users other than its
//! own (and root) cannot connect unless [`Access`] lets them; then [`policy`] says what they may do, and quotas how much.
//!
//! # Reading order
//!
//! [`registry`] decides everything and touches nothing; `event_loop` carries out what it wants, over `session`, `allocate`,
//! `health` (who is dead) and `heartbeats` (who runs, decided in `pulse`); `socket` takes the socket, `access` says who may
//! connect; [`config`] and [`cli`] make it a program.

#![forbid(unsafe_code)]

#[cfg(feature = "bridge")]
pub mod bridge;
pub mod cli;
pub mod config;
pub mod policy;
pub mod registry;

mod access;
mod allocate;
mod args;
mod board;
mod embedded;
mod event_loop;
mod health;
mod heartbeats;
mod pulse;
mod session;
mod shutdown;
mod socket;

use thiserror::Error;

pub use access::Access;
pub use config::Config;
pub use embedded::Embedded;
pub use event_loop::{Dispatcher, Ended};
pub use nodeset_bus::protocol::endpoint::Endpoint;
pub use pulse::Patience;
pub use shutdown::Shutdown;
pub use socket::{Holder, Replace, TakeError};

/// Runs a dispatcher on this thread until `shutdown` is requested or a successor has its socket.
///
/// # Errors
///
/// The socket cannot be taken, or the kernel refuses what the loop needs.
pub fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    Dispatcher::bind(config)?.run(shutdown).map(drop)
}

/// A dispatcher could not start, or not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The socket was not taken; the text says who has it or what to do.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// The bridge to other hosts could not start.
    #[cfg(feature = "bridge")]
    #[error(transparent)]
    Bridge(#[from] bridge::BridgeError),
    /// The kernel refused something that cannot be done without.
    #[error("{doing} failed")]
    System {
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}
