//! The nodes at the other ends of links, and whether their processes live.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::{NODE_PAGE_LEN, PeerPage, SIGNAL_PAGE_LEN, SignalPage};
use nodeset_bus::protocol::{NodeId, Peer as PeerMessage};
use nodeset_bus::sys::{Bell, pidfd_dead};
use rustix::event::{Timespec, epoll};
use tracing::{info, warn};

use crate::error::EnterError;

/// Deaths taken at a time.
const DEATHS_A_TURN: usize = 64;

/// One of them.
pub(super) struct Peer {
    pub(super) name: Arc<str>,
    pub(super) uid: u32,
    pid: u32,
    pub(super) page: PeerPage<SharedWords>,
    pub(super) bell: Arc<Bell>,
    /// Its signal page for our user, once it publishes to us.
    pub(super) signal: Option<SignalPage<SharedWords>>,
    pidfd: OwnedFd,
    pub(super) dead: bool,
    /// Its death was logged.
    mourned: bool,
}

/// All of them.
pub(super) struct Peers {
    known: HashMap<NodeId, Peer>,
    /// All pidfds.
    deaths: OwnedFd,
}

impl Peers {
    pub(super) fn new() -> rustix::io::Result<Peers> {
        Ok(Peers { known: HashMap::new(), deaths: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Readable when somebody died.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.deaths.as_fd()
    }

    pub(super) fn find(&self, node: NodeId) -> Option<&Peer> {
        self.known.get(&node)
    }

    /// A node was introduced. One that is known already stays as it is: its segments are the same for all its life.
    pub(super) fn introduce(&mut self, peer: PeerMessage, descriptors: Vec<OwnedFd>) -> Result<(), EnterError> {
        if self.known.contains_key(&peer.node) {
            return Ok(());
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(page), Some(bell), Some(pidfd)) = (descriptors.next(), descriptors.next(), descriptors.next()) else {
            return Err(EnterError::Protocol("`Peer` came without page, bell and pidfd"));
        };
        let page = Segment::from_fd(page)?;
        page.check_one_writer(NODE_PAGE_LEN)?;
        let page = PeerPage::open(SharedWords::mapped(page.map_readable()?))?;
        let bell = Bell::from_fd(bell).map_err(|error| {
            warn!(event = "bell_refused", node = peer.name, %error);
            EnterError::Protocol("the bell that came is none")
        })?;
        let data = epoll::EventData::new_u64(peer.node.0);
        epoll::add(&self.deaths, &pidfd, data, epoll::EventFlags::IN)
            .map_err(|_| EnterError::Protocol("the pidfd that came is none"))?;
        let dead = pidfd_dead(pidfd.as_fd());
        let PeerMessage { node, name, uid, pid } = peer;
        let (name, bell) = (name.into(), Arc::new(bell));
        self.known.insert(node, Peer { name, uid, pid, page, bell, signal: None, pidfd, dead, mourned: false });
        Ok(())
    }

    pub(super) fn signal(&mut self, node: NodeId, descriptors: Vec<OwnedFd>) -> Result<(), EnterError> {
        let Some(descriptor) = descriptors.into_iter().next() else {
            return Err(EnterError::Protocol("`Signal` came without a page"));
        };
        let segment = Segment::from_fd(descriptor)?;
        segment.check_shared(SIGNAL_PAGE_LEN)?;
        let page = SignalPage::open(SharedWords::mapped(segment.map_writable()?));
        let peer = self.known.get_mut(&node).ok_or(EnterError::Protocol("`Signal` before `Peer`"))?;
        peer.signal.get_or_insert(page);
        Ok(())
    }

    /// Whether the kernel says that its process is dead, noticed here or not.
    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.known.get(&node).is_some_and(|peer| peer.dead || pidfd_dead(peer.pidfd.as_fd()))
    }

    /// Logs that a peer died: once, however many links it had and whoever noticed first, the dispatcher or this node.
    pub(super) fn mourn(&mut self, node: NodeId) {
        if let Some(peer) = self.known.get_mut(&node).filter(|peer| !peer.mourned) {
            peer.mourned = true;
            info!(event = "peer_died", peer = &*peer.name, pid = peer.pid, uid = peer.uid);
        }
    }

    /// A node with which there is no link any more; `died` as the dispatcher says.
    pub(super) fn forget(&mut self, node: NodeId, died: bool) {
        if died || self.is_dead(node) {
            self.mourn(node);
        }
        if let Some(peer) = self.known.remove(&node) {
            // Not there any more if it died: then nothing is left to delete.
            let _ = epoll::delete(&self.deaths, &peer.pidfd);
        }
    }

    /// Those that died since the last call.
    pub(super) fn newly_dead(&mut self) -> Vec<NodeId> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); DEATHS_A_TURN];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok((events, _)) = epoll::wait(&self.deaths, &mut events[..], Some(&now)) else { return Vec::new() };
        let dead: Vec<_> = events.iter().map(|event| NodeId(event.data.u64())).collect();
        for node in &dead {
            if let Some(peer) = self.known.get_mut(node) {
                peer.dead = true;
                // Told once: a dead process stays dead.
                let _ = epoll::delete(&self.deaths, &peer.pidfd);
            }
        }
        dead
    }
}
