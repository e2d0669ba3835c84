//! States: for readers that come late, look seldom, or outlive the writer; with several writers, and with processes that die.
//!
//! The other processes are this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nodeset::{Node, NodeChange, NodeEvent, Readiness, ReceiveError, StateReader, StateWriter, WaitSet};
use rustix::event::{PollFd, PollFlags, poll};
use support::{DEADLINE, Other, Place, events, wait_for};

/// A value that shows whether it is whole: a number, many times.
fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(20)
}

fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, value(number), "torn");
    number
}

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role.clone()).socket(socket).embedded().standby(Duration::ZERO).connect().unwrap();
    match role.as_str() {
        "dispatcher" => println!("ready"),
        // Sets one value.
        "writer" => {
            let mut mode = node.state::<str>("mode").writer().unwrap();
            mode.set("last words").unwrap();
            println!("set");
            std::thread::park();
            drop(mode);
        }
        // Sets values as fast as it can.
        "counter" => {
            let mut count = node.state::<[u8]>("count").writer().unwrap();
            for number in 1_u64.. {
                count.set(&value(number)).unwrap();
            }
        }
        other => panic!("no such role: {other}"),
    }
    std::thread::park();
}

/// The names of nodes that die from now on.
fn deaths(node: &Node) -> Receiver<String> {
    let (sender, receiver) = channel();
    node.on_node(move |change| {
        if let NodeChange::Left { node, died: true } = change {
            drop(sender.send(node.name.to_string()));
        }
    });
    receiver
}

fn text(reader: &mut StateReader<str>) -> Option<String> {
    reader.get().unwrap().map(|value| value.to_string())
}

#[test]
fn late_and_early_readers_see_the_newest_value() {
    let place = Place::new();
    let (robot, screen) = (place.node("robot"), place.node("screen"));
    let mut early = screen.state::<str>("mode").reader().unwrap();
    assert_eq!(text(&mut early), None);
    let mut mode = robot.state::<str>("mode").writer().unwrap();
    assert_eq!(text(&mut early), None, "nothing was set");
    for word in ["off", "idle", "moving"] {
        mode.set(word).unwrap();
    }
    assert_eq!(text(&mut early).as_deref(), Some("moving"));
    assert_eq!(text(&mut early).as_deref(), Some("moving"), "it stays");
    let mut late = screen.state::<str>("mode").reader().unwrap();
    let newest = late.get().unwrap().unwrap();
    assert_eq!((&**newest, newest.publisher(), newest.sequence()), ("moving", "robot", 2));
    assert!(newest.age().is_some(), "each value says when it was set");
    mode.set("off").unwrap();
    assert_eq!(&**late.changed().unwrap(), "off");
    assert!(late.changed_timeout(Duration::ZERO).unwrap().is_none(), "it was given");

    // Who has seen it keeps it; a new writer sets it anew.
    drop(mode);
    assert_eq!(text(&mut late).as_deref(), Some("off"));
    let mut mode = robot.state::<str>("mode").writer().unwrap();
    mode.set("again").unwrap();
    assert_eq!(&**late.changed_timeout(DEADLINE).unwrap().unwrap(), "again");
    assert_eq!(text(&mut early).as_deref(), Some("again"));
}

#[test]
fn a_reader_that_looks_seldom_sees_whole_values_in_order() {
    const LAST: u64 = 200_000;
    let place = Place::new();
    let (robot, screen) = (place.node("robot"), place.node("screen"));
    let mut count = robot.state::<[u8]>("count").writer().unwrap();
    let mut reader = screen.state::<[u8]>("count").reader().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..=LAST).for_each(|number| count.set(&value(number)).unwrap());
            done.store(true, Ordering::SeqCst);
        });
        let (mut last, mut all_set) = (0, false);
        while last < LAST {
            assert!(!all_set, "{last} is not the last value that was set");
            all_set = done.load(Ordering::SeqCst);
            let Some(bytes) = reader.get().unwrap() else { continue };
            let seen = number(bytes);
            assert!(seen >= last, "{seen} after {last}");
            last = seen;
        }
    });
}

/// Whoever set last wins, for all readers alike, whatever they had read before and in whichever order they are linked.
#[test]
fn of_several_writers_the_last_one_wins() {
    let place = Place::new();
    let nodes = ["a", "b", "c"].map(|name| place.node(name));
    let mut early = nodes[0].state::<[u8]>("count").reader().unwrap();
    let mut writers: Vec<StateWriter<[u8]>> =
        nodes.iter().map(|node| node.state::<[u8]>("count").writer().unwrap()).collect();
    let mut seldom = nodes[1].state::<[u8]>("count").reader().unwrap();
    let mut mixed = 1_u64;
    for count in 1..=300 {
        mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writers[(mixed >> 33) as usize % 3].set(&value(count)).unwrap();
        assert_eq!(number(early.get().unwrap().unwrap()), count);
        if count % 50 == 0 {
            // What each writer set last is unread here, in the order of the links.
            assert_eq!(number(seldom.get().unwrap().unwrap()), count);
            let mut late = nodes[2].state::<[u8]>("count").reader().unwrap();
            assert_eq!(late.writers(), 3);
            assert_eq!(number(late.get().unwrap().unwrap()), count);
            assert!(late.changed_timeout(Duration::ZERO).unwrap().is_none(), "an older value came after it");
        }
    }
}

