//! Speaking to a dispatcher from another thread: ending it, giving it other rules.

use std::io;
use std::sync::{Arc, OnceLock};

use crossbeam::channel::{Receiver, Sender, unbounded};
use mio::Waker;

#[cfg(feature = "bridge")]
use crate::bridge::config::BridgeConfig;
use crate::policy::Policy;

/// What the loop is told from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// End in order.
    Stop,
    /// From now on these rules hold.
    Policy(Box<Policy>),
    /// From now on these are the other hosts.
    #[cfg(feature = "bridge")]
    Bridge(Box<BridgeConfig>),
}

/// Asks a dispatcher to end in order. Clones ask the same one.
#[derive(Debug, Clone)]
pub struct Shutdown {
    sender: Sender<Command>,
    receiver: Receiver<Command>,
    waker: Arc<OnceLock<Waker>>,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

impl Shutdown {
    /// For one dispatcher.
    pub fn new() -> Shutdown {
        let (sender, receiver) = unbounded();
        Shutdown { sender, receiver, waker: Arc::new(OnceLock::new()) }
    }

    /// Asks; may be called before the dispatcher runs, and more than once.
    pub fn request(&self) {
        self.command(Command::Stop);
    }

    /// Gives the dispatcher other rules, for what is asked for from now on. May be called before it runs.
    pub fn set_policy(&self, policy: Policy) {
        self.command(Command::Policy(Box::new(policy)));
    }

    /// Gives the dispatcher other hosts; connections to those that stay as they are go on. May be called before it runs.
    #[cfg(feature = "bridge")]
    pub fn set_bridge(&self, config: BridgeConfig) {
        self.command(Command::Bridge(Box::new(config)));
    }

    fn command(&self, command: Command) {
        // Both ends are ours, so the channel is open.
        let _ = self.sender.send(command);
        if let Some(waker) = self.waker.get() {
            if let Err(error) = waker.wake() {
                tracing::error!(event = "wake_failed", %error);
            }
        }
    }

    /// The loop is there: whatever was asked before is in the channel, whatever is asked from now on wakes it.
    pub(crate) fn attach(&self, waker: Waker) -> io::Result<()> {
        self.waker.set(waker).map_err(|_| io::Error::other("one `Shutdown` was given to two dispatchers"))
    }

    pub(crate) fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }
}
