//! Twenty processes that may each run the dispatcher: whichever dies, exactly one takes its place, and messages go on.
//!
//! The other processes are this test's own program, started again for [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nodeset::{Node, NodeEvent};

const DEADLINE: Duration = Duration::from_secs(60);
const ROLE: &str = "NODESET_TEST_ROLE";
const SOCKET: &str = "NODESET_TEST_SOCKET";
/// Before the number of the process that a node is attached to.
const ATTACHED: &str = "attached ";

/// A node that says to whom it is attached; as a test of its own it does nothing.
#[test]
fn roles() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let socket = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    let node = Node::builder("one-of-many").socket(socket).embedded().connect().unwrap();
    let (sender, events) = channel();
    node.on_event(move |event| drop(sender.send(event.clone())));
    // Whatever came before the handler was there is in the table.
    println!("{ATTACHED}0");
    for event in events {
        if let NodeEvent::Attached { dispatcher_pid, .. } = event {
            println!("{ATTACHED}{dispatcher_pid}");
        }
    }
}

/// Processes, and to whom each said last that it is attached.
struct Crowd {
    socket: PathBuf,
    children: BTreeMap<u32, Child>,
    attached: BTreeMap<u32, u32>,
    said: Receiver<(u32, u32)>,
    sayer: Sender<(u32, u32)>,
}

impl Crowd {
    fn at(socket: &Path) -> Crowd {
        let (sayer, said) = channel();
        Crowd { socket: socket.to_owned(), children: BTreeMap::new(), attached: BTreeMap::new(), said, sayer }
    }

    fn add(&mut self) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "roles", "--nocapture"])
            .env(ROLE, "node")
            .env(SOCKET, &self.socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (pid, out, sayer) = (child.id(), child.stdout.take().unwrap(), self.sayer.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(to) = line.split(ATTACHED).nth(1).and_then(|number| number.trim().parse().ok()) {
                    let _ = sayer.send((pid, to));
                }
            }
        });
        self.children.insert(pid, child);
    }

    /// Waits until everybody who lives said something that satisfies `wanted`.
    fn wait_until_all(&mut self, wanted: impl Fn(&BTreeMap<u32, u32>) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !(self.attached.len() == self.children.len() && wanted(&self.attached)) {
            let (pid, to) =
                self.said.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or_else(|_| {
                    panic!("not all are attached as wanted: {:?} of {:?}", self.attached, self.children.keys())
                });
            if self.children.contains_key(&pid) {
                self.attached.insert(pid, to);
            }
        }
    }

    fn kill(&mut self, pid: u32) {
        let mut child = self.children.remove(&pid).expect("one of ours");
        self.attached.remove(&pid);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn of_twenty_that_race_for_the_socket_one_gets_it() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("d.sock");
    let mut crowd = Crowd::at(&socket);
    (0..20).for_each(|_| crowd.add());
    crowd.wait_until_all(|_| true);

    // Two nodes of our own, which never run a dispatcher, exchange messages all the time.
    let node = |name: &str| Node::builder(name).socket(&socket).connect().unwrap();
    let (one, other) = (node("one"), node("other"));
    let (sender, events) = channel();
    one.on_event(move |event| drop(sender.send(event.clone())));
    let mut subscriber = one.subscriber::<str>("talk").reliable().create().unwrap();
    let mut publisher = other.publisher::<str>("talk").create().unwrap();
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();

    let mut carrier = holder(&socket);
    for round in 0..4 {
        assert!(crowd.children.contains_key(&carrier), "{carrier} is none of {:?}", crowd.children.keys());
        crowd.kill(carrier);
        let before = carrier;
        crowd.wait_until_all(|attached| {
            let mut to = attached.values();
            let first = to.next().copied().unwrap_or_default();
            first != 0 && first != before && to.all(|it| *it == first)
        });
        carrier = *crowd.attached.values().next().unwrap();
        assert_eq!(carrier, holder(&socket), "who is attached to and who listens are the same");
        let until = Instant::now() + DEADLINE;
        let mine = |event: &NodeEvent| matches!(event, NodeEvent::Attached { dispatcher_pid, .. } if *dispatcher_pid == carrier);
        while !mine(&events.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap()) {}

        let text = format!("round {round}");
        publisher.publish(&text).unwrap();
        assert_eq!(&*subscriber.receive_timeout(DEADLINE).unwrap().expect("a message"), text.as_str());
        crowd.add();
        crowd.attached.values_mut().for_each(|to| *to = carrier);
        crowd.wait_until_all(|_| true);
    }
    assert_eq!(subscriber.missed(), 0);
}

/// The process that listens at a socket, as the kernel knows it.
fn holder(socket: &Path) -> u32 {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    connect(&probe, &SocketAddrUnix::new(socket).unwrap()).unwrap();
    sockopt::socket_peercred(&probe).unwrap().pid.as_raw_nonzero().get() as u32
}
