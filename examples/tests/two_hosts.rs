//! `two_hosts`, as its header promises it, over the loopback and, with the right to make them, between network namespaces.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::process::{Command, Output};

use support::programs;

const TWO_HOSTS: &str = env!("CARGO_BIN_EXE_two_hosts");
const STEPS: [&str; 8] = ["link: ", "connected: ", "heard on a: ", "cut: ", "back: ", "killed: ", "back: ", "held: "];

fn two_hosts(arguments: &[&str]) -> Output {
    Command::new(TWO_HOSTS).arg("--programs").arg(programs(TWO_HOSTS)).args(arguments).output().unwrap()
}

/// Whether this user may make network namespaces.
fn may_make_namespaces() -> bool {
    let name = format!("nodeset-{}-may", std::process::id());
    let ip = |verb| Command::new("ip").args(["netns", verb, &name]).output().is_ok_and(|it| it.status.success());
    ip("add") && ip("delete")
}

fn shows_all(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), STEPS.len(), "{text}");
    for (line, step) in lines.iter().zip(STEPS) {
        assert!(line.starts_with(step), "{text}");
    }
    for reading in [2, 4, 6] {
        assert!(lines[reading].contains("sensor: #") && lines[reading].contains("GiB"), "{text}");
    }
    lines
}

#[test]
fn over_the_loopback() {
    let lines = shows_all(&two_hosts(&["--loopback"]));
    assert!(lines[0].contains("loopback"), "{}", lines[0]);
}

#[test]
fn between_network_namespaces() {
    if !may_make_namespaces() {
        println!("skipped: this user has no right to make network namespaces (root has it)");
        return;
    }
    let lines = shows_all(&two_hosts(&[]));
    assert!(lines[0].contains("namespaces") && lines[0].contains("encrypted"), "{}", lines[0]);
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8(left.stdout).unwrap();
    let namespace = lines[0].split_whitespace().find(|word| word.starts_with("nodeset-")).unwrap();
    assert!(!left.contains(namespace), "{left}");
}

#[test]
fn what_is_missing_is_said() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(TWO_HOSTS).arg("--programs").arg(empty.path()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("leave out --programs"), "{errors}");
}
