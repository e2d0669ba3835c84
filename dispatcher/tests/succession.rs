//! One dispatcher after another: restarted, and from embedded to standalone. Nodes hand back, and the table is the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::*;
use nodeset_dispatcher::{Dispatcher, RunError, TakeError};
use rustix::process::{Pid, Signal, kill_process};
use support::*;

/// Nodes that hold links of both kinds in both directions, and something without a link.
struct Nodes {
    camera: RawNode,
    viewer: RawNode,
    links: Vec<ListLink>,
}

impl Nodes {
    fn attach(path: &std::path::Path) -> Nodes {
        let mut camera = RawNode::attach(path, "camera");
        let mut viewer = RawNode::attach(path, "viewer");
        camera.publish("image", Schema::bytes());
        viewer.subscribe("image", Some(Schema::bytes()));
        let there = link(&mut camera, &mut viewer).0;
        viewer.publish("command", Schema::text());
        camera.subscribe("command", None);
        let back = link(&mut viewer, &mut camera).0;
        camera.publish("nobody", Schema::text());
        viewer.subscribe("nothing", None);
        Nodes { camera, viewer, links: vec![there, back] }
    }

    fn hand_back(&mut self, path: &std::path::Path) {
        self.camera.hand_back(path);
        self.viewer.hand_back(path);
        self.camera.expect_message(ToNode::LinkReady { link: self.links[0].link });
        self.viewer.expect_message(ToNode::LinkReady { link: self.links[1].link });
    }

    /// Nothing that either was told since it came back makes it do anything about its links.
    fn assert_undisturbed(&mut self) {
        for node in [&mut self.camera, &mut self.viewer] {
            // What an answer to this comes after was said before.
            node.raw.list();
            let disturbing = |message: &ToNode| match message {
                ToNode::ListLink(_)
                | ToNode::EnterLink(_)
                | ToNode::RemoveLink { .. }
                | ToNode::LinkEnded { .. }
                | ToNode::Demote { .. }
                | ToNode::ForgetPeer { .. }
                | ToNode::Refused { .. } => Some(message.clone()),
                _ => None,
            };
            let told = node.raw.passed(disturbing);
            assert!(told.is_empty(), "{told:?}");
        }
    }
}

#[test]
fn after_a_restart_the_table_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let first = Program::start(&path);
    let mut nodes = Nodes::attach(&path);
    let before = tool(&path).list();
    assert_eq!(before.len(), 8, "{before:?}");
    first.kill();
    for node in [&mut nodes.camera, &mut nodes.viewer] {
        node.raw.until_closed();
    }

    let second = Program::start(&path);
    assert!(tool(&path).list().is_empty());
    nodes.hand_back(&path);
    nodes.assert_undisturbed();
    let mut after = tool(&path).list();
    assert_eq!(after, before);

    // What was handed back is as good as new: a late subscriber gets the same log.
    let mut late = RawNode::attach(&path, "late");
    late.subscribe("image", None);
    link(&mut nodes.camera, &mut late);
    late.raw.send(&ToDispatcher::Goodbye, &[]);
    late.raw.until_closed();

    // And a third one, this time told to end.
    second.signal(Signal::TERM);
    assert!(second.ended().0.success());
    let _third = Program::start(&path);
    nodes.camera.forget_links_with(&late);
    nodes.hand_back(&path);
    after = tool(&path).list();
    assert_eq!(after, before);
}

#[test]
fn the_sessions_of_one_node_may_follow_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let mut nodes = Nodes::attach(&dispatcher.path);
    let before = tool(&dispatcher.path).list();
    let link = nodes.links[0].link;
    // The session ends, its process lives: only demoted.
    nodes.viewer.raw.hang_up();
    nodes.camera.expect_message(ToNode::Demote { link });
    let mut without = before.clone();
    for row in &mut without {
        if let Listing::Node { state, attached } = row {
            *attached = state.node != nodes.viewer.id;
        }
    }
    assert_eq!(tool(&dispatcher.path).list(), without);
    nodes.viewer.hand_back(&dispatcher.path);
    nodes.viewer.expect_message(ToNode::LinkReady { link: nodes.links[1].link });
    // Listed again as what it was.
    let listed_again = |camera: &mut RawNode| {
        let again = camera.expect_list_link();
        assert_eq!((again.link, again.line, again.tag, again.reliable), {
            let ListLink { link, line, tag, reliable, .. } = nodes.links[0];
            (link, line, tag, reliable)
        });
        camera.raw.send(&ToDispatcher::LinkListed { link }, &[]);
        camera.expect_message(ToNode::LinkReady { link });
    };
    listed_again(&mut nodes.camera);
    assert_eq!(tool(&dispatcher.path).list(), before);
    // A second session before the first one is seen to end.
    nodes.viewer.hand_back(&dispatcher.path);
    nodes.viewer.expect_message(ToNode::LinkReady { link: nodes.links[1].link });
    listed_again(&mut nodes.camera);
    assert_eq!(tool(&dispatcher.path).list(), before);
}

