//! `scale` as a program, small. Times are never judged here, only that each count held and was said.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// With a place of its own for whatever it leaves behind.
fn scale(place: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale"));
    command.args(arguments).env("TMPDIR", place).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

const DEATHS: [&str; 14] = [
    "--nodes",
    "6",
    "--processes",
    "3",
    "--topics",
    "8",
    "--subscribers",
    "3",
    "--restarts",
    "2",
    "--window",
    "200",
    "--deaths",
    "3",
];
const JOIN: [&str; 8] =
    ["--join-nodes", "5", "--join-processes", "2", "--join-topics", "10", "--join-subscribers", "4"];

#[test]
fn every_count_holds_and_nothing_is_left_behind() {
    let place = TempDir::new().unwrap();
    let output = scale(place.path(), &[&DEATHS[..], &JOIN, &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let rows: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let measured: Vec<_> = rows.iter().map(|row| row["measured"].as_str().unwrap()).collect();
    assert_eq!(measured, ["reattach", "death", "join"]);
    let [reattach, death, join] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&reattach["links"], &reattach["restarts"]), (&24.into(), &2.into()));
    assert!(reattach["messages"].as_u64().unwrap() > 0);
    assert!(reattach["complete"]["ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&death["deaths"], &death["peers"]), (&3.into(), &3.into()));
    assert!(death["notice"]["ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&join["links"], &join["messages"]), (&40.into(), &40.into()));
    // Each node publishes two topics and subscribes eight.
    assert!(join["a_node"]["shared_mappings"].as_u64().unwrap() >= 10);
    assert!(place.path().read_dir().unwrap().next().is_none());
}

#[test]
fn one_measurement_can_be_had_alone_for_people() {
    let place = TempDir::new().unwrap();
    let output = scale(place.path(), &[&JOIN[..], &["--only", "join"]].concat());
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.starts_with("join: 5 nodes in 2 processes, 10 topics x 4 subscribers, 40 links\n"), "{said}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = TempDir::new().unwrap();
    let cases: [(&[&str], &str); 3] = [
        (&["--nodes", "3", "--subscribers", "3"], "take at least 4 nodes"),
        (&["--processes", "51"], "at least a node a process"),
        (&["--restarts", "0"], "--restarts"),
    ];
    for (arguments, said) in cases {
        let output = scale(place.path(), arguments);
        assert!(!output.status.success() && text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}
