//! Subscriptions of patterns and of one node's publications, through the public interface only.
//!
//! The other process is this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use nodeset::{AdvertiseError, Message, Node, NodeEvent, SubscribeError, Subscriber};
use support::{DEADLINE, Other, Place, events, wait_for};

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role.clone()).socket(socket).embedded().standby(Duration::ZERO).connect().unwrap();
    match role.as_str() {
        "dispatcher" => {
            println!("ready");
            std::thread::park();
        }
        "publisher" => {
            let mut publisher = node.publisher::<str>("sensors/rear/left").create().unwrap();
            publisher.wait_for_subscribers(1, DEADLINE).unwrap();
            publisher.publish("from another process").unwrap();
            std::thread::park();
        }
        other => panic!("no such role: {other}"),
    }
}

/// The next message: on which topic, whose, and what.
fn next<T: Message<View = str> + ?Sized>(subscriber: &mut Subscriber<T>) -> (String, String, String) {
    let sample = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message");
    let of_sample = (sample.topic().to_owned(), sample.publisher().to_owned(), sample.to_owned());
    let owned = sample.into_owned().unwrap();
    assert_eq!((owned.topic(), owned.publisher(), &*owned), (&*of_sample.0, &*of_sample.1, &*of_sample.2));
    of_sample
}

fn message(topic: &str, publisher: &str, text: &str) -> (String, String, String) {
    (topic.to_owned(), publisher.to_owned(), text.to_owned())
}

/// Waits until a link to a publication on that topic is there.
fn wait_linked(events: &Receiver<NodeEvent>, wanted: &str) {
    wait_for(
        events,
        |event| matches!(event, NodeEvent::Linked { topic, peer_subscribes: false, .. } if **topic == *wanted),
    );
}

#[test]
fn a_pattern_gets_what_is_published_on_each_topic_of_it_now_and_later() {
    let place = Place::new();
    let (publishing, subscribing) = (place.node("publishing"), place.node("subscribing"));
    let mut front = publishing.publisher::<str>("sensors/front").create().unwrap();
    let mut beside = publishing.publisher::<str>("actors/front").create().unwrap();
    let mut subscriber = subscribing.subscriber::<str>("sensors/**").reliable().create().unwrap();
    assert_eq!(subscriber.topic(), "sensors/**");
    assert_eq!((subscriber.publishers(), beside.subscribers()), (1, 0));

    // `create` returns when it is linked to those who are there.
    let mut left = publishing.publisher::<str>("sensors/rear/left").create().unwrap();
    assert_eq!(left.subscribers(), 1);
    beside.publish("nobody's").unwrap();
    front.publish("one").unwrap();
    assert_eq!(next(&mut subscriber), message("sensors/front", "publishing", "one"));
    left.publish("two").unwrap();
    assert_eq!(next(&mut subscriber), message("sensors/rear/left", "publishing", "two"));

    // Its order is kept for each of them.
    for number in 0..200 {
        front.publish(&number.to_string()).unwrap();
        left.publish(&number.to_string()).unwrap();
    }
    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..400 {
        let (topic, _, text) = next(&mut subscriber);
        got.entry(topic).or_default().push(text);
    }
    let all: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    assert_eq!(
        got.into_iter().collect::<Vec<_>>(),
        [("sensors/front".to_owned(), all.clone()), ("sensors/rear/left".to_owned(), all)]
    );

    let events = events(&publishing);
    drop(subscriber);
    wait_for(&events, |event| matches!(event, NodeEvent::LinkEnded { topic, .. } if **topic == *"sensors/front"));
}

