//! How the parent and its workers talk: records of JSON, with descriptors, over a socket pair.
//!
//! The worker's end is its standard input, so nothing has to be told about descriptor numbers, and each side learns
//! at once when the other is gone. Nothing is said here while a measurement runs.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of the longest record; what is said here has a few hundred.
const RECORD_LEN: usize = 16 * 1024;
/// Descriptors of one record.
const DESCRIPTORS: usize = 4;

/// One end.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// Two connected ends.
    pub fn pair() -> io::Result<(Control, Control)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Control { socket: a }, Control { socket: b }))
    }

    /// The end that this process was started with as its standard input.
    pub fn of_this_worker() -> io::Result<Control> {
        Ok(Control { socket: io::stdin().as_fd().try_clone_to_owned()? })
    }

    /// Says something; descriptors are duplicated for the other side.
    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > RECORD_LEN || descriptors.len() > DESCRIPTORS {
            return Err(io::Error::other("too much for one record between a worker and its parent"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("no room for the descriptors of one record"));
        }
        sendmsg(&self.socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for what the other side says; `None` when it is gone.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(RecvFlags::empty())
    }

    /// What the other side has said already; `Err(WouldBlock)` when that is nothing.
    pub fn try_receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    fn receive_with<T: DeserializeOwned>(&self, flags: RecvFlags) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut record = vec![0; RECORD_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let len = loop {
            let mut parts = [IoSliceMut::new(&mut record)];
            match recvmsg(&self.socket, &mut parts, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                Err(rustix::io::Errno::INTR) => {}
                // A worker that died with unread records in its socket resets it.
                Err(rustix::io::Errno::CONNRESET) => break 0,
                Err(error) => return Err(error.into()),
            }
        };
        if len == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        Ok(Some((serde_json::from_slice(&record[..len])?, descriptors)))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A descriptor that came from the other side's [`Control::send`].
impl From<OwnedFd> for Control {
    fn from(socket: OwnedFd) -> Control {
        Control { socket }
    }
}

impl From<Control> for OwnedFd {
    fn from(control: Control) -> OwnedFd {
        control.socket
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_record_brings_its_descriptors() {
        let (ours, theirs) = Control::pair().unwrap();
        let (read_end, write_end) = rustix::pipe::pipe().unwrap();
        ours.send(&("hello", 7), &[write_end.as_fd()]).unwrap();
        drop(write_end);
        let ((word, number), mut descriptors) = theirs.receive::<(String, u32)>().unwrap().unwrap();
        assert_eq!((word.as_str(), number, descriptors.len()), ("hello", 7, 1));
        let mut received = std::fs::File::from(descriptors.remove(0));
        received.write_all(b"through").unwrap();
        drop(received);
        let mut text = String::new();
        std::fs::File::from(read_end).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn the_end_of_the_other_side_is_none() {
        let (ours, theirs) = Control::pair().unwrap();
        theirs.send(&1, &[]).unwrap();
        drop(theirs);
        assert_eq!(ours.receive::<u32>().unwrap().unwrap().0, 1);
        assert!(ours.receive::<u32>().unwrap().is_none());
    }

    #[test]
    fn nothing_said_yet_would_block() {
        let (ours, _theirs) = Control::pair().unwrap();
        assert_eq!(ours.try_receive::<u32>().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
