//! Nodes and links over a real socket, with real memory.

mod support;

use std::os::fd::AsFd;

use nodeset_bus::memory::Segment;
use nodeset_bus::message::Schema;
use nodeset_bus::page::{NODE_PAGE_LEN, SIGNAL_PAGE_LEN};
use nodeset_bus::protocol::*;
use support::*;

#[test]
fn two_nodes_are_linked_and_part() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let mut publisher = RawNode::attach(&dispatcher.path, "camera");
    let mut subscriber = RawNode::attach(&dispatcher.path, "viewer");

    let (advertise, slot, expected, _) = publisher.publish("robot/image", Schema::bytes());
    assert!(expected.is_empty());
    let (subscribe, expected, mismatched) = subscriber.subscribe("robot/image", Some(Schema::bytes()));
    let id = LinkId { publication: advertise.publication, epoch: 1, subscription: subscribe.subscription };
    assert_eq!(expected, [Expected { link: id, node: "camera".to_owned(), late: false }]);
    assert!(mismatched.is_empty());

    // Introductions come before the link, with what goes with them.
    let (peer, descriptors) = publisher
        .raw
        .expect("Peer", |message| if let ToNode::Peer(peer) = message { Some(peer.clone()) } else { None });
    assert_eq!((peer.node, peer.name.as_str(), peer.pid), (subscriber.id, "viewer", std::process::id()));
    let [page, bell, pidfd] = <[_; 3]>::try_from(descriptors).unwrap();
    let page = Segment::from_fd(page).unwrap();
    assert!(page.is_same_memory(&subscriber.page));
    page.check_one_writer(NODE_PAGE_LEN).unwrap();
    assert!(page.map_writable().is_err(), "only its own node writes a page");
    assert!(!nodeset_bus::sys::pidfd_dead(pidfd.as_fd()));
    let is_own_signal = |message: &ToNode| if let ToNode::OwnSignal { uid } = message { Some(*uid) } else { None };
    let (uid, mut own_signal) = publisher.raw.expect("OwnSignal", is_own_signal);
    assert_eq!(uid, rustix::process::geteuid().as_raw());
    let own_signal = Segment::from_fd(own_signal.remove(0)).unwrap();
    own_signal.check_shared(SIGNAL_PAGE_LEN).unwrap();

    let (listed, entered) = link(&mut publisher, &mut subscriber);
    assert_eq!(listed.subscriber, subscriber.id);
    assert_eq!((entered.publisher, entered.slot, entered.reliable), (publisher.id, slot, true));
    let is_signal = |message: &ToNode| matches!(message, ToNode::Signal { .. }).then_some(());
    let (_, mut signal) = subscriber.raw.expect("Signal", is_signal);
    assert!(Segment::from_fd(signal.remove(0)).unwrap().is_same_memory(&own_signal));

    // The bell that the publisher rings is the one on which the subscriber waits.
    let is_own_bell = |message: &ToNode| matches!(message, ToNode::OwnBell { .. }).then_some(());
    let (_, mut own_bell) = subscriber.raw.expect("OwnBell", is_own_bell);
    rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
    let mut count = [0; 8];
    rustix::io::read(own_bell.remove(0), &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);

    wait_for_rows(&dispatcher.path, "the link", |rows| {
        rows.iter().any(|row| matches!(row, Listing::Publication { topic, links: 1, .. } if topic == "robot/image"))
            && rows.iter().any(|row| matches!(row, Listing::Subscription { node, links: 1, .. } if node == "viewer"))
    });

    subscriber.raw.send(&ToDispatcher::Unsubscribe { subscription: subscribe.subscription }, &[]);
    publisher.expect_message(ToNode::RemoveLink { link: id, died: false });
    publisher.raw.send(&ToDispatcher::LinkRemoved { link: id }, &[]);
    publisher.expect_message(ToNode::ForgetPeer { node: subscriber.id, died: false });
    subscriber.expect_message(ToNode::ForgetPeer { node: publisher.id, died: false });

    publisher.raw.send(&ToDispatcher::Goodbye, &[]);
    publisher.raw.until_closed();
    wait_for_rows(
        &dispatcher.path,
        "the viewer alone",
        |rows| matches!(rows, [Listing::Node { state, .. }] if state.name == "viewer"),
    );
}

