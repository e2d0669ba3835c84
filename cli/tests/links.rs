//! `nodeset list --links`, with real processes: while the dispatcher lives, after it was killed, and after it ended.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nodeset::{Node, board};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

struct Place {
    directory: TempDir,
    board: String,
}

impl Place {
    fn new(test: &str) -> Place {
        Place { directory: TempDir::new().unwrap(), board: format!("test-{test}-{}", std::process::id()) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("d.sock")
    }

    fn nodeset(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn dispatcher(&self) -> Dispatcher {
        let mut command = self.nodeset(&["dispatcher", "--board", &self.board, "--log-level", "warn", "--socket"]);
        Dispatcher(command.arg(self.socket()).spawn().unwrap())
    }

    fn list(&self, more: &[&str]) -> Output {
        let mut command = self.nodeset(&["list", "--links", "--board", &self.board, "--dispatcher"]);
        command.arg(self.socket()).args(more).output().unwrap()
    }

    /// The rows, once they are as wanted.
    fn rows(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let until = Instant::now() + DEADLINE;
        loop {
            let output = self.list(&["--json"]);
            let text = String::from_utf8(output.stdout).unwrap();
            let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if output.status.success() && wanted(&rows) {
                return rows;
            }
            assert!(Instant::now() < until, "{text}{}", String::from_utf8_lossy(&output.stderr));
            std::thread::yield_now();
        }
    }

    fn name(&self) -> PathBuf {
        board::path(geteuid().as_raw(), &self.board)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Of a dispatcher that was killed.
        let _ = std::fs::remove_file(self.name());
    }
}

fn node(socket: &Path, name: &str) -> Node {
    Node::builder(name).socket(socket).connect_timeout(DEADLINE).connect().unwrap()
}

/// Ended with the test.
struct Dispatcher(Child);

impl Dispatcher {
    fn end(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until somebody listens.
fn wait_for(socket: &Path) {
    let until = Instant::now() + DEADLINE;
    while !socket.exists() {
        assert!(Instant::now() < until, "no dispatcher came");
        std::thread::yield_now();
    }
}

#[test]
fn who_is_slow_is_seen_while_the_dispatcher_lives_and_after_its_death() {
    let place = Place::new("slow");
    let mut dispatcher = place.dispatcher();
    wait_for(&place.socket());
    let nodes = ["fast", "keen", "slow"].map(|name| node(&place.socket(), name));
    let mut publisher = nodes[0].publisher::<[u8]>("data").block_len(4096).create().unwrap();
    let mut keen = nodes[1].subscriber::<[u8]>("data").reliable().create().unwrap();
    let mut slow = nodes[2].subscriber::<[u8]>("data").reliable().create().unwrap();
    for _ in 0..200 {
        publisher.publish(&[7; 400]).unwrap();
        keen.receive().unwrap();
    }
    let rows = place.rows(|rows| rows.len() == 3 && rows[1]["messages"] == 200 && rows[2]["behind"] == 200);
    assert!(rows[0]["stale"].is_null(), "{}", rows[0]);
    assert_eq!(rows[0]["nodes"], 3);
    let [keen_row, slow_row] = [&rows[1], &rows[2]];
    assert_eq!((&keen_row["subscriber"], &slow_row["subscriber"]), (&"keen".into(), &"slow".into()));
    assert_eq!((&keen_row["slowest"], &slow_row["slowest"]), (&false.into(), &true.into()));
    assert!(keen_row["behind"].as_u64().unwrap() < 20, "{keen_row}");
    assert_eq!(slow_row["kind"], "reliable");
    let text = String::from_utf8(place.list(&[]).stdout).unwrap();
    assert!(text.lines().any(|line| line.contains("slow ") && line.contains("slowest")), "{text}");

    // It dies: what it knew last is still there, and said to be old.
    dispatcher.end(Signal::KILL);
    let rows = place.rows(|rows| !rows[0]["stale"].is_null());
    assert_eq!(rows[2]["behind"], 200);
    let text = String::from_utf8(place.list(&[]).stdout).unwrap();
    assert!(text.starts_with("stale for "), "{text}");

    // Its successor takes the board over; who reads on is no longer behind.
    let mut successor = place.dispatcher();
    nodes.iter().for_each(Node::reconnect_now);
    for _ in 0..200 {
        slow.receive().unwrap();
    }
    let fresh = |rows: &[Value]| rows.len() == 3 && rows[0]["stale"].is_null() && rows[2]["behind"].as_u64() < Some(20);
    let rows = place.rows(fresh);
    assert_eq!(rows[0]["dispatcher_pid"], successor.0.id());
    drop((publisher, keen, slow, nodes));

    // It ends in order: nothing is left.
    successor.end(Signal::TERM);
    assert!(!place.name().exists());
    let output = place.list(&[]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("there is no board"), "{text}");
}

#[test]
fn what_a_lossy_subscriber_missed_is_seen() {
    let place = Place::new("missed");
    let _dispatcher = place.dispatcher();
    wait_for(&place.socket());
    let nodes = ["fast", "dozy"].map(|name| node(&place.socket(), name));
    let mut publisher = nodes[0].publisher::<[u8]>("data").block_len(4096).depth(4).create().unwrap();
    let mut dozy = nodes[1].subscriber::<[u8]>("data").depth(4).create().unwrap();
    publisher.publish(&[7; 400]).unwrap();
    dozy.receive().unwrap();
    for _ in 0..200 {
        publisher.publish(&[7; 400]).unwrap();
    }
    // First what stands in the block that it reads.
    while dozy.missed() == 0 {
        dozy.receive().unwrap();
    }
    let missed = dozy.missed();
    place.rows(|rows| rows.len() == 2 && rows[1]["missed"] == missed);
}

#[test]
fn without_a_name_there_is_none_and_it_is_said_how_to_get_one() {
    let place = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
    command.args(["list", "--links", "--dispatcher"]).arg(place.path().join("d.sock"));
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("--board NAME"));
}
