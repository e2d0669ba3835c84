//! What a [`Peer`](super::Peer) is told, what it wants done, and where messages come from and go to.

use std::sync::Arc;
use std::time::Duration;

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::PublicationId;
use nodeset_bus::topic::{Selector, Topic};

use super::reason::Reason;
use crate::bridge::codec::{Hello, Quality};

/// One log, by the same name on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// Whose.
    pub publication: PublicationId,
    /// Which log of that publication.
    pub epoch: u64,
}

/// A publication, as other hosts need to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// Its log.
    pub log: LogKey,
    /// Where it publishes.
    pub topic: Topic,
    /// What it publishes.
    pub schema: Arc<Schema>,
    /// Name of its node.
    pub node: String,
    /// The name that the node had asked for.
    pub base_name: String,
}

/// A TCP connection; given by whoever does the I/O, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// An interest of this host; given by whoever tells it, never used again for this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterestId(pub u32);

/// Who began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Dialled,
    /// The other side did.
    Accepted,
}

/// What subscribers of this host want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Topics, and of whom. One that means this host only is told to nobody.
    pub selector: Selector,
    /// The best that any of them asks for.
    pub quality: Quality,
    /// How long publishers wait for them while they take nothing, the longest that any of them asks for; meaningless for
    /// another quality than [`AcrossHosts`](Quality::AcrossHosts). Whole milliseconds.
    pub deadline: Duration,
    /// messages from before; the most that any of them asks for
    pub history: u64,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The greeting of the other side arrived on a connection.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Who dialled.
        role: Role,
        /// What the other side said.
        hello: Hello,
    },
    /// A connection broke, or an attempt failed after [`Peer::dial`](super::Peer::dial).
    Disconnected {
        /// Which; one that the peer does not know any more is ignored.
        connection: ConnectionId,
    },
    /// Subscribers of this host want something. To change one, add the new one before the old one is taken away.
    Wanted {
        /// Which.
        interest: InterestId,
        /// What.
        want: Want,
    },
    /// They do no longer.
    Unwanted {
        /// Which.
        interest: InterestId,
    },
    /// A publication of a node of this host. Never one that came over a bridge.
    Appeared(Publication),
    /// It ended.
    Went {
        /// Which.
        log: LogKey,
        /// The sequence that would have come next.
        next: u64,
    },
    /// The answer to [`Action::Link`].
    Linked {
        /// Which.
        log: LogKey,
        /// Sequence of the first message that the link gives.
        first: u64,
        /// Sequence of the message with which a new mirror begins; first <= start.
        start: u64,
        /// bytes from anywhere to that message, as `Available` counts them
        position: u64,
    },
    /// The other answer to [`Action::Link`]: it cannot be. Tried again when the other side asks anew.
    NotLinked {
        /// Which.
        log: LogKey,
    },
    /// A linked log has messages that were not there when [`Outgoing::next`] last said `Nothing`.
    Available {
        /// Which.
        log: LogKey,
        /// Sequence behind the newest one.
        next: u64,
        /// bytes from anywhere (the same place for one link) to the end of the log; never falls
        position: u64,
    },
    /// A linked log for which publishers wait is not read on before more of it is retained no longer. Said again after each
    /// `Available`.
    Stalled {
        /// Which.
        log: LogKey,
    },
    /// The answer to [`Action::OpenMirror`].
    MirrorOpened {
        /// Which.
        log: LogKey,
        /// Sequence of the message to be committed next: behind what the log that was handed back held, else as asked for.
        next: u64,
        /// bytes of frames for which there is room
        room: u64,
        /// bytes; the longest frame body that fits into the log when all is read
        longest: u32,
    },
    /// The other answer to [`Action::OpenMirror`]; later also: it cannot go on.
    MirrorFailed {
        /// Which.
        log: LogKey,
        /// For people over there.
        text: String,
    },
    /// Readers of a mirror gave room back.
    Room {
        /// Which.
        log: LogKey,
        /// bytes of frames more than was said before
        freed: u64,
    },
    /// This peer is not to be spoken to any more.
    Leave {
        /// Why.
        reason: Reason,
    },
}

