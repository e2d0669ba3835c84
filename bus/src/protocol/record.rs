//! Messages into records and back, with their descriptors.
//!
//! A record is what one `sendmsg(2)` on a `SOCK_SEQPACKET` Unix socket carries: a preamble of 16 bytes, then the message as
//! rkyv archives it. The preamble never changes, so that any two versions can tell each other that they do not fit:
//!
//! | bytes | hold |
//! |---|---|
//! | 0..4 | `b"NSET"` |
//! | 4..6 | major version, little endian |
//! | 6..8 | minor version, little endian |
//! | 8..16 | zero |

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{BorrowedFd, OwnedFd};

use rkyv::api::access_with_context;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Serialize};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;

use super::{VERSION_MAJOR, VERSION_MINOR};

/// Longest record, in bytes; its preamble counts.
pub const MAX_RECORD: usize = 64 * 1024;
/// Most descriptors of a record; the kernel would take 253.
pub const MAX_DESCRIPTORS: usize = 32;

/// bytes; a multiple of 16, so that the message behind it is aligned
const PREAMBLE_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"NSET";
/// Most descriptors that the kernel puts into one record, so that more than [`MAX_DESCRIPTORS`] are seen as what they are.
const KERNEL_DESCRIPTORS: usize = 253;
/// levels; how deep a message may nest through pointers: what comes from another process must not exhaust our stack
const MAX_DEPTH: NonZeroUsize = NonZeroUsize::new(33).expect("more than zero");

/// Which control protocol somebody speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolVersion {
    /// Both ends must have the same one.
    pub major: u16,
    /// May differ.
    pub minor: u16,
}

impl ProtocolVersion {
    /// That of this program.
    pub const OURS: ProtocolVersion = ProtocolVersion { major: VERSION_MAJOR, minor: VERSION_MINOR };
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A record was not sent, no part of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other side does not read: try again when the socket is writable.
    #[error("the other side does not read its messages: try again when the socket is writable")]
    WouldBlock,
    /// The other side is gone: take what it still said, then connect again.
    #[error("the other side closed the session: connect again")]
    Closed,
    /// A record cannot carry that much: say it in several messages, or with shorter names.
    #[error("a control message of {found} {what}: a record carries at most {limit}")]
    TooLarge {
        /// Bytes or descriptors.
        what: &'static str,
        /// How many.
        found: usize,
        /// At most.
        limit: usize,
    },
    /// The socket's buffer cannot hold the record, not even when it is empty.
    #[error("a control message of {found} bytes does not fit into the socket's buffer: raise net.core.wmem_default")]
    SmallBuffer {
        /// bytes
        found: usize,
    },
    /// Too many descriptors are on their way between processes of this user: raise its limit of open descriptors.
    #[error("too many descriptors are on their way (ETOOMANYREFS): raise the limit of open descriptors, `ulimit -n`")]
    TooManyReferences,
    /// The message cannot be archived. Give up: a bug of ours.
    #[error("a control message cannot be archived")]
    Archive(#[source] rancor::Error),
    /// The kernel refused.
    #[error("sending a control message failed")]
    System(#[source] Errno),
}

/// A record was not received.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The other side is gone, and everything it said was taken: connect again.
    #[error("the other side closed the session: connect again")]
    Closed,
    /// The other side speaks another version: use the same release on both sides.
    #[error(
        "the other side speaks version {theirs} of the control protocol, this program version {ours}: \
         use the same release of NodeSet on both sides"
    )]
    Version {
        /// Ours.
        ours: ProtocolVersion,
        /// Theirs.
        theirs: ProtocolVersion,
    },
    /// No control message: end the session.
    #[error("what came is no control message: {0}")]
    Malformed(String),
    /// More descriptors than a record may carry; all of them are closed again. End the session.
    #[error("a control message came with {found} descriptors, {MAX_DESCRIPTORS} are allowed: its sender is at fault")]
    TooManyDescriptors {
        /// How many.
        found: usize,
    },
    /// Descriptors were lost on the way; those that came are closed again. Raise the limit, then connect again.
    #[error(
        "descriptors of a control message were lost (MSG_CTRUNC, EMFILE): \
         this process has too many open, raise its limit (`ulimit -n`)"
    )]
    DescriptorsLost,
    /// The kernel refused.
    #[error("receiving a control message failed")]
    System(#[source] Errno),
}

