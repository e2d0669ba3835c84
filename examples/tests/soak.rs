//! A short soak: everything that a long one checks, for a few seconds.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::process::Command;

fn soak(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_soak")).args(arguments).output().unwrap()
}

#[test]
fn nobody_notices_the_death_of_others() {
    let output = soak(&["--seconds", "4", "--publishers", "2", "--subscribers", "4", "--rate", "1000", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for what in ["kills", "messages", "untouched_messages", "untouched_p99_ns", "untouched_calm_p99_ns", "apart_p99_ns"]
    {
        assert!(summary[what].as_u64().unwrap() > 0, "{what}: {summary}");
    }
}

#[test]
fn wrong_options_are_refused_by_name() {
    for arguments in [["--every", "0"], ["--publishers", "0"], ["--longest", "9999999"]] {
        let output = soak(&arguments);
        assert!(!output.status.success());
        assert!(String::from_utf8(output.stderr).unwrap().contains(arguments[0]));
    }
}