#[test]
fn an_address_gets_what_its_node_publishes() {
    let place = Place::new();
    let (camera, lidar, viewer) = (place.node("camera"), place.node("lidar"), place.node("viewer"));
    let here = viewer.host();
    let mut publishers = [&camera, &lidar].map(|node| node.publisher::<str>("image").create().unwrap());
    let mut one = viewer.subscriber::<str>("camera@local/image").create().unwrap();
    let mut all_of_one = viewer.subscriber::<str>(format!("lidar@{here}/**")).create().unwrap();
    let mut everybody = viewer.subscriber::<str>("*@*/image").create().unwrap();
    let mut elsewhere = viewer.subscriber::<str>("camera@host-that-is-not-here/image").create().unwrap();
    assert_eq!(
        [&mut one, &mut all_of_one, &mut everybody, &mut elsewhere].map(|it| it.publishers()),
        [1, 1, 2, 0],
        "the one of another host waits for it"
    );
    let mut late = lidar.publisher::<str>("distance").create().unwrap();
    for publisher in &mut publishers {
        publisher.publish("picture").unwrap();
    }
    late.publish("7 m").unwrap();
    assert_eq!(next(&mut one), message("image", "camera", "picture"));
    let mut of_lidar = [next(&mut all_of_one), next(&mut all_of_one)];
    of_lidar.sort();
    assert_eq!(of_lidar, [message("distance", "lidar", "7 m"), message("image", "lidar", "picture")]);
    let mut of_all = [next(&mut everybody), next(&mut everybody)];
    of_all.sort();
    assert_eq!(of_all, [message("image", "camera", "picture"), message("image", "lidar", "picture")]);
    for subscriber in [&mut one, &mut all_of_one, &mut everybody, &mut elsewhere] {
        assert!(subscriber.try_receive().unwrap().is_none());
    }
}

#[test]
fn a_pattern_goes_on_when_the_dispatcher_is_killed() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    let (publishing, subscribing) = (place.node("publishing"), place.node("subscribing"));
    let (of_publishing, of_subscribing) = (events(&publishing), events(&subscribing));
    let mut subscriber = subscribing.subscriber::<str>("sensors/**").reliable().create().unwrap();
    let mut front = publishing.publisher::<str>("sensors/front").create().unwrap();
    assert_eq!(front.subscribers(), 1);

    dispatcher.kill();
    front.publish("without a dispatcher").unwrap();
    assert_eq!(next(&mut subscriber), message("sensors/front", "publishing", "without a dispatcher"));
    for events in [&of_publishing, &of_subscribing] {
        wait_for(events, |event| matches!(event, NodeEvent::Detached { .. }));
        wait_for(events, |event| matches!(event, NodeEvent::Attached { .. }));
    }
    // The link that was there is there, and the new dispatcher knows what the pattern wants.
    front.publish("with another one").unwrap();
    assert_eq!(next(&mut subscriber), message("sensors/front", "publishing", "with another one"));
    let mut publisher = Other::start("publisher", &place.socket());
    wait_linked(&of_subscribing, "sensors/rear/left");
    assert_eq!(next(&mut subscriber), message("sensors/rear/left", "publisher", "from another process"));
    assert_eq!(subscriber.missed(), 0);

    publisher.kill();
    wait_for(
        &of_subscribing,
        |event| matches!(event, NodeEvent::LinkEnded { topic, died: true, .. } if **topic == *"sensors/rear/left"),
    );
    assert!(subscriber.try_receive().unwrap().is_none());
    assert_eq!(subscriber.publishers(), 1);
}

