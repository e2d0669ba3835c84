//! Names and health of nodes, between real processes: who is called what, who hears of whom, and what a stopped process looks
//! like to others.
//!
//! The other processes are this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nodeset::{ConnectError, Health, Listing, Node, NodeChange, NodeEvent};
use rustix::process::Signal;
use support::{DEADLINE, Other, Place, events, wait_for};

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let builder = |name| Node::builder(name).socket(&socket).embedded().standby(Duration::ZERO);
    let node = match role.as_str() {
        "node" => builder("mnode").connect().unwrap(),
        "unique" => builder("mnode").unique().connect().unwrap(),
        // Of a name that no test looks at.
        "dispatcher" => builder("dispatcher").connect().unwrap(),
        other => panic!("no such role: {other}"),
    };
    let (sender, events) = channel();
    node.on_event(move |event| drop(sender.send(event.clone())));
    let _publisher = node.publisher::<str>("data").create().unwrap();
    println!("called {}", node.name());
    for event in events {
        match event {
            NodeEvent::Attached { name, .. } => println!("attached as {name}"),
            NodeEvent::Replaced { name, pid, .. } => println!("replaced as {name} by {pid}"),
            _ => {}
        }
    }
}

fn changes(node: &Node) -> Receiver<NodeChange> {
    let (sender, receiver) = channel();
    node.on_node(move |change| drop(sender.send(change.clone())));
    receiver
}

fn joined(change: &NodeChange, name: &str) -> bool {
    matches!(change, NodeChange::Joined(node) if &*node.name == name)
}

/// The health of the node of that name, as the dispatcher lists it.
fn listed(node: &Node, name: &str) -> Option<(Health, String)> {
    node.list(DEADLINE).unwrap().into_iter().find_map(|row| match row {
        Listing::Node { state, .. } if state.name == name => Some((state.health, state.base_name)),
        _ => None,
    })
}

#[test]
fn nodes_hear_of_each_other_and_of_their_deaths() {
    let place = Place::new();
    let node = place.node("test");
    let heard = changes(&node);
    let mut first = Other::start("node", &place.socket());
    assert_eq!(first.rest_of("called "), "mnode");
    wait_for(&heard, |change| joined(change, "mnode"));
    let mut second = Other::start("node", &place.socket());
    assert_eq!(second.rest_of("called "), "mnode-2");
    wait_for(&heard, |change| joined(change, "mnode-2"));
    assert_eq!(listed(&node, "mnode-2"), Some((Health::Alive, "mnode".to_owned())));

    // Who begins to listen hears of all who are there.
    let late = place.node("late");
    let late_heard = changes(&late);
    let mut found: Vec<_> = (0..3).map(|_| late_heard.recv_timeout(DEADLINE).unwrap()).collect();
    found.sort_by_key(|change| format!("{change:?}"));
    for (change, name) in found.iter().zip(["mnode", "mnode-2", "test"]) {
        assert!(joined(change, name), "{found:?}");
    }

    second.kill();
    for heard in [&heard, &late_heard] {
        let all = wait_for(heard, |change| matches!(change, NodeChange::Left { .. }));
        let Some(NodeChange::Left { node: gone, died: true }) = all.last() else { panic!("{all:?}") };
        assert_eq!((&*gone.name, gone.pid), ("mnode-2", second.id()));
    }
    drop(late);
    let all = wait_for(&heard, |change| matches!(change, NodeChange::Left { .. }));
    assert!(matches!(all.last(), Some(NodeChange::Left { node, died: false }) if &*node.name == "late"), "{all:?}");
}

