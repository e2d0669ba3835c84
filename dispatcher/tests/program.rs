//! The program: its options, its signals, its exits, its socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Output;

use nodeset_bus::protocol::*;
use rustix::process::Signal;
use support::*;

fn text(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn the_help_lists_what_can_be_set() {
    let output = Program::bare().arg("--help").output().unwrap();
    let (help, _) = text(&output);
    assert!(output.status.success());
    for option in [
        "--instance",
        "--socket",
        "--log-level",
        "--log-format",
        "--max-nodes",
        "--max-publications",
        "--max-subscriptions",
        "--max-topics",
        "--max-links",
        "--max-log-bytes",
        "--max-queue-bytes",
        "--grace-seconds",
        "--print-config",
        "--config",
        "--host-name",
        "--listen",
        "--peer",
        "--key",
        "--peer-key",
        "--insecure-plaintext",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
    assert!(help.contains("XDG_RUNTIME_DIR") && help.contains("text") && help.contains("json"), "{help}");
}

#[test]
fn what_is_not_understood_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    for (arguments, said) in [
        (&["--no-such-option"][..], "--no-such-option"),
        (&["--max-nodes", "many"], "--max-nodes"),
        (&["--log-level", "[[["], "give error, warn, info, debug, trace"),
        (&["--grace-seconds", "-1"], "--grace-seconds"),
        (&["surplus"], "surplus"),
    ] {
        let output = Program::command(&path).args(arguments).output().unwrap();
        let (_, errors) = text(&output);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
        assert!(!path.exists());
    }
    let output = Program::bare().args(["--instance", "a/b"]).output().unwrap();
    let (_, errors) = text(&output);
    assert!(!output.status.success() && errors.contains("`a/b` cannot name an instance"), "{errors}");
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d.sock");
        let program = Program::start(&path);
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        let mut node = RawNode::attach(&path, "one");
        node.publish("a", nodeset_bus::message::Schema::bytes());
        program.signal(signal);
        let heard = node.raw.until_closed();
        assert_eq!(heard.last(), Some(&ToNode::Leaving), "{signal:?}");
        let (status, log) = program.ended();
        assert_eq!(status.code(), Some(0), "{signal:?}: {log}");
        assert!(!path.exists(), "{signal:?}");
        for event in ["serving", "node_attached", "advertised", "signal", "ended"] {
            assert!(log.contains(&format!("event=\"{event}\"")), "{event}: {log}");
        }
    }
}

#[test]
fn a_second_one_is_told_who_has_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let first = Program::start(&path);
    let mut node = RawNode::attach(&path, "one");
    let output = Program::command(&path).output().unwrap();
    let (_, errors) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let holder = format!("a standalone dispatcher, process {} of user", first.child.id());
    assert!(errors.contains(&holder) && errors.contains("--instance"), "{errors}");
    // The first one serves on.
    node.publish("a", nodeset_bus::message::Schema::bytes());
    assert!(path.exists());
}

#[test]
fn what_a_killed_one_left_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    Program::start(&path).kill();
    assert!(path.exists(), "nobody could remove it");
    let second = Program::start(&path);
    RawNode::attach(&path, "one");
    second.signal(Signal::TERM);
    let (status, log) = second.ended();
    assert!(status.success() && log.contains("stale_socket_removed"), "{log}");
    assert!(!path.exists());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no lock file, nothing else");
}

#[test]
fn where_nothing_can_be_made_is_said_with_a_cure() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none").join("d.sock");
    let output = Program::command(&missing).output().unwrap();
    let (_, errors) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("none") && errors.contains("make it"), "{errors}");

    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    let mut command = Program::command(&closed.join("d.sock"));
    if rustix::process::geteuid().is_root() {
        // Root may write anyway: somebody else tries, who must be able to go there.
        const NOBODY: u32 = 65_534;
        std::os::unix::fs::chown(&closed, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: the program cannot be started as another user: {error}");
            return;
        }
    };
    let (_, errors) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("Permission denied") && errors.contains("--socket"), "{errors}");
    assert!(errors.contains(&format!("{:?}", closed.join("d.sock"))), "{errors}");
}

#[test]
fn the_socket_is_where_the_surroundings_say() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nodeset").join("mine.sock");
    let mut command = Program::bare();
    command.args(["--instance", "mine"]).env("XDG_RUNTIME_DIR", directory.path());
    let program = Program::start_with(command, &path);
    RawNode::attach(&path, "one");
    let folder = fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    program.signal(Signal::TERM);
    assert!(program.ended().0.success());

    // Without a runtime directory: as root where a system service has its sockets, else in a folder of this user's.
    let instance = format!("test-{}", random());
    let command = || {
        let mut command = Program::bare();
        command.args(["--instance", &instance]).env_remove("XDG_RUNTIME_DIR").env("TMPDIR", directory.path());
        command
    };
    let (config, _) = text(&command().arg("--print-config").output().unwrap());
    let path = config.lines().find_map(|line| line.strip_prefix("socket ")).unwrap().trim();
    let path = PathBuf::from(path);
    assert_eq!(path.file_name().unwrap().to_str(), Some(&*format!("{instance}.sock")));
    let program = Program::start_with(command(), &path);
    RawNode::attach(&path, "one");
    let folder = fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(folder.uid(), rustix::process::geteuid().as_raw());
    program.signal(Signal::TERM);
    assert!(program.ended().0.success());
    assert!(!path.exists());
}

#[test]
fn lines_can_be_for_programs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let mut command = Program::command(&path);
    command.args(["--log-format", "json", "--log-level", "debug"]);
    let program = Program::start_with(command, &path);
    let pid = program.child.id();
    drop(RawNode::attach(&path, "one"));
    wait_for_rows(&path, "an empty table", <[Listing]>::is_empty);
    program.signal(Signal::TERM);
    let (_, log) = program.ended();
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
    assert!(log.lines().any(|line| line.contains(r#""event":"serving""#) && line.contains(&format!(r#""pid":{pid}"#))));
    assert!(log.lines().any(|line| line.contains(r#""event":"node_gone""#) && line.contains(r#""name":"one""#)));
}

#[test]
fn the_limit_of_descriptors_is_raised() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_nodeset-dispatcher"), "--socket"]);
    command.arg(&path).stderr(std::process::Stdio::piped());
    let program = Program::start_with(command, &path);
    let limits = fs::read_to_string(format!("/proc/{}/limits", program.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert_ne!(numbers[0], "64", "{line}");
}