#[test]
fn a_standalone_one_takes_over_from_an_embedded_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let path = config.endpoint.path().to_owned();
    let embedded = Dispatcher::start_embedded(config.clone()).unwrap();
    let mut nodes = Nodes::attach(&path);
    let before = tool(&path).list();
    let file = fs::metadata(&path).unwrap().ino();
    match Dispatcher::start_embedded(config.clone()) {
        Err(RunError::Take(TakeError::Held { holder, .. })) => assert_eq!(holder.pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    assert!(embedded.is_running(), "an embedded one does not take over from another");

    let standalone = Program::start(&path);
    wait_until("the end of the embedded one", || !embedded.is_running());
    for node in [&mut nodes.camera, &mut nodes.viewer] {
        assert_eq!(node.raw.until_closed().last(), Some(&ToNode::Leaving));
    }
    nodes.hand_back(&path);
    nodes.assert_undisturbed();
    assert_eq!(tool(&path).list(), before);
    embedded.stop();
    assert_eq!(fs::metadata(&path).unwrap().ino(), file, "the socket was handed on, not made again");
    assert_eq!(dispatcher_of(&path), standalone.child.id());

    // It does not go back.
    match Dispatcher::start_embedded(config.clone()) {
        Err(RunError::Take(TakeError::Held { holder, .. })) => assert_eq!(holder.pid, standalone.child.id()),
        other => panic!("{other:?}"),
    }
    standalone.signal(Signal::TERM);
    assert!(standalone.ended().0.success());
    assert!(!path.exists());
    let again = Dispatcher::start_embedded(config).unwrap();
    nodes.hand_back(&path);
    assert_eq!(tool(&path).list(), before);
    drop(again);
    assert!(!path.exists());
}

#[test]
fn a_standalone_one_hands_over_to_one_that_was_told_to_replace_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let first = Program::start(&path);
    let mut nodes = Nodes::attach(&path);
    let before = tool(&path).list();
    let file = fs::metadata(&path).unwrap().ino();

    let refused = Program::command(&path).output().unwrap();
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert!(errors.contains("a standalone dispatcher") && errors.contains("--replace"), "{errors}");

    let mut command = Program::command(&path);
    command.arg("--replace");
    let second = Program::start_with(command, &path);
    let (status, log) = first.ended();
    assert!(status.success() && log.contains("Replaced"), "{log}");
    for node in [&mut nodes.camera, &mut nodes.viewer] {
        assert_eq!(node.raw.until_closed().last(), Some(&ToNode::Leaving));
    }
    nodes.hand_back(&path);
    nodes.assert_undisturbed();
    assert_eq!(tool(&path).list(), before);
    assert_eq!(fs::metadata(&path).unwrap().ino(), file, "the socket was handed on, not made again");
    assert_eq!(dispatcher_of(&path), second.child.id());
}

#[test]
fn one_that_hangs_is_replaced_by_force_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let hung = Program::start(&path);
    let mut nodes = Nodes::attach(&path);
    let before = tool(&path).list();
    hung.signal(Signal::STOP);
    let mut command = Program::command(&path);
    command.arg("--replace=force");
    let second = Program::start_with(command, &path);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&hung.ended().0), Some(Signal::KILL.as_raw()));
    nodes.hand_back(&path);
    assert_eq!(tool(&path).list(), before);
    assert_eq!(dispatcher_of(&path), second.child.id());
}

#[test]
fn of_twenty_that_start_at_once_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    let all: Vec<_> = (0..20).map(|_| Program::command(&path).spawn().unwrap()).collect();
    let mut connection = None;
    wait_until("one that serves", || {
        connection = Raw::try_connect(&path).ok();
        connection.is_some()
    });
    let serving = dispatcher_of(&path);
    let (serving, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|child| child.id() == serving);
    let [mut serving] = <[_; 1]>::try_from(serving).unwrap();
    for child in others {
        wait_for_end(&child);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(&format!("process {}", serving.id())), "{errors}");
    }
    kill_process(Pid::from_child(&serving), Signal::TERM).unwrap();
    wait_for_end(&serving);
    assert!(serving.wait().unwrap().success());
}

fn dispatcher_of(path: &std::path::Path) -> u32 {
    let mut raw = Raw::connect(path);
    let hello = Hello::tool(NodeId(random()), "tool");
    raw.send(&ToDispatcher::Hello(hello), &[]);
    let pid = |message: &ToNode| if let ToNode::Welcome(it) = message { Some(it.dispatcher_pid) } else { None };
    raw.expect("Welcome", pid).0
}
