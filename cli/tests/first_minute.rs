//! What a newcomer does in the first minute, with the real program.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No test waits for a time to pass; this is only how long one that fails takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// `nodeset` with a dispatcher's place of the test's own.
fn nodeset(place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
    command.args(arguments).arg("--dispatcher").arg(place.join("d.sock")).stdin(Stdio::null());
    command
}

/// A program that runs beside the test, ended with it.
struct Beside {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Beside {
    fn start(mut command: Command) -> Beside {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Beside { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failure(output: Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_message_crosses_and_the_list_shows_who_is_there() {
    let place = TempDir::new().unwrap();
    // Two at the same time, as in two terminals.
    let mut echoes = [
        Beside::start(nodeset(place.path(), &["echo", "greeting"])),
        Beside::start(nodeset(place.path(), &["echo", "greeting"])),
    ];
    let publishing = nodeset(place.path(), &["pub", "greeting", "hello\nworld", "--subscribers", "2", "--wait", "60"]);
    let output = { publishing }.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for echo in &mut echoes {
        assert_eq!(echo.line(), "pub: hello\\nworld");
    }
    // If it was `pub` that carried the embedded dispatcher, one of the others carries it now, and hears from both again.
    let until = Instant::now() + DEADLINE;
    loop {
        let listed = nodeset(place.path(), &["list"]).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        if ["echo", "echo-2", "greeting", "lossy"].iter().all(|expected| text.contains(expected)) {
            break;
        }
        assert!(Instant::now() < until, "not all are in\n{text}");
    }
    // The one that carries the embedded dispatcher dies; the other one goes on.
    echoes[0].child.kill().unwrap();
    echoes[0].child.wait().unwrap();
    let again = nodeset(place.path(), &["pub", "greeting", "again", "--wait", "60"]).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    assert_eq!(echoes[1].line(), "pub: again");
}

#[test]
fn what_was_sent_beside_a_message_is_shown() {
    let place = TempDir::new().unwrap();
    let node = nodeset::Node::builder("robot").socket(place.path().join("d.sock")).embedded().connect().unwrap();
    // The value of a state, for one who comes later.
    let mut mode = node.state::<str>("robot/mode").writer().unwrap();
    mode.set("idle").unwrap();
    let mut late = Beside::start(nodeset(place.path(), &["echo", "robot/mode", "--history", "1"]));
    let line = late.line();
    assert!(line.starts_with("robot: idle (") && line.ends_with("s old)"), "{line}");

    let mut publisher = node.publisher::<str>("robot/log").create().unwrap();
    let mut echo = Beside::start(nodeset(place.path(), &["echo", "robot/log"]));
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    publisher.publish_tagged("turned", 7).unwrap();
    publisher.publish("stood").unwrap();
    assert_eq!(echo.line(), "robot: turned (tag 7)");
    assert_eq!(echo.line(), "robot: stood");
}

#[test]
fn a_pattern_shows_the_topic_of_each_message() {
    let place = TempDir::new().unwrap();
    let mut all = Beside::start(nodeset(place.path(), &["echo", "machine/**"]));
    let mut one = Beside::start(nodeset(place.path(), &["echo", "pub@local/machine/load"]));
    for (topic, subscribers) in [("machine/load", "2"), ("machine/disk/free", "1")] {
        let arguments = ["pub", topic, "7 percent", "--subscribers", subscribers, "--wait", "60"];
        let output = nodeset(place.path(), &arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(all.line(), format!("{topic} pub: 7 percent"));
    }
    assert_eq!(one.line(), "machine/load pub: 7 percent");
    let wildcard = failure(nodeset(place.path(), &["pub", "machine/*", "7"]).output().unwrap());
    assert!(wildcard.contains("only a plain topic"), "{wildcard}");
    let where_wrong = failure(nodeset(place.path(), &["echo", "machine/lo*"]).output().unwrap());
    assert!(where_wrong.contains("at byte 10"), "{where_wrong}");
}

#[test]
fn errors_name_the_cure() {
    let place = TempDir::new().unwrap();
    let nobody = failure(nodeset(place.path(), &["list"]).output().unwrap());
    assert!(nobody.contains("start `nodeset-dispatcher`"), "{nobody}");
    let nobody = failure(nodeset(place.path(), &["echo", "a", "--no-embedded"]).output().unwrap());
    assert!(nobody.contains("start `nodeset-dispatcher`"), "{nobody}");
    let alone = failure(nodeset(place.path(), &["pub", "a", "b", "--wait", "0"]).output().unwrap());
    assert!(alone.contains("nodeset echo a"), "{alone}");
    let topic = failure(nodeset(place.path(), &["echo", "a//b"]).output().unwrap());
    assert!(topic.contains("a//b"), "{topic}");
    let option = failure(nodeset(place.path(), &["echo", "a", "--reliably"]).output().unwrap());
    assert!(option.contains("--reliable"), "{option}");
    let level = failure(nodeset(place.path(), &["echo", "a", "--log-level", "=="]).output().unwrap());
    assert!(level.contains("log level"), "{level}");
}

#[test]
fn the_dispatcher_runs_by_its_own_word() {
    let place = TempDir::new().unwrap();
    let socket = place.path().join("d.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
    command.args(["dispatcher", "--socket"]).arg(&socket).stderr(Stdio::piped()).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("serving")), "it ended before it served");
    let mut echo = Beside::start(nodeset(place.path(), &["echo", "a", "--no-embedded", "-n", "1"]));
    let published = nodeset(place.path(), &["pub", "a", "b", "--no-embedded", "--wait", "60"]).output().unwrap();
    assert!(published.status.success(), "{published:?}");
    assert_eq!(echo.line(), "pub: b");
    assert!(echo.child.wait().unwrap().success());
    child.kill().unwrap();
    child.wait().unwrap();
}