#[test]
fn a_stopped_process_is_stopped_and_nobody_waits_for_it_or_cuts_it_off() {
    let place = Place::new();
    let node = place.node("test");
    let heard = changes(&node);
    let mut other = Other::start("node", &place.socket());
    other.rest_of("called ");
    let mut early = node.subscriber::<str>("data").create().unwrap();
    assert_eq!(early.publishers(), 1);
    other.signal(Signal::STOP);
    let is = |health| move |change: &NodeChange| matches!(change, NodeChange::Health(node) if node.health == health);
    wait_for(&heard, is(Health::Stopped));
    assert_eq!(listed(&node, "mnode").unwrap().0, Health::Stopped);

    // With a timeout that the test would not outlive, if it were waited for.
    let mut late = node.subscriber::<str>("data").link_timeout(Duration::from_secs(3600)).create().unwrap();
    assert_eq!((early.publishers(), late.publishers()), (1, 0), "its links stay, new ones come later");
    assert_eq!(late.pending().iter().map(|name| &**name).collect::<Vec<_>>(), ["mnode"]);

    let linked = events(&node);
    other.signal(Signal::CONT);
    wait_for(&heard, is(Health::Alive));
    wait_for(&linked, |event| matches!(event, NodeEvent::Linked { peer_subscribes: false, .. }));
    assert!(late.receive_timeout(Duration::ZERO).unwrap().is_none());
    assert_eq!((early.publishers(), late.publishers()), (1, 1));
    assert!(early.receive_timeout(Duration::ZERO).unwrap().is_none());
}

#[test]
fn one_that_is_stopped_while_it_is_waited_for_is_waited_for_no_longer() {
    let place = Place::new();
    let node = place.node("test");
    let mut other = Other::start("node", &place.socket());
    other.rest_of("called ");
    other.signal(Signal::STOP);
    other.await_stopped();
    // The dispatcher does not know yet.
    let mut late = node.subscriber::<str>("data").link_timeout(Duration::from_secs(3600)).create().unwrap();
    assert_eq!((late.publishers(), late.pending().len()), (0, 1));
    other.signal(Signal::CONT);
}

#[test]
fn a_node_whose_handler_does_not_return_is_slow() {
    let place = Place::new();
    let (watches, busy) = (place.node("watches"), place.node("busy"));
    let heard = changes(&watches);
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    busy.on_event(move |_| {
        // An error: it was released.
        let _ = released.lock().unwrap().recv();
    });
    let mut publisher = watches.publisher::<str>("data").create().unwrap();
    let mut subscriber = busy.subscriber::<str>("data").create().unwrap();
    let is = |health| move |change: &NodeChange| matches!(change, NodeChange::Health(node) if node.health == health && &*node.name == "busy");
    wait_for(&heard, is(Health::Slow));
    // Messages do not pass that thread.
    publisher.publish("on").unwrap();
    assert_eq!(&*subscriber.receive_timeout(DEADLINE).unwrap().unwrap(), "on");
    drop(release);
    wait_for(&heard, is(Health::Alive));
}

#[test]
fn a_newcomer_makes_way_for_the_one_that_had_its_name() {
    let place = Place::new();
    let endpoint = nodeset_dispatcher::Endpoint::resolve("test", Some(&place.socket())).unwrap();
    let config =
        nodeset_dispatcher::Config { grace: Duration::from_secs(3600), ..nodeset_dispatcher::Config::at(endpoint) };
    let first = nodeset_dispatcher::Dispatcher::start_embedded(config.clone()).unwrap();
    let mut old = Other::start("node", &place.socket());
    assert_eq!(old.rest_of("called "), "mnode");
    old.signal(Signal::STOP);
    old.await_stopped();
    first.stop();
    let _second = nodeset_dispatcher::Dispatcher::start_embedded(config).unwrap();
    let new = Node::builder("mnode").socket(place.socket()).connect().unwrap();
    assert_eq!(&*new.name(), "mnode", "nobody knows better");
    let events = events(&new);
    old.signal(Signal::CONT);
    assert_eq!(old.rest_of("attached as "), "mnode");
    wait_for(&events, |event| matches!(event, NodeEvent::Renamed { name } if &**name == "mnode-2"));
    assert_eq!(&*new.name(), "mnode-2");
}

