//! The nodes at the other ends of the bridge's links.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Registry, Token};
use nodeset_bus::memory::{Segment, SegmentError, SharedWords};
use nodeset_bus::page::{NODE_PAGE_LEN, PeerPage, SIGNAL_PAGE_LEN, SignalPage};
use nodeset_bus::protocol::{NodeId, Peer};
use nodeset_bus::sys::{Bell, pidfd_dead};
use tracing::debug;

use super::{LocalError, session};

/// One of them.
pub(super) struct Neighbour {
    pub(super) uid: u32,
    pub(super) page: PeerPage<SharedWords>,
    pub(super) bell: Arc<Bell>,
    /// Once it publishes to us.
    pub(super) signal: Option<SignalPage<SharedWords>>,
    pidfd: OwnedFd,
    pub(super) dead: bool,
}

#[derive(Default)]
pub(super) struct Neighbours {
    known: BTreeMap<NodeId, Neighbour>,
    tokens: BTreeMap<Token, NodeId>,
}

impl Neighbours {
    pub(super) fn find(&self, node: NodeId) -> Option<&Neighbour> {
        self.known.get(&node)
    }

    pub(super) fn introduce(
        &mut self,
        registry: &Registry,
        token: Token,
        peer: &Peer,
        descriptors: [Option<OwnedFd>; 3],
    ) -> Result<(), LocalError> {
        let [Some(page), Some(bell), Some(pidfd)] = descriptors else {
            return Err(LocalError::Protocol("`Peer` came without page, bell and pidfd"));
        };
        if self.known.contains_key(&peer.node) {
            return Ok(());
        }
        let page = Segment::from_fd(page).map_err(segment_failed)?;
        page.check_one_writer(NODE_PAGE_LEN).map_err(segment_failed)?;
        let page = PeerPage::open(SharedWords::mapped(page.map_readable().map_err(segment_failed)?))
            .map_err(|_| LocalError::Protocol("a node's page has another layout"))?;
        let bell = Bell::from_fd(bell).map_err(|source| LocalError::System { doing: "taking a bell", source })?;
        session::watch(registry, &pidfd, token)?;
        let dead = pidfd_dead(pidfd.as_fd());
        let (uid, bell, signal) = (peer.uid, Arc::new(bell), None);
        self.known.insert(peer.node, Neighbour { uid, page, bell, signal, pidfd, dead });
        self.tokens.insert(token, peer.node);
        Ok(())
    }

    pub(super) fn signal(&mut self, node: NodeId, descriptor: Option<OwnedFd>) -> Result<(), LocalError> {
        let page = signal_page(descriptor)?;
        let peer = self.known.get_mut(&node).ok_or(LocalError::Protocol("`Signal` before `Peer`"))?;
        peer.signal.get_or_insert(page);
        Ok(())
    }

    pub(super) fn forget(&mut self, registry: &Registry, node: NodeId) {
        if let Some(peer) = self.known.remove(&node) {
            self.tokens.retain(|_, it| *it != node);
            // Its descriptor is closed with it; the kernel forgets it then.
            if let Err(error) = registry.deregister(&mut SourceFd(&peer.pidfd.as_raw_fd())) {
                debug!(event = "deregister_failed", %node, %error);
            }
        }
    }

    /// Whose process it is that died, if that token is one's.
    pub(super) fn died(&mut self, token: Token) -> Option<NodeId> {
        let node = *self.tokens.get(&token)?;
        if let Some(peer) = self.known.get_mut(&node) {
            peer.dead = pidfd_dead(peer.pidfd.as_fd());
        }
        Some(node)
    }
}

pub(super) fn signal_page(descriptor: Option<OwnedFd>) -> Result<SignalPage<SharedWords>, LocalError> {
    let descriptor = descriptor.ok_or(LocalError::Protocol("a signal page was announced and did not come"))?;
    let segment = Segment::from_fd(descriptor).map_err(segment_failed)?;
    segment.check_shared(SIGNAL_PAGE_LEN).map_err(segment_failed)?;
    Ok(SignalPage::open(SharedWords::mapped(segment.map_writable().map_err(segment_failed)?)))
}

pub(super) fn segment_failed(error: SegmentError) -> LocalError {
    LocalError::System { doing: "taking a segment", source: std::io::Error::other(error) }
}
