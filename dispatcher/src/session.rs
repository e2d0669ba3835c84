//! One connection: its socket, what came with its last message, and what it has not read yet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nodeset_bus::protocol::ToNode;
use nodeset_bus::protocol::record::{self, SendError};
use rkyv::util::AlignedVec;
use rustix::net::{RecvFlags, recv};
use thiserror::Error;

use crate::allocate::Descriptor;
use crate::registry::ListCursor;

/// A record is counted with this many bytes more than it has, and so is each of its descriptors.
const OVERHEAD: usize = 64;
/// Rows of a listing are made only while fewer bytes than this are waiting.
const LISTING_ROOM: usize = 32 * 1024;

/// Why a session ends from our side.
#[derive(Debug, Error)]
pub(crate) enum Failed {
    /// It does not read.
    #[error("it did not read: {waiting} bytes are waiting, {limit} are allowed (--max-queue-bytes)")]
    Full { waiting: usize, limit: usize },
    /// It is gone.
    #[error("it hung up")]
    Closed,
    /// Something else.
    #[error("sending failed: {0}")]
    Send(#[source] SendError),
}

/// Whether more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing waits.
    All,
    /// The socket says when it goes on.
    WhenWritable,
    /// Too many descriptors are on their way to people who do not read (ETOOMANYREFS); the kernel does not say when that has
    /// changed: try again a little later.
    Later {
        /// It was so the last time as well.
        still: bool,
    },
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session {
    socket: OwnedFd,
    pub(crate) pidfd: Arc<Descriptor>,
    /// What came with the message last handled; the registry may take it.
    pub(crate) arrived: Vec<Option<OwnedFd>>,
    waiting: VecDeque<Outgoing>,
    /// bytes; of all that waits, with its overhead
    waiting_bytes: usize,
    listing: Option<ListCursor>,
    /// What was tried last is to be tried again later.
    stalled: bool,
    /// The other side hears nothing any more. What it said before is still to be read; then the session is over.
    deaf: bool,
}

#[derive(Debug)]
struct Outgoing {
    record: AlignedVec,
    descriptors: Vec<Arc<Descriptor>>,
}

impl Outgoing {
    fn cost(&self) -> usize {
        self.record.len() + OVERHEAD * (1 + self.descriptors.len())
    }
}

impl Session {
    pub(crate) fn new(socket: OwnedFd, pidfd: OwnedFd) -> Session {
        Session {
            socket,
            pidfd: Arc::new(Descriptor::Pidfd(pidfd)),
            arrived: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            listing: None,
            stalled: false,
            deaf: false,
        }
    }

    /// Sends, or keeps for later; at most `limit` bytes are kept.
    pub(crate) fn send(
        &mut self,
        message: &ToNode,
        descriptors: Vec<Arc<Descriptor>>,
        limit: usize,
    ) -> Result<Flushed, Failed> {
        let record = record::encode(message).map_err(Failed::Send)?;
        let outgoing = Outgoing { record, descriptors };
        self.waiting_bytes += outgoing.cost();
        self.waiting.push_back(outgoing);
        let flushed = self.flush()?;
        if self.waiting_bytes > limit {
            return Err(Failed::Full { waiting: self.waiting_bytes, limit });
        }
        Ok(flushed)
    }

    /// Sends what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> Result<Flushed, Failed> {
        let still = std::mem::take(&mut self.stalled);
        while let Some(next) = self.waiting.front() {
            let descriptors: Vec<_> = next.descriptors.iter().map(|it| it.as_fd()).collect();
            match record::send_bytes(self.socket.as_fd(), &next.record, &descriptors) {
                Ok(()) => {
                    self.waiting_bytes -= next.cost();
                    self.waiting.pop_front();
                }
                Err(SendError::WouldBlock) => return Ok(Flushed::WhenWritable),
                Err(SendError::TooManyReferences) => {
                    self.stalled = true;
                    return Ok(Flushed::Later { still });
                }
                Err(error) => {
                    // Nobody will read it; more of it would be kept for as long as the session lasts.
                    self.waiting.clear();
                    self.waiting_bytes = 0;
                    self.deaf = true;
                    return Err(if matches!(error, SendError::Closed) { Failed::Closed } else { Failed::Send(error) });
                }
            }
        }
        Ok(Flushed::All)
    }

    /// Whether all that is left of this session is what it said.
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Throws away what was said and not read. A socket that is closed with something unread in it makes the other end
    /// miss our last words (it gets ECONNRESET first).
    pub(crate) fn discard_unread(&self, at_most: usize) {
        let mut byte = [0];
        for _ in 0..at_most {
            // A record is thrown away with all its bytes and descriptors.
            match recv(&self.socket, &mut byte, RecvFlags::DONTWAIT) {
                Ok((_, 1..)) => {}
                _ => return,
            }
        }
    }

    /// Whether a listing could go on.
    pub(crate) fn has_room_for_listing(&self) -> bool {
        self.listing.is_some() && self.waiting_bytes < LISTING_ROOM
    }

    /// Starts to send the table, from its beginning.
    pub(crate) fn start_listing(&mut self) {
        self.listing = Some(ListCursor::default());
    }

    /// The listing's cursor, while there is one and room for more rows.
    pub(crate) fn listing(&mut self) -> Option<&mut ListCursor> {
        if self.has_room_for_listing() { self.listing.as_mut() } else { None }
    }

    /// Whether there is more to list, now or when there is room.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    pub(crate) fn end_listing(&mut self) {
        self.listing = None;
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nodeset_bus::protocol::NodeId;
    use nodeset_bus::protocol::record::Receiver;
    use nodeset_bus::sys::own_pidfd;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn what_does_not_fit_is_kept_in_order_up_to_the_limit() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let mut session = Session::new(ours, own_pidfd().unwrap());
        let limit = 4096;
        let mut sent = 0;
        let failed = loop {
            match session.send(&ToNode::ForgetPeer { node: NodeId(sent), died: false }, Vec::new(), limit) {
                Ok(_) => sent += 1,
                Err(failed) => break failed,
            }
        };
        assert!(matches!(failed, Failed::Full { waiting, limit: 4096 } if waiting > limit), "{failed}");
        let mut receiver = Receiver::new();
        let mut received = 0;
        while received <= sent {
            while let Some(next) = receiver.receive::<ToNode>(theirs.as_fd()).unwrap() {
                assert_eq!(next.message, ToNode::ForgetPeer { node: NodeId(received), died: false });
                received += 1;
            }
            session.flush().unwrap();
        }
        assert_eq!(session.waiting_bytes, 0);
        assert_eq!(session.flush().unwrap(), Flushed::All);
        drop(theirs);
        let outcome = session.send(&ToNode::Leaving, Vec::new(), limit);
        assert!(matches!(outcome, Err(Failed::Closed)));
    }

    #[test]
    fn nothing_is_kept_for_one_that_hears_no_more() {
        // Bug: a node that shut down the reading half of its socket, and no more, had every later message kept for it without
        // limit. Cause: the limit was looked at only after a flush that did not fail. Cure: what cannot arrive is dropped.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let mut session = Session::new(ours, own_pidfd().unwrap());
        rustix::net::shutdown(&theirs, rustix::net::Shutdown::Read).unwrap();
        for _ in 0..3 {
            assert!(session.send(&ToNode::Leaving, Vec::new(), 4096).is_err());
            assert!(session.is_deaf());
            assert_eq!((session.waiting.len(), session.waiting_bytes), (0, 0));
        }
    }
}