#[test]
fn a_value_outlives_its_writer_for_those_who_were_linked() {
    let place = Place::new();
    let screen = place.node("screen");
    let deaths = deaths(&screen);
    let mut seen = screen.state::<str>("mode").reader().unwrap();
    let mut unread = screen.state::<str>("mode").reader().unwrap();
    let mut writer = Other::start("writer", &place.socket());
    writer.wait_for("set");
    assert_eq!(&**seen.changed_timeout(DEADLINE).unwrap().unwrap(), "last words");
    // Not read, but linked.
    while unread.writers() == 0 {
        std::thread::yield_now();
    }
    let kept = seen.last().unwrap().clone();
    writer.kill();
    deaths.recv_timeout(DEADLINE).expect("the death is told");
    assert_eq!(text(&mut seen).as_deref(), Some("last words"));

    // Nobody can give it to those who come now.
    let mut late = screen.state::<str>("mode").reader().unwrap();
    assert_eq!(text(&mut late), None);
    // A new writer wins, also against what was not read before.
    let mut mode = screen.state::<str>("mode").writer().unwrap();
    mode.set("first words").unwrap();
    for reader in [&mut seen, &mut unread, &mut late] {
        assert_eq!(text(reader).as_deref(), Some("first words"));
        assert!(reader.changed_timeout(Duration::ZERO).unwrap().is_none(), "the dead one's came after it");
    }
    assert_eq!(&*kept, "last words", "what is kept stays");
}

/// A writer that is restarted, again and again: what its predecessor set never comes back.
#[test]
fn a_restarted_writers_value_is_never_followed_by_an_older_one() {
    let place = Place::new();
    let (robot, screen) = (place.node("robot"), place.node("screen"));
    let mut reader = screen.state::<[u8]>("count").reader().unwrap();
    for count in 0..50 {
        let mut before = robot.state::<[u8]>("count").writer().unwrap();
        before.set(&value(2 * count)).unwrap();
        if count % 2 == 0 {
            drop(before);
            let mut after = robot.state::<[u8]>("count").writer().unwrap();
            after.set(&value(2 * count + 1)).unwrap();
            assert_eq!(number(reader.get().unwrap().unwrap()), 2 * count + 1);
        } else {
            let mut after = robot.state::<[u8]>("count").writer().unwrap();
            after.set(&value(2 * count + 1)).unwrap();
            assert_eq!(number(reader.get().unwrap().unwrap()), 2 * count + 1);
        }
        assert!(reader.changed_timeout(Duration::ZERO).unwrap().is_none());
    }
}

#[test]
fn a_writer_killed_while_it_sets_leaves_its_last_whole_value() {
    let place = Place::new();
    let screen = place.node("screen");
    let deaths = deaths(&screen);
    let mut reader = screen.state::<[u8]>("count").reader().unwrap();
    for _ in 0..3 {
        let mut writer = Other::start("counter", &place.socket());
        let mut last = 0;
        while last < 1000 {
            let value = reader.changed_timeout(DEADLINE).unwrap().expect("it sets on");
            last = number(value);
        }
        writer.kill();
        deaths.recv_timeout(DEADLINE).expect("the death is told");
        let seen = number(reader.get().unwrap().unwrap());
        assert!(seen >= last);
        assert!(reader.changed_timeout(Duration::ZERO).unwrap().is_none());
        assert_eq!(number(reader.get().unwrap().unwrap()), seen);
    }
}

#[test]
fn states_go_on_while_the_dispatcher_is_restarted() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    let connect = |name: &str| Node::builder(name).socket(place.socket()).connect().unwrap();
    let (robot, screen) = (connect("robot"), connect("screen"));
    let happened = [events(&robot), events(&screen)];
    let mut mode = robot.state::<str>("mode").writer().unwrap();
    mode.set("before").unwrap();
    let mut reader = screen.state::<str>("mode").reader().unwrap();
    assert_eq!(text(&mut reader).as_deref(), Some("before"));
    dispatcher.kill();
    for happened in &happened {
        wait_for(happened, |event| matches!(event, NodeEvent::Detached { .. }));
    }
    mode.set("meanwhile").unwrap();
    assert_eq!(&**reader.changed_timeout(DEADLINE).unwrap().unwrap(), "meanwhile");
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    for happened in &happened {
        wait_for(happened, |event| matches!(event, NodeEvent::Attached { .. }));
    }
    let mut late = screen.state::<str>("mode").reader().unwrap();
    assert_eq!(&**late.changed_timeout(DEADLINE).unwrap().unwrap(), "meanwhile");
    assert!(reader.changed_timeout(Duration::ZERO).unwrap().is_none(), "the same value is no change");
    mode.set("after").unwrap();
    assert_eq!(text(&mut reader).as_deref(), Some("after"));
    assert_eq!(text(&mut late).as_deref(), Some("after"));
}

