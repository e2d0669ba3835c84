//! A second process for a test: the test program itself, started again to play a part.
//!
//! A test file that uses this has a test `other_process`, which hands its parts to [`play`] and passes at once in an ordinary
//! run. Both processes speak over a record socket, the second one's standard input.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]
#![allow(dead_code, reason = "each test file uses its share")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use nodeset_bus::protocol::ToDispatcher;
use nodeset_bus::protocol::record::{self, Receiver};
use nodeset_bus::sys::pidfd_of;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

const PART: &str = "NODESET_TEST_PART";

/// The second process, as the first one sees it. Killed when dropped.
pub(crate) struct OtherProcess {
    child: Child,
    socket: OwnedFd,
}

impl OtherProcess {
    /// Starts it and gives it descriptors.
    pub(crate) fn start(part: &str, descriptors: &[BorrowedFd<'_>]) -> OtherProcess {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["other_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(Stdio::from(theirs))
            // The test harness's words; what fails is told on standard error.
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let other = OtherProcess { child, socket };
        other.tell(descriptors);
        other
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on.
    pub(crate) fn tell(&self, descriptors: &[BorrowedFd<'_>]) {
        tell(self.socket.as_fd(), descriptors);
    }

    /// Waits until it says something.
    pub(crate) fn hear(&self) -> Vec<OwnedFd> {
        hear(self.socket.as_fd())
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn finish(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the other process failed: {status}");
    }

    /// `kill -9`, until it is dead, without waiting for what is left of it: it stays a zombie.
    pub(crate) fn kill(&mut self) {
        let pidfd = pidfd_of(self.pid()).unwrap();
        self.child.kill().unwrap();
        wait_readable(pidfd);
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first process, as the second one sees it.
pub(crate) struct FirstProcess;

impl FirstProcess {
    /// Lets it go on.
    pub(crate) fn tell(&self, descriptors: &[BorrowedFd<'_>]) {
        tell(std::io::stdin().as_fd(), descriptors);
    }

    /// Waits until it says something.
    pub(crate) fn hear(&self) -> Vec<OwnedFd> {
        hear(std::io::stdin().as_fd())
    }

    /// Waits to be killed.
    pub(crate) fn wait_for_the_end(&self) -> ! {
        loop {
            std::thread::park();
        }
    }
}

/// The body of the test `other_process`: plays the part this process was started for, if it was.
pub(crate) fn play(parts: impl FnOnce(&str, FirstProcess, Vec<OwnedFd>)) {
    if let Ok(part) = std::env::var(PART) {
        // Nothing stays behind when the first process is killed.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
        let descriptors = FirstProcess.hear();
        parts(&part, FirstProcess, descriptors);
    }
}

/// Waits until there is something to read, a minute at most.
pub(crate) fn wait_readable(fd: impl AsFd) {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let deadline = Timespec { tv_sec: 60, tv_nsec: 0 };
    let ready = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&deadline))).unwrap();
    assert!(ready > 0, "nothing came within a minute");
}

fn tell(socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) {
    record::send(socket, &ToDispatcher::List, descriptors).unwrap();
}

fn hear(socket: BorrowedFd<'_>) -> Vec<OwnedFd> {
    wait_readable(socket);
    let received = Receiver::new().receive::<ToDispatcher>(socket).unwrap().expect("it is readable");
    assert_eq!(received.message, ToDispatcher::List);
    received.descriptors
}
