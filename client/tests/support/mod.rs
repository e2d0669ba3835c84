//! What the tests with several processes share. The other processes are the test's own program, started again for one of its
//! `roles`.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nodeset::{Node, NodeBuilder, NodeEvent};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const ROLE: &str = "NODESET_TEST_ROLE";
const SOCKET: &str = "NODESET_TEST_SOCKET";

/// bytes; of the messages in these tests, so that blocks end often
pub(crate) const LEN: usize = 500;

pub(crate) fn message(number: u64) -> Vec<u8> {
    let mut message = vec![number as u8; LEN];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}

pub(crate) fn check(payload: &[u8], number: u64) {
    assert_eq!(payload, message(number), "message {number}");
}

/// The role that this process was started for, and the dispatcher's socket; `None` in the test itself.
pub(crate) fn role() -> Option<(String, PathBuf)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, PathBuf::from(std::env::var_os(SOCKET).unwrap())))
}

pub(crate) struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    pub(crate) fn start(role: &str, socket: &Path) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "roles", "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Other { child, lines }
    }

    pub(crate) fn wait_for(&mut self, part: &str) {
        let found = self.lines.by_ref().map(|line| line.unwrap()).any(|line| line.contains(part));
        assert!(found, "it ended before it said `{part}`");
    }

    /// The rest of the line in which it said `part`.
    pub(crate) fn rest_of(&mut self, part: &str) -> String {
        let found = self
            .lines
            .by_ref()
            .map(|line| line.unwrap())
            .find_map(|line| Some(line.split_once(part)?.1.trim().to_owned()));
        found.unwrap_or_else(|| panic!("it ended before it said `{part}`"))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    /// `kill -9` until it is dead, and a zombie: nobody has waited for it.
    pub(crate) fn kill_unreaped(&self) {
        self.signal(Signal::KILL);
        self.await_state(WaitIdOptions::EXITED);
    }

    /// Waits until it has stopped itself.
    pub(crate) fn await_stopped(&self) {
        self.await_state(WaitIdOptions::STOPPED);
    }

    /// Whether its process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn await_state(&self, state: WaitIdOptions) {
        let status = waitid(WaitId::Pid(self.pid()), state | WaitIdOptions::NOWAIT).unwrap();
        assert!(status.is_some());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(TempDir::new().unwrap())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.path().join("d.sock")
    }

    pub(crate) fn builder(&self, name: &str) -> NodeBuilder {
        Node::builder(name).socket(self.socket()).embedded().standby(Duration::ZERO)
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        self.builder(name).connect().unwrap()
    }
}

pub(crate) fn events(node: &Node) -> Receiver<NodeEvent> {
    let (sender, receiver) = channel();
    node.on_event(move |event| drop(sender.send(event.clone())));
    receiver
}

/// Waits for the first that is wanted, and gives all that came until then.
pub(crate) fn wait_for<T>(from: &Receiver<T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let until = Instant::now() + DEADLINE;
    let mut all = Vec::new();
    loop {
        let one = from.recv_timeout(until.saturating_duration_since(Instant::now())).expect("what is waited for");
        let found = wanted(&one);
        all.push(one);
        if found {
            return all;
        }
    }
}