#[test]
fn a_writer_waits_for_nobody() {
    let place = Place::new();
    let (robot, screen) = (place.node("robot"), place.node("screen"));
    // One that wants every message and reads none, and one that keeps every value that it sees.
    let mut every = screen.subscriber::<[u8]>("count").reliable().create().unwrap();
    let mut reader = screen.state::<[u8]>("count").reader().unwrap();
    let mut count = robot.state::<[u8]>("count").writer().unwrap();
    let mut kept = Vec::new();
    for set in 1..=20_000_u64 {
        count.set(&value(set)).unwrap();
        if set % 100 == 0 {
            kept.push((set, reader.get().unwrap().unwrap().clone()));
        }
    }
    for (set, sample) in &kept {
        assert_eq!(number(sample), *set);
    }
    let missed = loop {
        match every.receive_timeout(DEADLINE) {
            Ok(sample) => assert!(sample.is_some(), "it was given up"),
            Err(ReceiveError::Evicted { missed, .. }) => break missed,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(missed > 19_000, "{missed}");
    // Memory for some blocks was enough, and none was waited for.
    let mut large = robot.state::<[u8]>("image").writer().unwrap();
    let mut viewer = screen.state::<[u8]>("image").reader().unwrap();
    for picture in 0..200_u8 {
        let mut room = large.loan(1_000_000).unwrap();
        room.fill(picture);
        room.send();
    }
    assert_eq!(**viewer.get().unwrap().unwrap(), vec![199; 1_000_000]);
}

#[test]
fn messages_without_a_time_do_not_set_a_state() {
    let place = Place::new();
    let node = place.node("node");
    let mut reader = node.state::<str>("mode").reader().unwrap();
    let mut plain = node.publisher::<str>("mode").create().unwrap();
    plain.publish("of a publisher").unwrap();
    assert_eq!(text(&mut reader).as_deref(), Some("of a publisher"), "better than nothing");
    let mut mode = node.state::<str>("mode").writer().unwrap();
    mode.set("of a writer").unwrap();
    plain.publish("of a publisher").unwrap();
    assert_eq!(text(&mut reader).as_deref(), Some("of a writer"));
    assert!(reader.changed_timeout(Duration::ZERO).unwrap().is_none());
    // Subscribers of the topic get each value.
    let mut subscriber = node.subscriber::<str>("state/mode").history(1).create().unwrap();
    let mut mode = node.state::<str>("state/mode").writer().unwrap();
    for word in ["off", "on"] {
        mode.set(word).unwrap();
        assert_eq!(&*subscriber.receive_timeout(DEADLINE).unwrap().unwrap(), word);
    }
}

/// A change wakes whoever waits for it, in each of the ways to wait.
#[test]
fn a_change_wakes_its_readers() {
    let place = Place::new();
    let (robot, screen) = (place.node("robot"), place.node("screen"));
    let mut count = robot.state::<[u8]>("count").writer().unwrap();
    let mut in_set = WaitSet::new().unwrap();
    let in_set_key = in_set.attach(screen.state::<[u8]>("count").reader().unwrap()).unwrap();
    let mut blocked = screen.state::<[u8]>("count").reader().unwrap();
    let mut polled = screen.state::<[u8]>("count").reader().unwrap();
    const LAST: u64 = 200;
    std::thread::scope(|scope| {
        let blocked = scope.spawn(move || {
            let mut seen = 0;
            while seen < LAST {
                let next = number(blocked.changed().unwrap());
                assert!(next > seen);
                seen = next;
            }
        });
        let waiting = scope.spawn(move || {
            while in_set[in_set_key].get().unwrap().map_or(0, |value| number(value)) < LAST {
                in_set.wait_timeout(DEADLINE).unwrap();
            }
        });
        let polling = scope.spawn(move || {
            while polled.get().unwrap().map_or(0, |value| number(value)) < LAST {
                if let Readiness::Armed(armed) = polled.arm().unwrap() {
                    let at_most = armed.at_most().unwrap_or(DEADLINE).try_into().unwrap();
                    poll(&mut [PollFd::new(&polled, PollFlags::IN)], Some(&at_most)).unwrap();
                }
            }
        });
        let mut set = 0;
        let until = Instant::now() + DEADLINE;
        while set < LAST {
            set += 1;
            count.set(&value(set)).unwrap();
            assert!(Instant::now() < until);
        }
        for thread in [blocked, waiting, polling] {
            thread.join().unwrap();
        }
    });
}
