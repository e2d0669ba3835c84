//! Nodes in processes of their own, killed, stopped, cut off, and replaced by another program.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::*;
use rustix::process::{Pid, Signal, kill_process};
use support::*;

const SOCKET: &str = "NODESET_TEST_SOCKET";
const ROLE: &str = "NODESET_TEST_ROLE";

/// Not a test: what the other process does. It makes itself one end of a link on the topic `a`, says so, and waits to be told
/// what comes next.
#[test]
#[ignore = "started by the other tests"]
fn other_process() {
    let (Some(path), Some(role)) = (std::env::var_os(SOCKET).map(PathBuf::from), std::env::var_os(ROLE)) else {
        return;
    };
    let mut node = RawNode::attach(&path, "other");
    if role == "publisher" {
        node.publish("a", Schema::bytes());
        let listed = node.expect_list_link();
        node.raw.send(&ToDispatcher::LinkListed { link: listed.link }, &[]);
        node.expect_message(ToNode::LinkReady { link: listed.link });
    } else {
        node.subscribe("a", None);
        let (entered, _) = node.expect_enter_link();
        node.raw.send(&ToDispatcher::LinkEntered { link: entered.link }, &[]);
        // The dispatcher has read that once it has answered this.
        node.raw.list();
    }
    println!("\nlinked");
    loop {
        let mut order = String::new();
        std::io::stdin().read_line(&mut order).unwrap();
        match order.trim() {
            "hang up" => node.raw.hang_up(),
            "exec" => panic!("{}", Command::new("cat").exec()),
            _ => return,
        }
        println!("\ndone");
    }
}

struct Other {
    child: Child,
    orders: ChildStdin,
    says: Box<dyn BufRead>,
}

impl Other {
    fn start(path: &Path, role: &str) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "other_process", "--ignored", "--nocapture"])
            .env(SOCKET, path)
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, says) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Other { child, orders, says: Box::new(BufReader::new(says)) }
    }

    fn has_said(&mut self, wanted: &str) {
        let said = self.says.by_ref().lines().map(|line| line.unwrap()).find(|line| line == wanted);
        assert!(said.is_some(), "it ended before it said `{wanted}`");
    }

    fn order(&mut self, what: &str) {
        writeln!(self.orders, "{what}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A publisher here, a subscriber there, linked.
fn subscriber_there(path: &Path) -> (RawNode, Other, LinkId) {
    let mut here = RawNode::attach(path, "here");
    here.publish("a", Schema::bytes());
    let mut other = Other::start(path, "subscriber");
    let listed = here.expect_list_link();
    here.raw.send(&ToDispatcher::LinkListed { link: listed.link }, &[]);
    other.has_said("linked");
    here.expect_message(ToNode::LinkReady { link: listed.link });
    (here, other, listed.link)
}

/// A subscriber here, a publisher there, linked.
fn publisher_there(path: &Path) -> (RawNode, Other, LinkId) {
    let mut here = RawNode::attach(path, "here");
    here.subscribe("a", None);
    let mut other = Other::start(path, "publisher");
    let (entered, _) = here.expect_enter_link();
    here.raw.send(&ToDispatcher::LinkEntered { link: entered.link }, &[]);
    here.hold(&entered);
    other.has_said("linked");
    (here, other, entered.link)
}

fn only_here(path: &Path) {
    wait_for_rows(path, "one node alone", |rows| {
        rows.iter().filter(|row| matches!(row, Listing::Node { .. })).count() == 1
            && rows.iter().all(|row| match row {
                Listing::Node { state, .. } => state.name == "here",
                Listing::Publication { links, .. } | Listing::Subscription { links, .. } => *links == 0,
            })
    });
}

#[test]
fn a_killed_subscriber_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let (mut here, other, link) = subscriber_there(&dispatcher.path);
    // Nobody has waited for it: a zombie is dead.
    other.signal(Signal::KILL);
    here.expect_message(ToNode::RemoveLink { link, died: true });
    here.raw.send(&ToDispatcher::LinkRemoved { link }, &[]);
    only_here(&dispatcher.path);
}

#[test]
fn a_killed_publisher_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let (mut here, other, link) = publisher_there(&dispatcher.path);
    other.signal(Signal::KILL);
    here.expect_message(ToNode::LinkEnded { link, reason: EndReason::Died });
    here.raw.send(&ToDispatcher::LinkLeft { link, evicted: false }, &[]);
    only_here(&dispatcher.path);
}

#[test]
fn another_program_in_the_same_process_is_another_node() {
    // The pidfd lives on; the life-line does not.
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let (mut here, mut other, link) = publisher_there(&dispatcher.path);
    other.order("exec");
    here.expect_message(ToNode::LinkEnded { link, reason: EndReason::Died });
    assert!(other.child.try_wait().unwrap().is_none(), "the process lives");
}

#[test]
fn a_cut_session_is_no_death() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let (mut here, mut other, link) = subscriber_there(&dispatcher.path);
    other.order("hang up");
    other.has_said("done");
    here.expect_message(ToNode::Demote { link });
    let rows = tool(&dispatcher.path).list();
    assert_eq!(rows.len(), 4, "it stays in the table: {rows:?}");
    other.order("end");
    here.expect_message(ToNode::RemoveLink { link, died: true });
}

#[test]
fn a_stopped_node_keeps_its_links_and_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let (mut here, other, link) = subscriber_there(&dispatcher.path);
    other.signal(Signal::STOP);
    let mut late = RawNode::attach(&dispatcher.path, "late");
    late.subscribe("a", None);
    let (listed, _) = support::link(&mut here, &mut late);
    assert_ne!(listed.link, link);
    let told =
        here.raw.passed(|message| matches!(message, ToNode::Demote { .. } | ToNode::RemoveLink { .. }).then_some(()));
    assert!(told.is_empty());
    other.signal(Signal::CONT);
    other.signal(Signal::KILL);
    here.expect_message(ToNode::RemoveLink { link, died: true });
}

#[test]
fn who_dies_with_the_dispatcher_is_not_waited_for() {
    // Both are gone at once; the next dispatcher never hears of the other node.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let first = Program::start(&path);
    let (mut here, mut other, link) = publisher_there(&path);
    first.kill();
    other.signal(Signal::KILL);
    wait_for_end(&other.child);
    other.child.wait().unwrap();
    let mut command = Program::command(&path);
    command.args(["--grace-seconds", "0.05"]);
    let _second = Program::start_with(command, &path);
    here.hand_back(&path);
    here.expect_message(ToNode::LinkEnded { link, reason: EndReason::Died });
    here.raw.send(&ToDispatcher::LinkLeft { link, evicted: false }, &[]);
    only_here(&path);
}