#[test]
fn a_withdrawn_publication_ends_for_its_subscribers() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let mut publisher = RawNode::attach(&dispatcher.path, "one");
    let mut subscriber = RawNode::attach(&dispatcher.path, "two");
    subscriber.subscribe("a", None);
    let (advertise, _, expected, _) = publisher.publish("a", Schema::text());
    assert_eq!(expected.len(), 1);
    let (listed, _) = link(&mut publisher, &mut subscriber);
    publisher.raw.send(&ToDispatcher::Unadvertise { publication: advertise.publication }, &[]);
    subscriber.expect_message(ToNode::LinkEnded { link: listed.link, reason: EndReason::Withdrawn });
    subscriber.raw.send(&ToDispatcher::LinkLeft { link: listed.link, evicted: false }, &[]);
    publisher.expect_message(ToNode::ForgetPeer { node: subscriber.id, died: false });
}

#[test]
fn another_type_is_told_to_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let mut publisher = RawNode::attach(&dispatcher.path, "one");
    let mut subscriber = RawNode::attach(&dispatcher.path, "two");
    publisher.publish("a", Schema::text());
    let (_, expected, mismatched) = subscriber.subscribe("a", Some(Schema::bytes()));
    assert!(expected.is_empty());
    assert_eq!(mismatched.len(), 1);
    assert_eq!(mismatched[0].node, "one");
    let (told, _) = publisher.raw.expect("Mismatch", |message| match message {
        ToNode::Mismatch(mismatch) => Some(mismatch.clone()),
        _ => None,
    });
    assert_eq!(told.node, "two");
    assert_ne!(told.difference, mismatched[0].difference, "each reads it from its own side");
}

#[test]
fn a_log_that_is_not_sealed_does_not_exist() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let mut node = RawNode::attach(&dispatcher.path, "one");
    let publication = PublicationId(random());
    let advertise = Advertise {
        publication,
        epoch: 1,
        topic: "a".to_owned(),
        schema: Schema::bytes(),
        shape: SHAPE,
        slot: None,
        lane: None,
        origin: None,
    };
    node.raw.send(&ToDispatcher::Advertise(advertise), &[]);
    node.raw.send(&ToDispatcher::LogReady { publication }, &[]);
    let (code, text) = node.raw.expect_refused(About::Publication(publication));
    assert_eq!(code, RefusalCode::Damaged);
    assert!(text.contains("F_SEAL_FUTURE_WRITE"), "{text}");
}

#[test]
fn an_oversized_log_is_refused_with_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let mut node = RawNode::attach(&dispatcher.path, "one");
    let publication = PublicationId(random());
    let advertise = Advertise {
        publication,
        epoch: 1,
        topic: "a".to_owned(),
        schema: Schema::bytes(),
        shape: LogShape { block_len: 1 << 20, blocks: 1 << 20 },
        slot: None,
        lane: None,
        origin: None,
    };
    node.raw.send(&ToDispatcher::Advertise(advertise.clone()), &[]);
    let (code, text) = node.raw.expect_refused(About::Publication(publication));
    assert_eq!(code, RefusalCode::Limit);
    assert!(text.contains(&(1u64 << 30).to_string()), "{text}");
    // Nobody names a number of blocks: the dispatcher gives what it allows.
    let advertise = Advertise { shape: LogShape { blocks: 0, ..advertise.shape }, ..advertise };
    node.raw.send(&ToDispatcher::Advertise(advertise), &[]);
    let (shape, _) = node.raw.expect("LogGranted", |message| match message {
        ToNode::LogGranted { shape, .. } => Some(*shape),
        _ => None,
    });
    assert_eq!(shape, LogShape { block_len: 1 << 20, blocks: 1 << 10 });
}

#[test]
fn names_get_suffixes() {
    let directory = tempfile::tempdir().unwrap();
    let dispatcher = Running::start(directory.path());
    let nodes: Vec<_> = (0..3).map(|_| RawNode::attach(&dispatcher.path, "mnode")).collect();
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["mnode", "mnode-2", "mnode-3"]);
}
