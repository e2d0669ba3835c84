//! Who is at the other end of a socket, as the kernel knows it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// From `asm-generic/socket.h`, Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// What `SO_PEERCRED` says (`unix(7)`): the peer when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its process, for people only.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Who connected, as the kernel says.
///
/// # Errors
///
/// When it is no Unix socket.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerCredentials {
        pid: credentials.pid.as_raw_nonzero().get().cast_unsigned(),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}

/// A pidfd of the process that connected. Unlike a pid number it never comes to mean another process.
///
/// # Errors
///
/// When the kernel has neither `SO_PEERPIDFD` nor `pidfd_open`, or the process is gone already.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd: RawFd = -1;
    let mut len = size_of::<RawFd>() as libc::socklen_t;
    let value: *mut RawFd = &mut fd;
    // SAFETY: `value` points to `len` writable bytes, and `len` says so.
    let outcome =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, value.cast(), &mut len) };
    if outcome == 0 && fd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    // Before Linux 6.5: by number. Between connect and now the number may have passed to another process; the session's
    // life-line pipe then hangs up at once.
    let pid = rustix::net::sockopt::socket_peercred(socket)?.pid;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A pidfd of this process.
///
/// # Errors
///
/// When the kernel refuses.
pub fn own_pidfd() -> io::Result<OwnedFd> {
    Ok(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
}

/// Whether the process is dead; one that nobody has waited for yet (a zombie) is dead.
pub fn pidfd_dead(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(ready) if ready > 0)
}

/// A pidfd by number, for tests and tools.
///
/// # Errors
///
/// When there is no such process.
pub fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process number"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_zombie_is_dead() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd_of(child.id()).unwrap();
        assert!(!pidfd_dead(pidfd.as_fd()));
        child.kill().unwrap();
        // Not waited for: a zombie. The pidfd says so; a signal 0 would still find it.
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
        assert!(pidfd_dead(pidfd.as_fd()));
        child.wait().unwrap();
        assert!(pidfd_dead(pidfd.as_fd()));
    }

    #[test]
    fn the_kernel_says_who_connected() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let credentials = peer_credentials(ours.as_fd()).unwrap();
        assert_eq!(credentials.pid, std::process::id());
        assert!(!pidfd_dead(peer_pidfd(theirs.as_fd()).unwrap().as_fd()));
        assert!(!pidfd_dead(own_pidfd().unwrap().as_fd()));
    }
}
