//! The examples of ways to wait, the camera and the state: what their headers promise.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use support::{Beside, command};
use tempfile::TempDir;

/// What it prints until it ends, which must be in order.
fn output(program: &str, place: &Path, arguments: &[&str]) -> String {
    let output = command(program, place, arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the header of an example promises: its last block of text.
fn promised(source: &str) -> String {
    let header: Vec<_> = source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let fences: Vec<_> = header.iter().enumerate().filter(|(_, line)| line.starts_with("```")).collect();
    let [.., (begin, _), (end, _)] = fences[..] else { panic!("a header without a block") };
    header[begin + 1..end].iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn async_tokio_prints_squares() {
    let place = TempDir::new().unwrap();
    let printed = output(env!("CARGO_BIN_EXE_async_tokio"), place.path(), &["--count", "3"]);
    assert_eq!(printed, promised(include_str!("../src/bin/async_tokio.rs")));
}

#[test]
fn handlers_print_temperatures() {
    let place = TempDir::new().unwrap();
    let printed = output(env!("CARGO_BIN_EXE_handlers"), place.path(), &["--count", "4"]);
    assert_eq!(printed, promised(include_str!("../src/bin/handlers.rs")));
}

#[test]
fn request_reply_asks_and_answers() {
    let place = TempDir::new().unwrap();
    let printed = output(env!("CARGO_BIN_EXE_request_reply"), place.path(), &[]);
    assert_eq!(printed, promised(include_str!("../src/bin/request_reply.rs")));
}

#[test]
fn stream_node_plays_to_those_who_are_there() {
    let place = TempDir::new().unwrap();
    let printed = output(env!("CARGO_BIN_EXE_stream_node"), place.path(), &[]);
    assert_eq!(printed, promised(include_str!("../src/bin/stream_node.rs")));
}

#[test]
fn camera_shows_images() {
    let place = TempDir::new().unwrap();
    let printed = output(env!("CARGO_BIN_EXE_camera"), place.path(), &["--frames", "3"]);
    assert_eq!(printed, promised(include_str!("../src/bin/camera.rs")));
}

#[test]
fn state_shows_the_newest_value() {
    let place = TempDir::new().unwrap();
    let printed = output(env!("CARGO_BIN_EXE_state"), place.path(), &[]);
    assert_eq!(printed, promised(include_str!("../src/bin/state.rs")));
}

#[test]
fn epoll_chats() {
    let place = TempDir::new().unwrap();
    let start = || {
        let mut program = command(env!("CARGO_BIN_EXE_epoll"), place.path(), &[]);
        program.stdin(Stdio::piped());
        Beside::start(program)
    };
    let mut first = start();
    first.line_with("epoll is there");
    let mut second = start();
    second.line_with("epoll-2 is there");
    // Two lines that come in three pieces.
    let mut keyboard = second.child.stdin.take().unwrap();
    for piece in ["good mor", "ning\nand good ", "night\n"] {
        keyboard.write_all(piece.as_bytes()).unwrap();
    }
    let promised = promised(include_str!("../src/bin/epoll.rs"));
    assert_eq!(first.line_with("good morning"), promised.trim_end());
    assert_eq!(first.line_with("good"), "epoll-2: and good night");
    first.child.stdin.as_ref().unwrap().write_all(b"same to you\n").unwrap();
    assert_eq!(second.line_with("same"), "epoll: same to you");
    // The end of the input ends it.
    drop(keyboard);
    assert!(second.child.wait().unwrap().success());
    drop(first.child.stdin.take());
    assert!(first.child.wait().unwrap().success());
}

#[test]
fn each_explains_its_options() {
    for program in [
        env!("CARGO_BIN_EXE_async_tokio"),
        env!("CARGO_BIN_EXE_camera"),
        env!("CARGO_BIN_EXE_epoll"),
        env!("CARGO_BIN_EXE_handlers"),
        env!("CARGO_BIN_EXE_request_reply"),
        env!("CARGO_BIN_EXE_state"),
    ] {
        let place = TempDir::new().unwrap();
        let help = output(program, place.path(), &["--help"]);
        for option in ["--dispatcher", "--instance", "--log-level", "--no-embedded"] {
            assert!(help.contains(option), "{program} does not explain {option}");
        }
    }
}
