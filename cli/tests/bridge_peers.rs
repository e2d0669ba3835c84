//! `nodeset list --peers`: what is said of other hosts.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod hosts;

use std::time::{Duration, Instant};

use hosts::Host;
use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

/// What is said of each host, by name, once it is as wanted.
fn peers(host: &Host, board: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let until = Instant::now() + DEADLINE;
    loop {
        let output = host.run(&["list", "--peers", "--json", "--board", board]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if output.status.success() && wanted(&rows) {
            return rows;
        }
        assert!(Instant::now() < until, "{text}{}", String::from_utf8_lossy(&output.stderr));
        std::thread::yield_now();
    }
}

#[test]
fn the_board_says_how_other_hosts_are() {
    const MESSAGES: u64 = 100;
    let place = TempDir::new().unwrap();
    let board = format!("test-peers-{}", std::process::id());
    let peers_of_a = ["--peer", "b", "--peer", "c", "--peer", "d"];
    let a =
        Host::start(place.path(), "a", &[&["--listen", "127.0.0.1:0", "--board", &board], &peers_of_a[..]].concat());
    let to_a = format!("a={}", a.address());
    let mut b = Host::start(place.path(), "b", &["--peer", &to_a]);
    let _c = Host::start(place.path(), "c", &["--peer", &to_a]);

    let names = |rows: &[Value]| rows.iter().map(|row| row["host"].clone()).collect::<Vec<_>>();
    let connected = |rows: &[Value]| rows.iter().map(|row| row["connected"] == true).collect::<Vec<_>>();
    let rows = peers(&a, &board, |rows| connected(rows) == [true, true, false]);
    assert_eq!(names(&rows), ["b", "c", "d"]);

    let (reader, camera) = (b.node("reader"), a.node("camera"));
    let mut subscriber = reader.subscriber::<u64>("camera@a/front").reliable().create().unwrap();
    let mut publisher = camera.publisher::<u64>("front").create().unwrap();
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    for number in 0..MESSAGES {
        publisher.publish(&number).unwrap();
        assert_eq!(subscriber.receive_timeout(DEADLINE).unwrap().unwrap().to_native(), number);
    }
    let rows = peers(&a, &board, |rows| rows[0]["behind"] == 0 && rows[0]["sent"] == MESSAGES);
    assert!(rows[0]["round_trip_ns"].as_u64().is_some_and(|time| time > 0), "{rows:?}");
    // 16 bytes of header and 16 of payload.
    assert_eq!(rows[0]["sent_bytes"], 32 * MESSAGES);
    // Only those are sent it who want it.
    assert_eq!((&rows[1]["sent"], &rows[1]["sent_bytes"]), (&Value::from(0), &Value::from(0)));

    b.kill();
    let rows = peers(&a, &board, |rows| connected(rows) == [false, true, false]);
    assert!(rows[0]["last_end"].is_string() && rows[1]["last_end"].is_null(), "{rows:?}");
    let output = a.run(&["list", "--peers", "--board", &board]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
    assert_eq!(words, [["HOST", "STATE"], ["b", "away"], ["c", "connected"], ["d", "away"]]);
}
