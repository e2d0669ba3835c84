//! Who is at the other end of a connection, asked of the real kernel about another process.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod other_process;

use std::os::fd::{AsFd, OwnedFd};

use nodeset_bus::sys::{peer_credentials, peer_pidfd, pidfd_dead, pidfd_of};
use other_process::{OtherProcess, play, wait_readable};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, getsockname, listen,
    socket_with,
};

fn socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Listens under an abstract name that the kernel chooses: no file, no clash.
fn listener() -> OwnedFd {
    let listener = socket();
    bind(&listener, &SocketAddrUnix::new_unnamed()).unwrap();
    listen(&listener, 1).unwrap();
    listener
}

#[test]
fn other_process() {
    play(|_part, first, mut descriptors| {
        let listener = descriptors.pop().expect("where to connect");
        let address = SocketAddrUnix::try_from(getsockname(&listener).unwrap()).unwrap();
        drop(listener);
        let socket = socket();
        connect(&socket, &address).unwrap();
        first.tell(&[]);
        first.wait_for_the_end();
    });
}

#[test]
fn the_process_that_connected_is_known_and_its_death_is_seen() {
    let listener = listener();
    let mut node = OtherProcess::start("node", &[listener.as_fd()]);
    node.hear();
    let session = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();

    let credentials = peer_credentials(session.as_fd()).unwrap();
    assert_eq!(credentials.pid, node.pid());
    assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
    assert_eq!(credentials.gid, rustix::process::getgid().as_raw());

    let pidfd = peer_pidfd(session.as_fd()).unwrap();
    assert!(fcntl_getfd(&pidfd).unwrap().contains(FdFlags::CLOEXEC));
    assert!(!pidfd_dead(pidfd.as_fd()));
    node.kill();
    wait_readable(&pidfd);

    // A zombie: nobody waited for it, so its number is still taken.
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    assert!(status.lines().any(|line| line.starts_with("State:") && line.contains('Z')), "{status}");
    assert!(pidfd_dead(pidfd.as_fd()));
    assert!(pidfd_dead(pidfd_of(node.pid()).unwrap().as_fd()));

    drop(node);
    // Waited for: the number may now come to mean another process, the pidfd never does.
    assert!(pidfd_dead(pidfd.as_fd()));
    // The kernel still knows who it was.
    assert_eq!(peer_credentials(session.as_fd()).unwrap(), credentials);
}

#[test]
fn a_process_that_is_gone_before_it_is_asked_for_is_never_taken_for_another() {
    let listener = listener();
    let mut node = OtherProcess::start("node", &[listener.as_fd()]);
    node.hear();
    let session = accept_with(&listener, SocketFlags::CLOEXEC).unwrap();
    node.kill();
    drop(node);
    // Some kernels still give a pidfd of it, others say that it is gone.
    assert!(peer_pidfd(session.as_fd()).map_or(true, |pidfd| pidfd_dead(pidfd.as_fd())));
}
