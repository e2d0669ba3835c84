//! What stands in the logs when a process with many links is killed: one calm line at the dispatcher and one at each peer.
//!
//! The nodes are this test's own program, started again for one of the [`roles`]; the dispatcher is the real one.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nodeset::{AppOptions, LogFormat, Node, NodeEvent};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
const ROLE: &str = "NODESET_TEST_ROLE";
const SOCKET: &str = "NODESET_TEST_SOCKET";
/// Topics that the victim publishes, and as many that it subscribes.
const TOPICS: usize = 25;

/// What the nodes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let options = AppOptions {
        dispatcher: Some(PathBuf::from(std::env::var_os(SOCKET).unwrap())),
        log_level: "info".to_owned(),
        log_format: LogFormat::Json,
        no_embedded: true,
        ..AppOptions::default()
    };
    options.start_logging().unwrap();
    let node = Node::from_options(&options, &role).unwrap();
    let (sender, events) = channel();
    node.on_event(move |event| drop(sender.send(event.clone())));
    let (mine, theirs) = if role == "victim" { ("a", "b") } else { ("b", "a") };
    let publishers: Vec<_> =
        (0..TOPICS).map(|n| node.publisher::<str>(format!("{mine}/{n}")).create().unwrap()).collect();
    let subscribers: Vec<_> =
        (0..TOPICS).map(|n| node.subscriber::<str>(format!("{theirs}/{n}")).reliable().create().unwrap()).collect();
    for publisher in &publishers {
        publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    }
    println!("linked");
    for left in (0..2 * TOPICS).rev() {
        let mut ended = std::iter::from_fn(|| events.recv_timeout(DEADLINE).ok());
        let ended = ended.any(|event| matches!(event, NodeEvent::LinkEnded { .. }));
        assert!(ended, "{left} more links should have ended");
    }
    println!("alone");
    drop((publishers, subscribers));
}

/// A process, and what it logs.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: Option<JoinHandle<String>>,
}

impl Program {
    fn start(mut command: Command) -> Program {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        Program { child, lines, log: Some(log) }
    }

    fn role(role: &str, socket: &Path) -> Program {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "roles", "--nocapture"]).env(ROLE, role).env(SOCKET, socket);
        Program::start(command)
    }

    fn wait_for(&mut self, word: &str) {
        let found = self.lines.by_ref().map(|line| line.unwrap()).any(|line| line.contains(word));
        assert!(found, "it ended before it said `{word}`");
    }

    /// Waits for its end; each line of its log must be one JSON object.
    fn ended(&mut self) -> Vec<Value> {
        self.child.wait().unwrap();
        let log = self.log.take().expect("asked once").join().unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_dispatcher(socket: &Path) {
    let options = AppOptions { dispatcher: Some(socket.to_owned()), ..AppOptions::default() };
    let (endpoint, until) = (options.endpoint().unwrap(), Instant::now() + DEADLINE);
    while nodeset::list(&endpoint, DEADLINE).is_err() {
        assert!(Instant::now() < until, "no dispatcher answers");
        std::thread::yield_now();
    }
}

fn has(line: &Value, field: &str, value: &str) -> bool {
    line[field].as_str() == Some(value)
}

#[test]
fn a_dead_peer_with_many_links_is_one_line_at_the_dispatcher_and_one_at_the_peer() {
    let place = TempDir::new().unwrap();
    let socket = place.path().join("d.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
    command
        .args(["dispatcher", "--log-format", "json", "--log-level", "nodeset_dispatcher=info", "--socket"])
        .arg(&socket);
    let mut dispatcher = Program::start(command);
    wait_for_dispatcher(&socket);
    let mut survivor = Program::role("survivor", &socket);
    let mut victim = Program::role("victim", &socket);
    survivor.wait_for("linked");
    victim.wait_for("linked");
    victim.signal(Signal::KILL);
    victim.ended();
    survivor.wait_for("alone");
    let at_survivor = survivor.ended();
    dispatcher.signal(Signal::TERM);
    let at_dispatcher = dispatcher.ended();

    let about_victim: Vec<_> = at_survivor.iter().filter(|line| has(line, "peer", "victim")).collect();
    let [died] = &about_victim[..] else { panic!("{about_victim:#?}") };
    assert!(has(died, "event", "peer_died") && has(died, "level", "INFO"), "{died}");
    assert_eq!(died["pid"], victim.child.id());
    let others: Vec<_> = at_survivor.iter().filter(|line| !has(line, "level", "INFO")).collect();
    assert!(others.is_empty(), "{others:#?}");
    let events: Vec<_> = at_survivor.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events, ["attached", "peer_died"]);

    // What the dispatcher logs of others than these: the beginning, the survivor's, and the end.
    let usual = ["serving", "node_attached", "advertised", "subscribed", "signal", "ended"];
    let of_victim: Vec<_> = at_dispatcher
        .iter()
        .filter(|line| !usual.iter().any(|event| has(line, "event", event)))
        .filter(|line| !has(line, "name", "survivor") && !has(line, "node", "survivor"))
        .collect();
    let [gone] = &of_victim[..] else { panic!("{of_victim:#?}") };
    assert!(has(gone, "event", "node_gone") && has(gone, "name", "victim") && has(gone, "level", "INFO"), "{gone}");
    assert_eq!((&gone["died"], &gone["pid"]), (&Value::from(true), &Value::from(victim.child.id())));
    let counts = ["publications", "subscriptions"].map(|field| gone[field].as_u64().unwrap() as usize);
    assert_eq!(counts, [TOPICS, TOPICS]);
    assert!(at_dispatcher.iter().all(|line| has(line, "level", "INFO")), "nobody is warned of a death");
}

#[test]
fn a_filter_names_what_is_logged() {
    let place = TempDir::new().unwrap();
    let count = |filter: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
        // Alone, so that it runs the dispatcher as well.
        command.args(["pub", "a", "b", "--subscribers", "0", "--log-format", "json", "--log-level", filter]);
        command.arg("--dispatcher").arg(place.path().join("d.sock"));
        let lines = Program::start(command).ended();
        let from = |part: &str| lines.iter().filter(|line| line["target"].as_str().unwrap().starts_with(part)).count();
        (from("nodeset::"), from("nodeset_dispatcher::"))
    };
    assert_eq!(count("warn"), (0, 0));
    let (node, dispatcher) = count("nodeset=info,nodeset_dispatcher=off");
    assert!(node > 0 && dispatcher == 0, "{node} {dispatcher}");
    let (debug, dispatcher) = count("nodeset=debug,nodeset_dispatcher=off");
    assert!(debug > node && dispatcher == 0, "{debug} {dispatcher}");
    let (node, dispatcher) = count("nodeset_dispatcher=info");
    assert!(node == 0 && dispatcher > 0, "{node} {dispatcher}");
}
