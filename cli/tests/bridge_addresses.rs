//! Three hosts that know each other: which messages arrive where, and what they say of their publishers.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod hosts;

use std::time::Duration;

use hosts::Host;
use nodeset::{Node, Publisher, Subscriber, Timestamp};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

/// Each is a peer of the others.
struct Hosts {
    a: Host,
    b: Host,
    c: Host,
    _place: TempDir,
}

impl Hosts {
    fn start() -> Hosts {
        let place = TempDir::new().unwrap();
        let listen = ["--listen", "127.0.0.1:0", "--peer", "c", "--peer"];
        let a = Host::start(place.path(), "a", &[&listen[..], &["b"]].concat());
        let to_a = format!("a={}", a.address());
        let b = Host::start(place.path(), "b", &[&listen[..], &[&to_a]].concat());
        let to_b = format!("b={}", b.address());
        let c = Host::start(place.path(), "c", &["--peer", &to_a, "--peer", &to_b]);
        Hosts { a, b, c, _place: place }
    }
}

/// What a message says of itself, and what it is.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    node: String,
    host: String,
    topic: String,
    sequence: u64,
    missed: u64,
    at: Option<Timestamp>,
    number: u64,
}

fn next(subscriber: &mut Subscriber<u64>) -> Seen {
    let sample = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
    Seen {
        node: sample.publisher().to_owned(),
        host: sample.host().to_owned(),
        topic: sample.topic().to_owned(),
        sequence: sample.sequence(),
        missed: sample.missed_before(),
        at: sample.published_at(),
        number: sample.to_native(),
    }
}

fn subscribe(node: &Node, selector: &str) -> Subscriber<u64> {
    node.subscriber(selector).reliable().create().unwrap()
}

fn publish(publisher: &mut Publisher<u64>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        publisher.publish(&number).unwrap();
    }
}

#[test]
fn a_stream_is_the_same_on_every_host() {
    let hosts = Hosts::start();
    let camera = hosts.a.node("camera");
    let mut publisher = camera.publisher::<u64>("front").timestamps(true).create().unwrap();
    // Before anybody listens: the numbers that arrive do not begin at 0.
    publish(&mut publisher, 0..5);
    let readers =
        [("camera@a/front", &hosts.a), ("camera@a/front", &hosts.b), ("front", &hosts.b), ("*@*/front", &hosts.c)];
    let nodes = readers.map(|(_, host)| host.node("reader"));
    let mut subscribers: Vec<_> =
        readers.iter().zip(&nodes).map(|((selector, _), node)| subscribe(node, selector)).collect();
    // The one of this host, and the bridge for each of the others.
    publisher.wait_for_subscribers(3, DEADLINE).unwrap();
    publish(&mut publisher, 5..1_000);
    for number in 5..1_000 {
        let here = next(&mut subscribers[0]);
        assert_eq!((&*here.node, &*here.host, &*here.topic), ("camera", "a", "front"));
        assert_eq!((here.sequence, here.missed, here.number), (number, 0, number));
        assert!(here.at.is_some());
        for subscriber in &mut subscribers[1..] {
            assert_eq!(next(subscriber), here, "{}", subscriber.topic());
        }
    }
}

#[test]
fn addresses_mean_the_hosts_that_they_name_and_nothing_goes_round() {
    let hosts = Hosts::start();
    let cameras = [&hosts.a, &hosts.b].map(|host| host.node("camera"));
    let mut publishers = cameras.each_ref().map(|node| node.publisher::<u64>("front").create().unwrap());
    let (far, here) = (hosts.c.node("reader"), hosts.b.node("reader"));
    let other = hosts.a.node("reader");
    // Whose messages each of them means.
    let mut subscribers = [
        (subscribe(&far, "front"), "ab"),
        (subscribe(&far, "camera@a/front"), "a"),
        (subscribe(&far, "*@b/**"), "b"),
        (subscribe(&far, "camera@local/front"), ""),
        (subscribe(&far, "camera@c/front"), ""),
        (subscribe(&far, "lamp@a/front"), ""),
        (subscribe(&here, "camera@*/front"), "ab"),
        (subscribe(&here, "camera@local/front"), "b"),
        (subscribe(&here, "camera@b/front"), "b"),
        (subscribe(&here, "camera@a/front"), "a"),
        (subscribe(&other, "front"), "ab"),
        (subscribe(&other, "*@local/front"), "a"),
    ];
    // On either host: its own subscriptions that mean it, and the bridge for each of the two other hosts.
    publishers[0].wait_for_subscribers(2 + 2, DEADLINE).unwrap();
    publishers[1].wait_for_subscribers(3 + 2, DEADLINE).unwrap();
    const ROUND: u64 = 100;
    for round in 0..3 {
        for publisher in &mut publishers {
            publish(publisher, round * ROUND..(round + 1) * ROUND);
        }
        for (subscriber, meant) in &mut subscribers {
            let mut due = [round * ROUND; 2];
            for _ in 0..ROUND * meant.len() as u64 {
                let seen = next(subscriber);
                let due = &mut due[usize::from(seen.host == "b")];
                assert!(meant.contains(&seen.host), "{seen:?} at {}", subscriber.topic());
                assert_eq!((&*seen.node, seen.sequence, seen.missed, seen.number), ("camera", *due, 0, *due));
                *due += 1;
            }
            // What was repeated wrongly in the last round is there by now.
            assert!(subscriber.try_receive().unwrap().is_none(), "too much at {}", subscriber.topic());
        }
    }
}