/// Sends one message in one record. Never blocks, raises no signal.
///
/// # Errors
///
/// Nothing was sent; see [`SendError`].
pub fn send<M>(socket: BorrowedFd<'_>, message: &M, descriptors: &[BorrowedFd<'_>]) -> Result<(), SendError>
where
    M: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    send_bytes(socket, &encode(message)?, descriptors)
}

/// The bytes of a record.
///
/// # Errors
///
/// When the message cannot be archived or is too long.
pub fn encode<M>(message: &M) -> Result<AlignedVec, SendError>
where
    M: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let mut record = AlignedVec::with_capacity(512);
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&VERSION_MAJOR.to_le_bytes());
    record.extend_from_slice(&VERSION_MINOR.to_le_bytes());
    record.extend_from_slice(&[0; 8]);
    let record = to_bytes_in::<_, rancor::Error>(message, record).map_err(SendError::Archive)?;
    if record.len() > MAX_RECORD {
        return Err(SendError::TooLarge { what: "bytes", found: record.len(), limit: MAX_RECORD });
    }
    Ok(record)
}

/// Sends an encoded record. Never blocks.
///
/// # Errors
///
/// Nothing was sent; see [`SendError`].
pub fn send_bytes(socket: BorrowedFd<'_>, record: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SendError> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(SendError::TooLarge { what: "descriptors", found: descriptors.len(), limit: MAX_DESCRIPTORS });
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "there is space for as many descriptors as are allowed");
    }
    loop {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        return match sendmsg(socket, &[IoSlice::new(record)], &mut ancillary, flags) {
            Ok(sent) if sent == record.len() => Ok(()),
            // A record is sent whole or not at all (unix(7)).
            Ok(_) => Err(SendError::System(Errno::MSGSIZE)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Err(SendError::WouldBlock),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(SendError::Closed),
            Err(Errno::MSGSIZE) => Err(SendError::SmallBuffer { found: record.len() }),
            Err(Errno::TOOMANYREFS) => Err(SendError::TooManyReferences),
            Err(other) => Err(SendError::System(other)),
        };
    }
}

/// A message and what came with it.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// Its descriptors, in the order in which they were sent; each is closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Takes records from a socket; owns the buffer, so that nothing is allocated for it a record.
#[derive(Debug)]
pub struct Receiver {
    buffer: AlignedVec,
}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver::new()
    }
}

impl Receiver {
    /// With an empty buffer.
    pub fn new() -> Receiver {
        let mut buffer = AlignedVec::new();
        buffer.resize(MAX_RECORD, 0);
        Receiver { buffer }
    }

    /// The next message; `None` when none is there. Never blocks.
    ///
    /// # Errors
    ///
    /// See [`RecordError`]. After any of them the session cannot go on; descriptors that came are closed.
    pub fn receive<M>(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Received<M>>, RecordError>
    where
        M: Archive,
        M::Archived:
            for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<M, HighDeserializer<rancor::Error>>,
    {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut was_reset = false;
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // The other side closed without having read all that we said. The kernel says so once, before the last
                // words of the other side, which are often the reason.
                Err(Errno::CONNRESET) if !was_reset => was_reset = true,
                Err(Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN) => return Err(RecordError::Closed),
                Err(other) => return Err(RecordError::System(other)),
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        // A record without a byte is none of ours; the kernel does not tell it from the end.
        if received.bytes == 0 {
            return Err(RecordError::Closed);
        }
        let record = &self.buffer[..received.bytes];
        // First of all: another version may have other limits.
        let body = open(record)?;
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(RecordError::Malformed(format!("it is longer than {MAX_RECORD} bytes")));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(RecordError::DescriptorsLost);
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(RecordError::TooManyDescriptors { found: descriptors.len() });
        }
        Ok(Some(Received { message: read(body)?, descriptors }))
    }
}

/// The message of a record, whose first byte must be 16-byte aligned.
///
/// # Errors
///
/// `Version` or `Malformed`; never panics, whatever the bytes are.
pub fn decode<M>(record: &[u8]) -> Result<M, RecordError>
where
    M: Archive,
    M::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<M, HighDeserializer<rancor::Error>>,
{
    read(open(record)?)
}

