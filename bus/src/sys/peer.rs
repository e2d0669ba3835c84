//! Who is at the other end of a socket, as the kernel knows it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// From `asm-generic/socket.h` and `arch/sparc/include/uapi/asm/socket.h`, Linux 6.5.
const SO_PEERPIDFD: libc::c_int = if cfg!(any(target_arch = "sparc", target_arch = "sparc64")) { 0x56 } else { 77 };

/// What `SO_PEERCRED` says (`unix(7)`): the peer when it connected, or, for the side that connected, the one that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its process, for people only; 0 when it lives in a container whose processes this one does not see.
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
/// When it is no Unix socket, or not connected.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    // Not by rustix: its type has no room for the process number 0.
    // SAFETY: `ucred` is three integers, and any bytes are such.
    let credentials = unsafe { socket_option::<libc::ucred>(socket, libc::SO_PEERCRED) }?;
    let pid = u32::try_from(credentials.pid).unwrap_or(0);
    // What the kernel says of a socket without a peer.
    if pid == 0 && credentials.uid == u32::MAX {
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(PeerCredentials { pid, uid: credentials.uid, gid: credentials.gid })
}

/// A pidfd of the process that connected. Unlike a pid number it never comes to mean another process.
///
/// # Errors
///
/// When the process is gone already, or the kernel has no `SO_PEERPIDFD` (Linux 6.5) and the process lives in a container
/// whose processes this one does not see.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the option's value is an integer, and any bytes are one.
    match unsafe { socket_option::<RawFd>(socket, SO_PEERPIDFD) } {
        // SAFETY: the kernel has just made this descriptor for us (closed on exec); nobody else owns it.
        Ok(fd) if fd >= 0 => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Ok(_) => return Err(io::ErrorKind::NotConnected.into()),
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => return Err(error),
        Err(_) => {}
    }
    // Before Linux 6.5: by number. Between connect and now the number may have passed to another process; the session's
    // life-line pipe then hangs up at once.
    pidfd_of(peer_credentials(socket)?.pid)
}

/// The further groups of the process that connected, as they were then (`SO_PEERGROUPS`, Linux 4.13). Its group in
/// [`PeerCredentials`] need not be among them.
///
/// # Errors
///
/// When it is no Unix socket, or the kernel is older.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let room = size_of_val(&groups[..]);
        let mut len = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: `groups` has `len` writable bytes, and any bytes are group numbers.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut len,
            )
        };
        let count = len as usize / size_of::<libc::gid_t>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel has said how much room it takes.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The value of a socket's option.
///
/// # Safety
///
/// Any bytes are a `T`, and it has no padding.
unsafe fn socket_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: `value` points to `len` writable bytes, and `len` says so.
    let outcome =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.as_mut_ptr().cast(), &mut len) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<T>() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's answer has another size"));
    }
    // SAFETY: zeroed, then written by the kernel; any bytes are valid, the caller's contract.
    Ok(unsafe { value.assume_init() })
}

/// A pidfd of this process.
///
/// # Errors
///
/// When the kernel refuses.
pub fn own_pidfd() -> io::Result<OwnedFd> {
    Ok(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
}

/// Whether the process is dead; one that nobody has waited for yet (a zombie) is dead. One system call, never blocks.
pub fn pidfd_dead(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Interrupted or without memory the kernel has not said so, and whoever may live is treated as living.
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
    fn what_is_not_connected_has_no_peer() {
        let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None);
        let socket = socket.unwrap();
        assert!(peer_credentials(socket.as_fd()).is_err());
        assert!(peer_pidfd(socket.as_fd()).is_err());
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(peer_credentials(pipe.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
        assert!(pidfd_of(0).is_err());
        assert!(pidfd_of(u32::MAX).is_err());
    }

    #[test]
    fn the_kernel_says_who_connected() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let credentials = peer_credentials(ours.as_fd()).unwrap();
        assert_eq!(credentials.pid, std::process::id());
        assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
        assert_eq!(credentials.gid, rustix::process::getgid().as_raw());
        let mut groups = peer_groups(ours.as_fd()).unwrap();
        let mut own: Vec<_> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
        assert!(!pidfd_dead(peer_pidfd(theirs.as_fd()).unwrap().as_fd()));
        assert!(!pidfd_dead(own_pidfd().unwrap().as_fd()));
    }
}
