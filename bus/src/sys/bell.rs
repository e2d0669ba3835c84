//! [`Bell`]: an eventfd that wakes a sleeping process.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read, write};

use crate::log::Ring;

/// An eventfd: rung by peers, waited on by its owner. Never blocks.
///
/// `O_NONBLOCK` belongs to the open file and so to all who hold it. [`drain`](Self::drain) does not rely on it: whoever
/// rings a bell cannot make its owner block. For [`ring`](Self::ring) the kernel offers no such way: the owner of a bell who
/// takes the flag away and fills the counter can block those who ring it.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors (`ulimit -n`).
    pub fn new() -> io::Result<Bell> {
        Ok(Bell { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Takes a descriptor that came from another process and makes sure that it is an eventfd and does not block.
    ///
    /// # Errors
    ///
    /// When it is something else, when its flags cannot be read or set, or when there is no `/proc` to ask what it is.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Bell> {
        let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot find out what a received bell is ({error}): mount /proc"))
        })?;
        if kind.as_os_str() != "anon_inode:[eventfd]" {
            let text = format!("a received bell is {}, no eventfd: its sender is at fault", kind.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let flags = fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(Bell { fd })
    }

    /// Wakes its owner. One system call.
    #[cfg_attr(nodeset_failpoints, track_caller)]
    pub fn ring(&self) {
        #[cfg(nodeset_failpoints)]
        return crate::failpoint::around(std::panic::Location::caller(), || self.write());
        #[cfg(not(nodeset_failpoints))]
        self.write();
    }

    fn write(&self) {
        // EAGAIN: it was rung 2^64 - 2 times and not heard, so it is readable anyway. Anything else is its owner's loss
        // alone.
        while write(&self.fd, &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Takes what was rung so far. True if it was rung. One system call.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        loop {
            // Not a mere read: see the type. u64::MAX stands for no offset.
            let mut parts = [IoSliceMut::new(&mut count)];
            let outcome = match preadv2(&self.fd, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT) {
                // Before Linux 5.8, or filtered.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => read(&self.fd, &mut count),
                outcome => outcome,
            };
            match outcome {
                Err(Errno::INTR) => {}
                outcome => return outcome.is_ok(),
            }
        }
    }

    /// Its descriptor: readable while it was rung and not drained.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The same bell by another descriptor.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors (`ulimit -n`).
    pub fn try_clone(&self) -> io::Result<Bell> {
        Ok(Bell { fd: self.fd.try_clone()? })
    }
}

impl Ring for Bell {
    fn ring(&self) {
        Bell::ring(self);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Bell> for OwnedFd {
    fn from(bell: Bell) -> OwnedFd {
        bell.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_heard_once() {
        let bell = Bell::new().unwrap();
        assert!(!bell.drain());
        bell.try_clone().unwrap().ring();
        bell.ring();
        assert!(bell.drain());
        assert!(!bell.drain());
    }

    #[test]
    fn a_full_counter_blocks_nobody() {
        let bell = Bell::new().unwrap();
        write(bell.fd(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring();
        assert!(bell.drain());
    }

    #[test]
    fn whoever_rings_it_cannot_make_its_owner_block() {
        let bell = Bell::new().unwrap();
        let rung = bell.try_clone().unwrap();
        fcntl_setfl(rung.fd(), OFlags::empty()).unwrap();
        assert!(!bell.drain());
        rung.ring();
        assert!(bell.drain());
    }

    #[test]
    fn what_comes_from_elsewhere_is_an_eventfd_that_does_not_block() {
        let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let bell = Bell::from_fd(blocking).unwrap();
        assert!(fcntl_getfl(bell.fd()).unwrap().contains(OFlags::NONBLOCK));
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let refused = Bell::from_fd(writer).unwrap_err();
        assert!(refused.to_string().contains("no eventfd"), "{refused}");
    }
}
