//! Records between processes: what becomes of descriptors when one executes another program, or has no room for more.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod other_process;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;

use nodeset_bus::memory::Segment;
use nodeset_bus::protocol::ToDispatcher;
use nodeset_bus::protocol::record::{Receiver, RecordError, encode, send, send_bytes};
use nodeset_bus::sys::Bell;
use other_process::{OtherProcess, play};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn other_process() {
    play(|part, _first, mut descriptors| {
        let socket = descriptors.pop().expect("where the record waits");
        match part {
            "few descriptors" => receive_with_room_for_one(&socket),
            "few on their way" => send_too_many(&socket),
            _ => panic!("an unknown part: {part}"),
        }
    });
}

/// The limit is the process's own, so this takes a process of its own.
fn receive_with_room_for_one(socket: &OwnedFd) {
    let probe = socket.try_clone().unwrap();
    let room = u64::try_from(probe.as_raw_fd()).unwrap() + 1;
    drop(probe);
    setrlimit(Resource::Nofile, Rlimit { current: Some(room), ..getrlimit(Resource::Nofile) }).unwrap();
    let error = Receiver::new().receive::<ToDispatcher>(socket.as_fd()).unwrap_err();
    assert!(matches!(error, RecordError::DescriptorsLost), "{error}");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    // The one that came was closed again: there is room for it.
    socket.try_clone().unwrap();
    // A record without descriptors still comes.
    let next = Receiver::new().receive::<ToDispatcher>(socket.as_fd()).unwrap().unwrap();
    assert_eq!(next.message, ToDispatcher::HandedBack);
}

#[test]
fn descriptors_that_find_no_room_are_an_error_that_names_the_limit() {
    let (ours, theirs) = pair();
    let bell = Bell::new().unwrap();
    send(ours.as_fd(), &ToDispatcher::List, &[bell.fd(); 3]).unwrap();
    send(ours.as_fd(), &ToDispatcher::HandedBack, &[]).unwrap();
    OtherProcess::start("few descriptors", &[theirs.as_fd()]).finish();
}

/// Root may have any number on their way.
fn send_too_many(socket: &OwnedFd) {
    let (ours, _theirs) = pair();
    setrlimit(Resource::Nofile, Rlimit { current: Some(16), ..getrlimit(Resource::Nofile) }).unwrap();
    let many = [socket.as_fd(); 32];
    let record = encode(&ToDispatcher::List).unwrap();
    for _ in 0..3 {
        match send_bytes(ours.as_fd(), &record, &many) {
            Ok(()) => {}
            Err(error) => {
                assert!(error.to_string().contains("ulimit -n"), "{error}");
                return;
            }
        }
    }
    assert!(rustix::process::geteuid().is_root(), "the limit was never met");
}

#[test]
fn too_many_descriptors_on_their_way_are_an_error_that_names_the_limit() {
    let (_ours, theirs) = pair();
    OtherProcess::start("few on their way", &[theirs.as_fd()]).finish();
}

#[test]
fn a_program_that_is_executed_gets_none_of_the_received_descriptors() {
    let (ours, theirs) = pair();
    let sent = Segment::create("passed on by mistake", 1).unwrap();
    send(ours.as_fd(), &ToDispatcher::List, &[sent.fd()]).unwrap();
    let received = Receiver::new().receive::<ToDispatcher>(theirs.as_fd()).unwrap().unwrap();
    let received = Segment::from_fd(received.descriptors.into_iter().next().unwrap()).unwrap();
    assert!(received.is_same_memory(&sent));
    // Both descriptors, the sent and the received one, are open while the program runs.
    let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("/proc/") && !listed.contains("passed on by mistake"), "{listed}");
}