#[test]
fn a_unique_name_is_refused_with_who_has_it() {
    let place = Place::new();
    let _dispatcher = place.node("test");
    let mut first = Other::start("unique", &place.socket());
    assert_eq!(first.rest_of("called "), "mnode");
    let refused = place.builder("mnode").unique().connect().unwrap_err();
    let ConnectError::NameTaken { name, pid, uid, .. } = &refused else { panic!("{refused}") };
    assert_eq!((name.as_str(), *pid, *uid), ("mnode", first.id(), rustix::process::geteuid().as_raw()));
    assert!(refused.to_string().contains(&format!("process {pid} of user {uid}")), "{refused}");
    assert_eq!(&*place.node("mnode").name(), "mnode-2");
    first.kill();
    // The kernel is free to say so a little later.
    let until = Instant::now() + DEADLINE;
    while let Err(error) = place.builder("mnode").unique().connect() {
        assert!(matches!(error, ConnectError::NameTaken { .. }) && Instant::now() < until, "{error}");
        std::thread::yield_now();
    }
}

#[test]
fn a_name_is_taken_over_and_the_old_process_lives_on() {
    let place = Place::new();
    let test = place.node("test");
    let mut old = Other::start("unique", &place.socket());
    assert_eq!(old.rest_of("called "), "mnode");
    let mut subscriber = test.subscriber::<str>("data").reliable().create().unwrap();
    assert_eq!(subscriber.publishers(), 1);

    let new = place.builder("mnode").replace(true).connect().unwrap();
    assert_eq!(&*new.name(), "mnode");
    assert_eq!(old.rest_of("replaced as mnode by "), std::process::id().to_string());
    assert_eq!(listed(&test, "mnode-2").unwrap().1, "mnode", "it is still there, under another name");
    assert!(!old.has_ended(), "nobody ended it");
    assert!(subscriber.receive_timeout(Duration::ZERO).unwrap().is_none());
    assert_eq!(subscriber.publishers(), 1, "what it publishes is still read");

    // And the same within one process: the one that lost its name may come back under another one.
    let events = events(&new);
    let newer = place.builder("mnode").replace(true).connect().unwrap();
    wait_for(&events, |event| matches!(event, NodeEvent::Replaced { name, .. } if &**name == "mnode"));
    assert!(!new.is_attached());
    new.reconnect_now();
    // It insists on its name.
    wait_for(&events, |event| matches!(event, NodeEvent::Replaced { .. }));
    drop(newer);
    new.reconnect_now();
    let came = wait_for(&events, |event| matches!(event, NodeEvent::Attached { .. }));
    assert!(matches!(came.last(), Some(NodeEvent::Attached { name, .. }) if &**name == "mnode"), "{came:?}");
}

#[test]
fn names_stay_with_those_who_had_them_when_the_dispatcher_is_killed() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.rest_of("called ");
    let node = place.node("test");
    let mut others: Vec<_> = (1..=3)
        .map(|number| {
            let mut other = Other::start("node", &place.socket());
            let name = if number == 1 { "mnode".to_owned() } else { format!("mnode-{number}") };
            assert_eq!(other.rest_of("called "), name);
            (other, name)
        })
        .collect();
    let heard = changes(&node);
    // The dispatcher's own node among them.
    for _ in 0..=others.len() {
        wait_for(&heard, |change| matches!(change, NodeChange::Joined(_)));
    }
    // Killed together with one whose end nobody is there to see.
    others[1].0.signal(Signal::STOP);
    dispatcher.kill();
    let (mut gone, _) = others.remove(1);
    gone.kill();
    for (other, name) in &mut others {
        assert_eq!(other.rest_of("attached as "), *name);
    }
    // Nobody is told that those came who never went; the dead are missed when all had the time to come.
    let mut left: Vec<_> = (0..2)
        .map(|_| {
            match wait_for(&heard, |change| matches!(change, NodeChange::Joined(_) | NodeChange::Left { .. })).pop() {
                Some(NodeChange::Left { node, died: false }) => node.name.to_string(),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    left.sort();
    assert_eq!(left, ["dispatcher", "mnode-2"]);
    // A fourth one gets the name that is free.
    let mut fourth = Other::start("node", &place.socket());
    assert_eq!(fourth.rest_of("called "), "mnode-2");
}
