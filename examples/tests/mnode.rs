//! The two `mnode` programs, as a newcomer starts, kills and restarts them.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use nodeset::Node;
use nodeset_examples::machine::TOPIC;
use rustix::process::{Pid, Signal, kill_process};
use support::{Beside, command};
use tempfile::TempDir;

/// A user to whom nothing belongs.
const NOBODY: u32 = 65534;
const MNODE: &str = env!("CARGO_BIN_EXE_mnode");
const PUBLISH: &str = env!("CARGO_BIN_EXE_mnode_publish");

#[test]
fn they_find_each_other_without_a_dispatcher_and_survive_each_other() {
    let place = TempDir::new().unwrap();
    let publish = || Beside::start(command(PUBLISH, place.path(), &["--rate", "50"]));
    // Two at the same time, one of them with two nodes.
    let mut first = Beside::start(command(MNODE, place.path(), &["--nodes", "2"]));
    let second = Beside::start(command(MNODE, place.path(), &[]));
    let mut publisher = publish();
    for name in ["sensor: #", "sensor-2: #"] {
        let line = second.line_with(name);
        assert!(line.contains("load") && line.contains("GiB"), "{line}");
        first.line_with(name);
    }
    // The publisher dies, and comes back.
    publisher.kill();
    second.forget();
    let mut publisher = publish();
    second.line_with(" #0 ");
    first.line_with(" #0 ");
    // A listener dies: the one that was started first and carries the dispatcher, if nobody else does by now.
    first.kill();
    second.forget();
    second.line_with("sensor");
    // It comes back, too.
    let again = Beside::start(command(MNODE, place.path(), &[]));
    again.line_with("sensor");
    assert!(publisher.child.try_wait().unwrap().is_none());
    assert!(publisher.err.try_iter().all(|line| line.starts_with("mnode_publish: ") && line.ends_with(" listening")));
    assert!(second.err.try_iter().next().is_none(), "it was calm");
}

#[test]
fn a_signal_ends_them_in_order() {
    let place = TempDir::new().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut listener = Beside::start(command(MNODE, place.path(), &[]));
        let mut publisher = Beside::start(command(PUBLISH, place.path(), &["--rate", "50"]));
        listener.line_with("sensor");
        for program in [&mut listener, &mut publisher] {
            kill_process(Pid::from_child(&program.child), signal).unwrap();
            assert!(program.child.wait().unwrap().success());
        }
        assert!(!place.path().join("d.sock").exists(), "the socket is gone with the last one");
    }
}

#[test]
fn a_hangup_ends_neither() {
    let place = TempDir::new().unwrap();
    let listener = Beside::start(command(MNODE, place.path(), &[]));
    let publisher = Beside::start(command(PUBLISH, place.path(), &["--rate", "50"]));
    listener.line_with("sensor");
    for program in [&listener, &publisher] {
        kill_process(Pid::from_child(&program.child), Signal::HUP).unwrap();
    }
    // More than was on its way when the signal came.
    listener.forget();
    (0..10).for_each(|_| drop(listener.line_with("sensor")));
}

fn failure(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn errors_name_the_cure() {
    let place = TempDir::new().unwrap();
    let node = Node::builder("other").socket(place.path().join("d.sock")).embedded().connect().unwrap();
    let other = node.publisher::<str>(TOPIC).create().unwrap();
    let text = failure(command(MNODE, place.path(), &[]).output().unwrap());
    assert!(text.contains("another type") && text.contains("`other`"), "{text}");
    drop(other);
    let _other = node.subscriber::<str>(TOPIC).create().unwrap();
    let text = failure(command(PUBLISH, place.path(), &[]).output().unwrap());
    assert!(text.contains("another type") && text.contains("`other`"), "{text}");
    let text = failure(command(MNODE, place.path(), &["--nods", "2"]).output().unwrap());
    assert!(text.contains("--nodes"), "{text}");
    let text = failure(command(PUBLISH, place.path(), &["--rate", "0"]).output().unwrap());
    assert!(text.contains("0.001"), "{text}");
    let empty = TempDir::new().unwrap();
    for program in [MNODE, PUBLISH] {
        let text = failure(command(program, empty.path(), &["--no-embedded"]).output().unwrap());
        assert!(text.contains("start `nodeset-dispatcher`"), "{text}");
    }
    let nowhere = place.path().join("nowhere");
    let text = failure(command(PUBLISH, &nowhere, &[]).output().unwrap());
    assert!(text.contains("make it") && text.contains("nowhere"), "{text}");
    for program in [MNODE, PUBLISH, env!("CARGO_BIN_EXE_performance1")] {
        let help = Command::new(program).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for option in ["--dispatcher", "--instance", "--node-name", "--log-level", "--log-format", "--no-embedded"] {
            assert!(help.contains(option), "{program} does not explain {option}");
        }
    }
}

#[test]
fn a_user_without_permission_for_the_socket_is_told_so() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can run a program as another user");
        return;
    }
    let place = TempDir::new().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let _node = Node::builder("root").socket(place.path().join("d.sock")).embedded().connect().unwrap();
    for (program, name) in [(MNODE, "mnode"), (PUBLISH, "mnode_publish")] {
        // A copy, since the other user may not get to where the program was built. By another process: a descriptor of ours that
        // writes it might be inherited by a child of another test just then, and the kernel would not run the copy ("text busy").
        let copy = place.path().join(name);
        assert!(Command::new("cp").arg(program).arg(&copy).status().unwrap().success());
        for arguments in [&[][..], &["--no-embedded"]] {
            let mut command = command(copy.to_str().unwrap(), place.path(), arguments);
            let text = failure(command.uid(NOBODY).gid(NOBODY).output().unwrap());
            assert!(text.contains("no permission") && text.contains("--instance"), "{text}");
        }
    }
}
