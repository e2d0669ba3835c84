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

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::de::Pool;
use rkyv::rancor::{self, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;

use super::{VERSION_MAJOR, VERSION_MINOR};

/// Longest record, in bytes.
pub const MAX_RECORD: usize = 64 * 1024;
/// Most descriptors of a record; the kernel would take 253.
pub const MAX_DESCRIPTORS: usize = 32;

const PREAMBLE_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"NSET";

/// A record was not sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other side does not read: try again when the socket is writable.
    #[error("the other side does not read its messages")]
    WouldBlock,
    /// The other side is gone: connect again.
    #[error("the other side closed the session")]
    Closed,
    /// A record cannot carry that much.
    #[error("a control message of {found} {what}: a record carries at most {limit}")]
    TooLarge {
        /// Bytes or descriptors.
        what: &'static str,
        /// How many.
        found: usize,
        /// At most.
        limit: usize,
    },
    /// Too many descriptors are on their way between processes of this user: raise its limit of open descriptors.
    #[error("too many descriptors are on their way (ETOOMANYREFS): raise the limit of open descriptors, `ulimit -n`")]
    TooManyReferences,
    /// The message cannot be archived.
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
    /// The other side is gone: connect again.
    #[error("the other side closed the session")]
    Closed,
    /// The other side speaks another version: use the same release on both sides.
    #[error(
        "the other side speaks version {theirs} of the control protocol, this program version {ours}: use the same release of NodeSet on both sides"
    )]
    Version {
        /// Ours.
        ours: u16,
        /// Theirs.
        theirs: u16,
    },
    /// No control message.
    #[error("what came is no control message: {0}")]
    Malformed(String),
    /// Descriptors were lost on the way.
    #[error(
        "descriptors of a control message were lost: this process has too many open, raise its limit (`ulimit -n`)"
    )]
    DescriptorsLost,
    /// The kernel refused.
    #[error("receiving a control message failed")]
    System(#[source] Errno),
}

/// Sends one message in one record. Never blocks.
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
    let record = rkyv::api::high::to_bytes_in::<_, rancor::Error>(message, record).map_err(SendError::Archive)?;
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
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(SendError::TooLarge { what: "descriptors", found: descriptors.len(), limit: MAX_DESCRIPTORS });
    }
    loop {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        return match sendmsg(socket, &[IoSlice::new(record)], &mut ancillary, flags) {
            Ok(sent) if sent == record.len() => Ok(()),
            // A record is sent whole or not at all (unix(7)).
            Ok(_) => Err(SendError::System(Errno::MSGSIZE)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::NOBUFS) => Err(SendError::WouldBlock),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(SendError::Closed),
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
    /// See [`RecordError`]. After `Malformed` and `DescriptorsLost` the session cannot go on.
    pub fn receive<M>(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Received<M>>, RecordError>
    where
        M: Archive,
        M::Archived:
            for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<M, Strategy<Pool, rancor::Error>>,
    {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(RecordError::Closed),
                Err(other) => return Err(RecordError::System(other)),
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(RecordError::DescriptorsLost);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(RecordError::Malformed(format!("it is longer than {MAX_RECORD} bytes")));
        }
        if received.bytes == 0 {
            return Err(RecordError::Closed);
        }
        Ok(Some(Received { message: decode(&self.buffer[..received.bytes])?, descriptors }))
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
    M::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>> + Deserialize<M, Strategy<Pool, rancor::Error>>,
{
    let (preamble, body) = record
        .split_first_chunk::<PREAMBLE_LEN>()
        .ok_or_else(|| RecordError::Malformed(format!("{} bytes are less than its preamble", record.len())))?;
    let [m0, m1, m2, m3, major0, major1, ..] = *preamble;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(RecordError::Malformed("it does not begin with NSET".to_owned()));
    }
    let theirs = u16::from_le_bytes([major0, major1]);
    if theirs != VERSION_MAJOR {
        return Err(RecordError::Version { ours: VERSION_MAJOR, theirs });
    }
    rkyv::from_bytes::<M, rancor::Error>(body).map_err(|error| RecordError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::protocol::{NodeId, ToDispatcher, ToNode};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_closed_on_exec() {
        let (ours, theirs) = pair();
        let bell = crate::sys::Bell::new().unwrap();
        let message = ToNode::ForgetPeer { node: NodeId(7) };
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
        let long = ToDispatcher::Hello(crate::protocol::Hello {
            node: NodeId(1),
            name: "x".repeat(MAX_RECORD),
            tool: false,
            handing_back: false,
        });
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
        let mut record = encode(&ToDispatcher::List).unwrap();
        record[4] = 9;
        assert!(matches!(decode::<ToDispatcher>(&record), Err(RecordError::Version { ours: 1, theirs: 9 })));
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut record = encode(&ToDispatcher::List).unwrap();
            record.extend_from_slice(&bytes);
            let _ = decode::<ToDispatcher>(&record);
            let _ = decode::<ToNode>(&record);
            let mut bare = AlignedVec::<16>::new();
            bare.extend_from_slice(&bytes);
            let _ = decode::<ToDispatcher>(&bare);
        }

        #[test]
        fn a_damaged_message_is_an_error_or_another_message(at in 16usize..200, to in any::<u8>()) {
            let mut record = encode(&ToNode::Refused {
                about: crate::protocol::About::Session,
                code: crate::protocol::RefusalCode::Limit,
                text: "a text of some length that is kept out of line".to_owned(),
            }).unwrap();
            let at = at.min(record.len() - 1);
            record[at] = to;
            let _ = decode::<ToNode>(&record);
        }
    }
}
