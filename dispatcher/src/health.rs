//! Who is alive: pidfds and life-lines of nodes, as the kernel knows them.
//!
//! A pidfd becomes readable when its process is dead, waited for or not. A life-line is the read end of a pipe whose other
//! end only the node's process holds, closed on exec: it hangs up when the process is gone *or has executed another
//! program*, which a pidfd outlives. Either is the end of the node.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use nodeset_bus::protocol::{NodeId, RefusalCode};
use nodeset_bus::sys::pidfd_dead;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use tracing::debug;

use crate::allocate::{Descriptor, system_failure};
use crate::registry::Failure;

/// What is watched of one node.
#[derive(Debug)]
struct Watch {
    pidfd: Arc<Descriptor>,
    life_line: OwnedFd,
    tokens: [Token; 2],
}

/// All nodes that are watched.
#[derive(Debug, Default)]
pub(crate) struct Health {
    watches: BTreeMap<NodeId, Watch>,
    by_token: HashMap<Token, NodeId>,
}

impl Health {
    /// Watches a node, instead of what was watched for it before.
    pub(crate) fn watch(
        &mut self,
        poll: &mio::Registry,
        node: NodeId,
        pidfd: Arc<Descriptor>,
        life_line: OwnedFd,
        tokens: [Token; 2],
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| system_failure("watching a node", &error);
        let what = fstat(&life_line).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(what.st_mode) != FileType::Fifo {
            let text = "the life-line must be the read end of a pipe";
            return Err(Failure::new(RefusalCode::Protocol, text));
        }
        let pidfd_raw = pidfd.as_fd().as_raw_fd();
        poll.register(&mut SourceFd(&pidfd_raw), tokens[0], Interest::READABLE).map_err(failed)?;
        if let Err(error) = poll.register(&mut SourceFd(&life_line.as_raw_fd()), tokens[1], Interest::READABLE) {
            unwatch(poll, pidfd_raw);
            return Err(failed(error));
        }
        self.forget(poll, node);
        for token in tokens {
            self.by_token.insert(token, node);
        }
        self.watches.insert(node, Watch { pidfd, life_line, tokens });
        Ok(())
    }

    /// No longer watches a node.
    pub(crate) fn forget(&mut self, poll: &mio::Registry, node: NodeId) {
        let Some(watch) = self.watches.remove(&node) else { return };
        unwatch(poll, watch.pidfd.as_fd().as_raw_fd());
        unwatch(poll, watch.life_line.as_raw_fd());
        for token in watch.tokens {
            self.by_token.remove(&token);
        }
    }

    /// The node whose descriptor has that token.
    pub(crate) fn node_of(&self, token: Token) -> Option<NodeId> {
        self.by_token.get(&token).copied()
    }

    /// Whether the kernel says that the node is gone; an event alone may be spurious.
    pub(crate) fn is_dead(&self, node: NodeId) -> bool {
        self.watches.get(&node).is_some_and(|watch| pidfd_dead(watch.pidfd.as_fd()) || hung_up(&watch.life_line))
    }
}

fn hung_up(pipe: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let asked = poll(&mut fds, Some(&now));
    asked.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn unwatch(poll: &mio::Registry, fd: std::os::fd::RawFd) {
    if let Err(error) = poll.deregister(&mut SourceFd(&fd)) {
        debug!(event = "deregister_failed", fd, %error);
    }
}

#[cfg(test)]
mod tests {
    use nodeset_bus::sys::own_pidfd;
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn a_cut_life_line_is_the_end() {
        let poll = mio::Poll::new().unwrap();
        let mut health = Health::default();
        let (life_line, held) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let node = NodeId(1);
        let pidfd = Arc::new(Descriptor::Pidfd(own_pidfd().unwrap()));
        health.watch(poll.registry(), node, pidfd, life_line, [Token(1), Token(2)]).unwrap();
        assert_eq!(health.node_of(Token(2)), Some(node));
        assert!(!health.is_dead(node));
        rustix::io::write(&held, b"noise").unwrap();
        assert!(!health.is_dead(node), "what is written means nothing");
        drop(held);
        assert!(health.is_dead(node));
        health.forget(poll.registry(), node);
        assert!(!health.is_dead(node));
        assert_eq!(health.node_of(Token(1)), None);
    }

    #[test]
    fn a_life_line_must_be_a_pipe() {
        let poll = mio::Poll::new().unwrap();
        let pidfd = Arc::new(Descriptor::Pidfd(own_pidfd().unwrap()));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let outcome = Health::default().watch(poll.registry(), NodeId(1), pidfd, file, [Token(1), Token(2)]);
        assert_eq!(outcome.unwrap_err().code, RefusalCode::Protocol);
    }
}
