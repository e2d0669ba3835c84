//! `bridge_soak`, shortly: connections that are cut lose and repeat nothing, and a run in which anything is lost fails.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::process::{Command, Output};

use support::programs;

const BRIDGE_SOAK: &str = env!("CARGO_BIN_EXE_bridge_soak");

fn bridge_soak(arguments: &[&str]) -> Output {
    Command::new(BRIDGE_SOAK).arg("--programs").arg(programs(BRIDGE_SOAK)).args(arguments).output().unwrap()
}

#[test]
fn connections_that_are_cut_lose_nothing() {
    let output = bridge_soak(&["--messages", "50000", "--cuts", "25", "--seed", "3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().unwrap();
    let expected = "50000 messages, 25 connections cut, 0 dispatchers killed: 0 lost (0 told), 0 repeated, 0 damaged";
    assert!(last.starts_with(expected), "{text}");
}

#[test]
fn killed_dispatchers_repeat_and_damage_nothing_and_what_is_lost_is_told() {
    let output = bridge_soak(&["--messages", "100000", "--cuts", "0", "--kills", "4"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains(" dispatchers killed: ") && last.contains("0 repeated, 0 damaged"), "{text}");
    let lost = last.split_once("killed: ").and_then(|(_, rest)| rest.split_once(" lost (")).unwrap();
    let told = lost.1.split_once(" told").unwrap().0;
    assert_eq!(lost.0, told, "{text}");
    assert_eq!(output.status.success(), told == "0", "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let output = bridge_soak(&["--size", "8"]);
    assert!(!output.status.success() && String::from_utf8(output.stderr).unwrap().contains("16..=1048576"));
}
