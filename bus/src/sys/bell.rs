//! [`Bell`]: an eventfd that wakes a sleeping process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::log::Ring;

/// An eventfd: rung by peers, waited on by its owner. Never blocks.
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

    /// Takes a descriptor that came from another process and makes sure that it cannot block us.
    ///
    /// # Errors
    ///
    /// When its flags cannot be read or set.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Bell> {
        let flags = fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        Ok(Bell { fd })
    }

    /// Takes what was rung so far. True if it was rung.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.fd, &mut count) {
                Err(Errno::INTR) => {}
                outcome => return outcome.is_ok(),
            }
        }
    }

    /// The same bell by another descriptor.
    ///
    /// # Errors
    ///
    /// When there are too many descriptors.
    pub fn try_clone(&self) -> io::Result<Bell> {
        Ok(Bell { fd: self.fd.try_clone()? })
    }
}

impl Ring for Bell {
    fn ring(&self) {
        // EAGAIN: it was rung 2^64 times and not heard, so it is readable anyway. Anything else is its owner's loss alone.
        while rustix::io::write(&self.fd, &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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
}