/// Why a mirror ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorEnd {
    /// The publication ended, and everything it published is here or was told to be lost.
    Finished,
    /// Nobody here wants it, or the other side stopped sending it.
    Unwanted,
    /// The other side is there, and has it no longer.
    Vanished,
    /// What came was no message.
    Damaged(String),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write the rest of what was begun, then `goodbye`, and close. Nothing more of it is to be given to the peer.
    Close {
        /// Which.
        connection: ConnectionId,
        /// A whole record, or nothing; may be left out if the connection does not take it at once.
        goodbye: Vec<u8>,
        /// Why.
        reason: Reason,
    },
    /// Messages can be exchanged over this connection from now on; the one before it, if any, was closed.
    Established {
        /// Which.
        connection: ConnectionId,
        /// The other side was restarted since it was last connected.
        restarted: bool,
    },
    /// Read this log for the other side: answered by `Linked` or `NotLinked`. Said again when only `quality` changes; that is
    /// not answered.
    Link {
        /// Which.
        log: LogKey,
        /// Lossy: nothing is kept. Else everything from [`Retain`](Action::Retain) on, at first from where it begins; of a link
        /// that was lossy before, everything that is published from now on.
        quality: Quality,
        /// messages from before that are wanted
        history: u64,
        /// The other side may have a mirror from before this dispatcher was started: with everything that is held.
        resume: bool,
    },
    /// Do no longer.
    Unlink {
        /// Which.
        log: LogKey,
    },
    /// What is below is no longer needed.
    Retain {
        /// Of which log.
        log: LogKey,
        /// Sequence of the first message that is. The other side's word: if it lies beyond the end of the log, nothing there is.
        from: u64,
    },
    /// Nothing is kept any more; reading goes on with what is still there.
    Demote {
        /// Which.
        log: LogKey,
    },
    /// Everything is kept again, from what is still there of `from` on.
    Restore {
        /// Which.
        log: LogKey,
        /// Sequence.
        from: u64,
    },
    /// Make a publication that mirrors one of the other side: answered by `MirrorOpened` or `MirrorFailed`.
    OpenMirror {
        /// Which.
        publication: Publication,
        /// The number with which its messages begin, unless nodes of this host still hold its log.
        first: u64,
        /// How it will come.
        quality: Quality,
    },
    /// End it; a loan that is open is abandoned.
    EndMirror {
        /// Which.
        log: LogKey,
        /// Why.
        end: MirrorEnd,
    },
    /// The rest of a long frame does not come: abandon the loan.
    AbandonLoan {
        /// Of which mirror.
        log: LogKey,
    },
}

/// What stands next in a log that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet: `Available` follows when there is.
    Nothing,
    /// Frames that lie one behind the other, none of them long ([`LONGEST_WHOLE`](crate::bridge::codec::LONGEST_WHOLE)).
    Run {
        /// How many; at least 1.
        count: u32,
        /// bytes, their headers and padding included; more than asked for only if it is one frame
        bytes: u32,
    },
    /// One long frame.
    Long {
        /// Its flags.
        flags: u8,
        /// bytes of extensions and payload
        len: u32,
    },
    /// Messages that were left out on purpose.
    Skip {
        /// How many; at least 1.
        count: u64,
    },
    /// It is gone.
    Gone {
        /// Sequence of the first message that is still there, or of the one that comes next.
        held: u64,
    },
}

/// The logs of this host's publications, read for the other side.
pub trait Outgoing {
    /// What stands at message `from`, at most `limit` bytes of frames; `Nothing` where `from` lies beyond the end. What it told of stays where it is until it is asked about the
    /// same log again, or the log is unlinked.
    fn next(&mut self, log: LogKey, from: u64, limit: u32) -> Next;
}

/// The logs that mirror publications of the other side. None of this can fail: room was granted before.
pub trait Incoming {
    /// Commits a message.
    fn frame(&mut self, log: LogKey, sequence: u64, flags: u8, body: &[u8]);
    /// Opens a loan for a message of `len` bytes.
    fn open(&mut self, log: LogKey, sequence: u64, flags: u8, len: u32);
    /// Writes into the open loan.
    fn fill(&mut self, log: LogKey, offset: u32, bytes: &[u8]);
    /// Commits the open loan.
    fn commit(&mut self, log: LogKey, sequence: u64);
    /// Messages are lost.
    fn gap(&mut self, log: LogKey, first: u64, count: u64);
    /// Messages were left out on purpose.
    fn skip(&mut self, log: LogKey, first: u64, count: u64);
}

/// What is to be written to the connection: first the head that was appended to the buffer, then this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transmit {
    /// Nothing more: the head was a whole record.
    Record,
    /// Frames, from where they lie.
    Frames {
        /// In which log.
        log: LogKey,
        /// Sequence of the first one.
        first: u64,
        /// How many.
        count: u32,
        /// bytes
        bytes: u32,
    },
    /// A part of a frame's extensions and payload.
    Piece {
        /// In which log.
        log: LogKey,
        /// Of which message.
        sequence: u64,
        /// bytes; where it begins
        offset: u32,
        /// bytes
        len: u32,
    },
}

/// Where the next bytes of the connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// Into a buffer for [`Peer::receive`](super::Peer::receive), which has room for a whole record.
    Records,
    /// Into the open loan of a mirror; then [`Peer::filled`](super::Peer::filled). (`receive` takes them just as well.)
    Payload {
        /// Which mirror.
        log: LogKey,
        /// bytes; where in the loan
        offset: u32,
        /// bytes; at most so many
        len: u32,
    },
}