/// What is behind the preamble.
fn open(record: &[u8]) -> Result<&[u8], RecordError> {
    let Some((preamble, body)) = record.split_first_chunk::<PREAMBLE_LEN>() else {
        let text = format!("its {} bytes are less than the preamble of {PREAMBLE_LEN}", record.len());
        return Err(RecordError::Malformed(text));
    };
    let [m0, m1, m2, m3, major0, major1, minor0, minor1, ..] = *preamble;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(RecordError::Malformed("it does not begin with NSET".to_owned()));
    }
    let theirs =
        ProtocolVersion { major: u16::from_le_bytes([major0, major1]), minor: u16::from_le_bytes([minor0, minor1]) };
    if theirs.major != VERSION_MAJOR {
        return Err(RecordError::Version { ours: ProtocolVersion::OURS, theirs });
    }
    Ok(body)
}

fn read<M>(body: &[u8]) -> Result<M, RecordError>
where
    M: Archive,
    M::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<M, HighDeserializer<rancor::Error>>,
{
    let malformed = |error: rancor::Error| RecordError::Malformed(error.to_string());
    let mut validator = Validator::new(ArchiveValidator::with_max_depth(body, Some(MAX_DEPTH)), SharedValidator::new());
    let archived = access_with_context::<M::Archived, _, rancor::Error>(body, &mut validator).map_err(malformed)?;
    rkyv::deserialize::<M, rancor::Error>(archived).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::message::Message;
    use crate::protocol::{
        Advertise, EnterLink, Expected, Hello, LinkId, LogShape, Mismatch, NodeId, PublicationId, SubscriptionId,
        ToDispatcher, ToNode,
    };

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_closed_on_exec() {
        let (ours, theirs) = pair();
        let bell = crate::sys::Bell::new().unwrap();
        let message = ToNode::ForgetPeer { node: NodeId(7), died: false };
        send(ours.as_fd(), &message, &[bell.as_fd(), bell.as_fd()]).unwrap();
        let mut receiver = Receiver::new();
        let received = receiver.receive::<ToNode>(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(received.message, message);
        assert_eq!(received.descriptors.len(), 2);
        let flags = rustix::io::fcntl_getfd(&received.descriptors[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert!(receiver.receive::<ToNode>(theirs.as_fd()).unwrap().is_none());
        drop(ours);
        assert!(matches!(receiver.receive::<ToNode>(theirs.as_fd()), Err(RecordError::Closed)));
    }

    #[test]
    fn too_much_for_a_record_is_said() {
        let (ours, _theirs) = pair();
        let long = ToDispatcher::Hello(crate::protocol::Hello::new(NodeId(1), "x".repeat(MAX_RECORD)));
        assert!(matches!(send(ours.as_fd(), &long, &[]), Err(SendError::TooLarge { what: "bytes", .. })));
        let many = vec![ours.as_fd(); MAX_DESCRIPTORS + 1];
        let error = send(ours.as_fd(), &ToDispatcher::List, &many).unwrap_err();
        assert_eq!(error.to_string(), "a control message of 33 descriptors: a record carries at most 32");
    }

    #[test]
    fn one_that_does_not_read_makes_nobody_wait() {
        let (ours, _theirs) = pair();
        loop {
            match send(ours.as_fd(), &ToDispatcher::List, &[]) {
                Ok(()) => {}
                Err(SendError::WouldBlock) => break,
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let (ours, theirs) = pair();
        let mut record = encode(&ToDispatcher::List).unwrap();
        (record[4], record[6]) = (9, 2);
        // Whatever else another version puts into its records.
        record.resize(MAX_RECORD + 1, 0);
        send_bytes(ours.as_fd(), &record, &[]).unwrap();
        let error = Receiver::new().receive::<ToDispatcher>(theirs.as_fd()).unwrap_err();
        assert!(matches!(error, RecordError::Version { theirs: ProtocolVersion { major: 9, minor: 2 }, .. }));
        let text = error.to_string();
        assert!(text.contains("speaks version 9.2 ") && text.contains("this program version 1.0:"), "{text}");
    }

    #[test]
    fn another_minor_version_is_read() {
        let mut record = encode(&ToDispatcher::List).unwrap();
        record[6] = 200;
        record[9] = 1;
        assert_eq!(decode::<ToDispatcher>(&record).unwrap(), ToDispatcher::List);
    }

    #[test]
    fn a_record_that_is_too_long_is_refused() {
        let (ours, theirs) = pair();
        let mut record = encode(&ToDispatcher::List).unwrap();
        record.resize(MAX_RECORD + 1, 0);
        send_bytes(ours.as_fd(), &record, &[]).unwrap();
        let error = Receiver::new().receive::<ToDispatcher>(theirs.as_fd()).unwrap_err();
        assert!(error.to_string().contains("longer than 65536 bytes"), "{error}");
    }

    #[test]
    fn a_record_of_the_greatest_length_arrives_with_the_most_descriptors() {
        let (ours, theirs) = pair();
        let hello = |len| {
            let name = "x".repeat(len);
            ToDispatcher::Hello(Hello::new(NodeId(1), name))
        };
        let longest = (0..MAX_RECORD).rev().map(hello).find(|it| encode(it).is_ok()).unwrap();
        assert!(encode(&longest).unwrap().len() > MAX_RECORD - 8);
        let descriptors = vec![ours.as_fd(); MAX_DESCRIPTORS];
        send(ours.as_fd(), &longest, &descriptors).unwrap();
        let received = Receiver::new().receive::<ToDispatcher>(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(received.message, longest);
        assert_eq!(received.descriptors.len(), MAX_DESCRIPTORS);
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        for found in [MAX_DESCRIPTORS + 1, KERNEL_DESCRIPTORS] {
            let (ours, theirs) = pair();
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let many = vec![writer.as_fd(); found];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KERNEL_DESCRIPTORS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
            let record = encode(&ToDispatcher::List).unwrap();
            sendmsg(&ours, &[IoSlice::new(&record)], &mut ancillary, SendFlags::empty()).unwrap();
            let error = Receiver::new().receive::<ToDispatcher>(theirs.as_fd()).unwrap_err();
            assert!(matches!(error, RecordError::TooManyDescriptors { found: it } if it == found), "{error}");
            drop(writer);
            // The pipe ends only when its last writer is closed.
            assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
        }
    }

    #[test]
    fn descriptors_of_a_malformed_message_are_closed() {
        let (ours, theirs) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_bytes(ours.as_fd(), b"NSET", &[writer.as_fd()]).unwrap();
        let error = Receiver::new().receive::<ToDispatcher>(theirs.as_fd()).unwrap_err();
        assert!(matches!(error, RecordError::Malformed(_)), "{error}");
        drop(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    /// A dispatcher that refuses somebody who says more than it reads: the kernel reports the unread words (ECONNRESET)
    /// before it hands out the refusal, which was lost as long as that counted as the end.
    #[test]
    fn the_last_words_of_one_who_left_arrive() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), &ToDispatcher::List, &[]).unwrap();
        send(theirs.as_fd(), &ToNode::ListingEnd, &[]).unwrap();
        send(theirs.as_fd(), &ToNode::Leaving, &[]).unwrap();
        drop(theirs);
        let mut receiver = Receiver::new();
        assert_eq!(receiver.receive::<ToNode>(ours.as_fd()).unwrap().unwrap().message, ToNode::ListingEnd);
        assert_eq!(receiver.receive::<ToNode>(ours.as_fd()).unwrap().unwrap().message, ToNode::Leaving);
        for _ in 0..2 {
            assert!(matches!(receiver.receive::<ToNode>(ours.as_fd()), Err(RecordError::Closed)));
            assert!(matches!(send(ours.as_fd(), &ToDispatcher::List, &[]), Err(SendError::Closed)));
        }
    }

    #[test]
    fn a_message_that_nests_too_deep_is_refused() {
        #[derive(Archive, Serialize, Deserialize)]
        #[rkyv(serialize_bounds(__S: rkyv::ser::Writer, __S::Error: rancor::Source))]
        #[rkyv(deserialize_bounds(__D::Error: rancor::Source))]
        #[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rancor::Source)))]
        struct Nest(#[rkyv(omit_bounds)] Option<Box<Nest>>);

        let nest = |depth| (0..depth).fold(Nest(None), |inner, _| Nest(Some(Box::new(inner))));
        decode::<Nest>(&encode(&nest(20)).unwrap()).unwrap();
        assert!(matches!(decode::<Nest>(&encode(&nest(1000)).unwrap()), Err(RecordError::Malformed(_))));
    }

    /// Messages with all that can be kept out of line: texts, lists, lists of lists.
    fn rich() -> [AlignedVec; 4] {
        #[derive(Archive, Serialize, Deserialize, Message)]
        #[message(crate = "crate")]
        struct Reading {
            name: String,
            values: Vec<(f64, [u16; 3])>,
            origin: Option<Box<u64>>,
        }
        let id = |id| LinkId { publication: PublicationId(id), epoch: 1, subscription: SubscriptionId(!id) };
        let mismatch = |n: u64| Mismatch {
            publication: PublicationId(n),
            subscription: SubscriptionId(n + 1),
            topic: format!("a/topic/of/some/length/{n}"),
            node: "node".to_owned(),
            difference: "field `values`: Vec<(f64, [u16; 3])> here, u8 there".to_owned(),
        };
        let subscribed = ToNode::Subscribed {
            subscription: SubscriptionId(1),
            expected: (0..3)
                .map(|n| Expected { link: id(n), node: format!("publisher number {n}"), late: false })
                .collect(),
            mismatched: (0..3).map(mismatch).collect(),
        };
        let enter = ToNode::EnterLink(EnterLink {
            link: id(1),
            publisher: NodeId(2),
            topic: "robot/arm/joint".to_owned(),
            schema: Reading::schema(),
            shape: LogShape { block_len: 65536, blocks: 64 },
            slot: 1,
            line: 2,
            tag: 3,
            reliable: true,
            lane: None,
            origin: None,
        });
        let advertise = ToDispatcher::Advertise(Advertise {
            publication: PublicationId(1),
            epoch: 2,
            topic: "robot/arm/joint".to_owned(),
            schema: Reading::schema(),
            shape: LogShape { block_len: 65536, blocks: 64 },
            slot: Some(7),
            lane: None,
            origin: None,
        });
        [encode(&subscribed), encode(&enter), encode(&advertise), encode(&ToDispatcher::List)].map(Result::unwrap)
    }

    fn decode_as_both(record: &AlignedVec) {
        let _ = decode::<ToDispatcher>(record);
        let _ = decode::<ToNode>(record);
    }

    #[test]
    fn a_message_cut_anywhere_is_no_panic() {
        for record in rich() {
            for len in 0..record.len() {
                let mut cut = AlignedVec::new();
                cut.extend_from_slice(&record[..len]);
                decode_as_both(&cut);
            }
        }
    }

    #[test]
    fn a_record_that_is_not_aligned_is_refused() {
        let record = encode(&rich_message()).unwrap();
        let mut shifted = AlignedVec::<16>::new();
        shifted.push(0);
        shifted.extend_from_slice(&record);
        assert!(matches!(decode::<ToNode>(&shifted[1..]), Err(RecordError::Malformed(_))));
    }

    fn rich_message() -> ToNode {
        decode(&rich()[0]).unwrap()
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut record = AlignedVec::new();
            record.extend_from_slice(&bytes);
            decode_as_both(&record);
        }

        #[test]
        fn a_random_message_behind_a_good_preamble_is_no_panic(
            bytes in proptest::collection::vec(prop_oneof![Just(0), 0u8..32, any::<u8>()], 0..2000),
        ) {
            let mut record = AlignedVec::new();
            record.extend_from_slice(&encode(&ToDispatcher::List).unwrap()[..PREAMBLE_LEN]);
            record.extend_from_slice(&bytes);
            decode_as_both(&record);
        }

        #[test]
        fn a_damaged_message_is_no_panic(
            which in 0usize..4,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut record = rich()[which].clone();
            for (at, to) in damage {
                let at = PREAMBLE_LEN + at.index(record.len() - PREAMBLE_LEN);
                record[at] = to;
            }
            decode_as_both(&record);
        }
    }
}