/// Waits until a node is told of another type; on which topic, of whom, and what differs.
fn another_type(events: &Receiver<NodeEvent>) -> (String, String, String) {
    match wait_for(events, |event| matches!(event, NodeEvent::Mismatch { .. })).pop() {
        Some(NodeEvent::Mismatch { topic, peer, difference }) => (topic.to_string(), peer.to_string(), difference),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_type_under_a_pattern_is_an_event_at_both_ends_and_stops_nobody() {
    let place = Place::new();
    let (publishing, subscribing) = (place.node("publishing"), place.node("subscribing"));
    let (at_publisher, at_subscriber) = (events(&publishing), events(&subscribing));
    let publisher_of = |topic: &str| publishing.publisher::<u32>(topic).create().unwrap();
    let mut long = publishing.publisher::<u64>("a/long").create().unwrap();

    // There before, and direct, and coming later.
    let _early = publisher_of("a/early");
    let mut subscriber = subscribing.subscriber::<u64>("a/*").reliable().create().unwrap();
    let _direct = publishing.publisher::<u32>("a/direct").direct().create().unwrap();
    let _late = publisher_of("a/late");
    for topic in ["a/early", "a/direct", "a/late"] {
        for (events, peer, here) in [(&at_publisher, "subscribing", "u32"), (&at_subscriber, "publishing", "u64")] {
            let (of, by, difference) = another_type(events);
            assert_eq!((of.as_str(), by.as_str()), (topic, peer));
            assert!(difference.contains(&format!("{here} here")), "{difference}");
        }
    }
    // What is of its type it has.
    assert_eq!(subscriber.publishers(), 1);
    long.publish(&7).unwrap();
    assert_eq!(*subscriber.receive_timeout(DEADLINE).unwrap().expect("a number"), 7);
    // Whoever takes any type has all of them.
    let any = subscribing.subscriber::<[u8]>("a/*").any_schema().create().unwrap().publishers();
    assert_eq!(any, 4);
}

#[test]
fn another_type_on_a_topic_that_is_named_is_an_error() {
    let place = Place::new();
    let node = place.node("one");
    let _numbers = node.publisher::<u32>("a/number").create().unwrap();
    for named in ["a/number", "one@local/a/number"] {
        let error = node.subscriber::<u64>(named).create().unwrap_err();
        assert!(matches!(&error, SubscribeError::Mismatch { topic, .. } if topic == "a/number"), "{error}");
    }
}

#[test]
fn a_topic_under_a_pattern_that_may_not_be_read_is_an_event() {
    let place = Place::new();
    let rules = place.0.path().join("rules.toml");
    std::fs::write(&rules, "default = \"allow\"\n[[rule]]\ndeny = [\"subscribe\"]\ntopics = [\"secret/**\"]\n")
        .unwrap();
    let endpoint = nodeset_dispatcher::Endpoint::resolve("test", Some(&place.socket())).unwrap();
    let policy = nodeset_dispatcher::policy::file::read(&rules).unwrap();
    let config = nodeset_dispatcher::Config { policy, ..nodeset_dispatcher::Config::at(endpoint) };
    let _dispatcher = nodeset_dispatcher::Dispatcher::start_embedded(config).unwrap();
    let [publishing, guest] =
        ["publishing", "guest"].map(|name| Node::builder(name).socket(place.socket()).connect().unwrap());
    let at_guest = events(&guest);

    let _plan = publishing.publisher::<str>("secret/plan").create().unwrap();
    let mut all = guest.subscriber::<str>("**").reliable().create().unwrap();
    let _late = publishing.publisher::<str>("secret/late").create().unwrap();
    let mut door = publishing.publisher::<str>("open/door").create().unwrap();
    for denied in ["secret/plan", "secret/late"] {
        let said = wait_for(&at_guest, |event| matches!(event, NodeEvent::Denied { .. })).pop();
        let Some(NodeEvent::Denied { topic, subscription, reason }) = said else { panic!("{said:?}") };
        assert_eq!((&*topic, &*subscription), (denied, "**"));
        assert!(reason.contains("may not subscribe") && reason.contains("line 2"), "{reason}");
    }
    // The others of the pattern are not concerned; what is named is refused at once.
    door.publish("ajar").unwrap();
    assert_eq!(next(&mut all), message("open/door", "publishing", "ajar"));
    assert_eq!(all.publishers(), 1);
    let refused = guest.subscriber::<str>("secret/plan").create().unwrap_err();
    assert!(matches!(refused, SubscribeError::Refused { .. }), "{refused}");
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_to_do() {
    let place = Place::new();
    let node = place.node("one");
    for topic in ["a/*", "**", "one@local/a"] {
        let error = node.publisher::<str>(topic).create().unwrap_err();
        assert!(matches!(error, AdvertiseError::Topic { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("at byte") && text.contains("plain topic"), "{text}");
    }
    for (topic, at) in [("a/b*", "byte 3"), ("one@local", "byte 9"), ("one@local/a//b", "byte 12")] {
        let error = node.subscriber::<str>(topic).create().unwrap_err();
        assert!(matches!(error, SubscribeError::Topic { .. }), "{error}");
        assert!(error.to_string().contains(at), "{error}");
    }
}
