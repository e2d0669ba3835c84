//! `performance1` as a program. What it measures is never judged here, only that it measures and says so.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nodeset_bus::sys::{available_cores, pin_to_core};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// With a place of its own for whatever it leaves behind.
fn performance1(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_performance1"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["NODESET_DISPATCHER", "NODESET_INSTANCE", "NODESET_LOG"] {
        command.env_remove(name);
    }
    command.env("XDG_RUNTIME_DIR", place);
    command
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

/// One object a line.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let place = TempDir::new().unwrap();
    let output = performance1(place.path(), arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(sockets(place.path()).is_empty());
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sockets(place: &Path) -> Vec<std::ffi::OsString> {
    let Ok(found) = std::fs::read_dir(place.join("nodeset")) else { return Vec::new() };
    found.map(|entry| entry.unwrap().file_name()).filter(|name| name.to_string_lossy().ends_with(".sock")).collect()
}

fn failure(output: Output) -> String {
    assert!(!output.status.success());
    text(&output.stderr)
}

/// Most workloads take two cores.
fn too_few_cores() -> bool {
    let few = available_cores().len() < 2;
    if few {
        println!("skipped: this takes two cores");
    }
    few
}

fn is_positive(row: &Value, field: &str) -> bool {
    row[field].as_f64().is_some_and(|value| value > 0.0)
}

#[test]
fn a_latency_is_one_line_of_bytes_and_one_typed() {
    if too_few_cores() {
        return;
    }
    let rows = rows(&["--workload", "latency", "--size", "64", "--msgcount", "500"]);
    assert_eq!(rows.iter().map(|row| &row["payload"]).collect::<Vec<_>>(), ["bytes", "typed"]);
    for row in &rows {
        assert_eq!((&row["workload"], &row["size"]), (&"latency".into(), &64.into()), "{row}");
        assert_eq!((&row["messages"], &row["subscribers"]), (&500.into(), &1.into()), "{row}");
        assert_eq!(row["verified"], true, "{row}");
        for field in ["seconds", "p50_ns", "p99_ns", "p999_ns", "max_ns", "limit_p50_ns", "ratio_to_limit"] {
            assert!(is_positive(row, field), "{field}: {row}");
        }
        assert!(row["p50_ns"].as_f64() <= row["max_ns"].as_f64(), "{row}");
        for field in ["msgs_per_s", "bytes_per_s", "ns_per_publish"] {
            assert!(row.get(field).is_none(), "{field}: {row}");
        }
    }
}

#[test]
fn each_workload_says_what_applies_to_it() {
    if too_few_cores() {
        return;
    }
    let mut arguments = vec!["--msgcount", "300", "--size", "64", "--subscribers", "5"];
    let fields = [
        ("limit_line", 1, &["p50_ns", "max_ns"][..]),
        ("limit_wakeup", 1, &["p50_ns", "max_ns"]),
        ("limit_stream", 1, &["bytes_per_s"]),
        ("latency", 2, &["p50_ns", "limit_p50_ns", "ratio_to_limit"]),
        ("wakeup", 1, &["p50_ns", "limit_p50_ns", "ratio_to_limit"]),
        ("throughput", 2, &["msgs_per_s", "bytes_per_s", "limit_bytes_per_s", "ratio_to_limit"]),
        ("fanout", 2, &["ns_per_publish", "msgs_per_s"]),
        ("fanout_read", 2, &["ns_per_publish", "msgs_per_s"]),
    ];
    for (workload, _, _) in &fields {
        arguments.extend(["--workload", workload]);
    }
    let rows = rows(&arguments);
    for (workload, lines, fields) in fields {
        let of: Vec<_> = rows.iter().filter(|row| row["workload"] == workload).collect();
        assert_eq!(of.len(), lines, "{workload}");
        for row in of {
            assert_eq!(row["messages"], 300, "{row}");
            // Nobody reads what is fanned out to those who never read.
            assert_eq!(row.get("verified").is_some(), workload != "fanout", "{row}");
            let subscribers = if workload.starts_with("fanout") { 5 } else { 1 };
            assert!(workload.starts_with("limit") || row["subscribers"] == subscribers, "{row}");
            for field in fields {
                assert!(is_positive(row, field), "{field}: {row}");
            }
        }
    }
}

#[test]
fn publishing_to_nobody_can_be_measured_and_takes_one_core() {
    let rows = rows(&["--workload", "fanout", "--subscribers", "0", "--size", "100", "--seconds", "0.03"]);
    // No typed message has 100 bytes.
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&row["subscribers"], &row["payload"]), (&0.into(), &"bytes".into()));
    assert!(is_positive(row, "ns_per_publish") && is_positive(row, "messages"), "{row}");
}

#[test]
fn one_core_is_told_what_to_do() {
    // Children may only use what the thread that starts them may use; this thread ends with its test.
    pin_to_core(available_cores()[0]).unwrap();
    let place = TempDir::new().unwrap();
    let errors = failure(performance1(place.path(), &["--workload", "latency"]).output().unwrap());
    assert!(errors.contains("takes two cores") && errors.contains("--workload wakeup"), "{errors}");
    let output = performance1(place.path(), &["--msgcount", "50", "--subscribers", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (table, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(errors.contains("latency") && errors.contains("left out"), "{errors}");
    assert!(table.contains("wakeup") && table.contains("fanout") && !table.contains("throughput"), "{table}");
}

#[test]
fn what_makes_no_sense_is_refused_with_the_cure() {
    let place = TempDir::new().unwrap();
    let refused = |arguments: &[&str]| failure(performance1(place.path(), arguments).output().unwrap());
    let errors = refused(&["--workload", "latencies"]);
    assert!(errors.contains("latencies") && errors.contains("fanout_read"), "{errors}");
    assert!(refused(&["--size", "0"]).contains("--size 1 or more"));
    assert!(refused(&["--msgcount", "0"]).contains("--msgcount must be above 0"));
    assert!(refused(&["--seconds", "0"]).contains("--seconds must be above 0"));
    assert!(refused(&["--seconds", "soon"]).contains("--seconds"));
    assert!(refused(&["--workload", "wakeup", "--subscribers", "3"]).contains("fanout"));
    assert!(refused(&["--jsn"]).contains("--json"));
    // That one asks for a dispatcher which runs already.
    let errors = refused(&["--no-embedded", "--workload", "fanout"]);
    assert!(errors.contains("default.sock") && errors.contains("start `nodeset-dispatcher`"), "{errors}");
    let errors = refused(&["worker"]);
    assert!(errors.contains("worker"), "{errors}");
}

#[test]
fn a_signal_ends_it_and_nothing_is_left_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = TempDir::new().unwrap();
        let mut command = performance1(place.path(), &["--json", "--seconds", "0.2", "--subscribers", "1"]);
        for _ in 0..200 {
            command.args(["--workload", "fanout"]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        lines.next().unwrap().unwrap();
        assert_eq!(sockets(place.path()).len(), 1);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal.as_raw()));
        assert!(sockets(place.path()).is_empty());
    }
}
