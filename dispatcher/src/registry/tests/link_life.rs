//! How a link is made, repeated, interrupted and made again.

use nodeset_bus::protocol::{End, EndReason, HeldLink};

use super::super::link::{PublisherEnd, SubscriberEnd};
use super::*;

#[test]
fn a_link_is_made_step_by_step() {
    let mut pair = Pair::new(Until::ListLink);
    let id = pair.id;
    let heard = pair.publisher_hears();
    assert_eq!(names(&heard), ["LogGranted", "Advertised", "OwnBell", "OwnSignal", "Peer", "ListLink"]);
    let listed = list_link(&heard).unwrap();
    assert_eq!((listed.link, listed.subscriber, listed.reliable), (id, pair.subscriber.id, true));
    assert_eq!(names(&pair.subscriber_hears()), ["Subscribed"], "before the publisher has it on its list");
    assert_eq!(pair.table.link(id).publishing, PublisherEnd::Asked);

    pair.listed();
    let heard = pair.subscriber_hears();
    assert_eq!(names(&heard), ["OwnBell", "Peer", "Signal", "EnterLink"]);
    let entered = enter_link(&heard).unwrap();
    assert_eq!((entered.link, entered.line, entered.tag), (id, listed.line, listed.tag));
    assert_eq!((entered.publisher, entered.shape, &*entered.topic), (pair.publisher.id, SHAPE, "image"));
    assert!(pair.publisher_hears().is_empty(), "before the subscriber is in the log");

    pair.entered();
    assert_eq!(pair.publisher_hears(), [ToNode::LinkReady { link: id }]);
    assert!(pair.subscriber_hears().is_empty());
    assert!(pair.table.link(id).is_ready());
}

#[test]
fn the_order_of_start_does_not_matter() {
    let mut table = Table::new();
    let (publisher, subscriber) = (table.attach("camera"), table.attach("viewer"));
    let subscribe = table.subscribe(&subscriber, "image", None);
    assert!(matches!(&table.hears(&subscriber)[..], [ToNode::Subscribed { expected, .. }] if expected.is_empty()));
    let advertise = table.publish(&publisher, "image", Schema::bytes());
    let id = LinkId { publication: advertise.publication, epoch: 1, subscription: subscribe.subscription };
    let heard = table.hears(&publisher);
    let expected = heard.iter().find_map(|it| match it {
        ToNode::Advertised { expected, .. } => Some(expected.clone()),
        _ => None,
    });
    assert_eq!(
        expected,
        Some(vec![nodeset_bus::protocol::Expected { link: id, node: "viewer".to_owned(), late: false }])
    );
    assert_eq!(list_link(&heard).unwrap().link, id);
}

#[test]
fn a_node_may_be_at_both_ends() {
    let mut table = Table::new();
    let node = table.attach("both");
    let advertise = table.publish(&node, "a", Schema::bytes());
    let subscribe = table.subscribe(&node, "a", None);
    let link = LinkId { publication: advertise.publication, epoch: 1, subscription: subscribe.subscription };
    table.say(node.session, ToDispatcher::LinkListed { link });
    table.say(node.session, ToDispatcher::LinkEntered { link });
    let heard = names(&table.hears(&node));
    assert_eq!(heard.iter().filter(|it| **it == "Peer").count(), 1, "{heard:?}");
    assert_eq!(heard.last(), Some(&"LinkReady"));
    table.say(node.session, ToDispatcher::Goodbye);
    assert!(table.registry.is_empty(), "{:?}", table.registry);
}

#[test]
fn each_message_about_a_link_may_come_twice() {
    for until in STATES {
        let mut pair = Pair::new(until);
        let messages: &[fn(&mut Pair)] = match until {
            Until::ListLink => &[],
            Until::EnterLink => &[Pair::listed],
            Until::LinkReady => &[Pair::listed, Pair::entered],
        };
        pair.deaf();
        let before = format!("{:?}", pair.table.registry);
        for message in messages {
            message(&mut pair);
            assert!(pair.publisher_hears().is_empty() && pair.subscriber_hears().is_empty());
            assert_eq!(format!("{:?}", pair.table.registry), before);
        }
    }
    let mut pair = Pair::new(Until::LinkReady);
    pair.unsubscribe();
    pair.removed();
    pair.unsubscribe();
    pair.removed();
    pair.left();
    pair.unadvertise();
    pair.unadvertise();
    assert!(!pair.exists());
}

#[test]
fn what_comes_too_early_changes_nothing() {
    let mut pair = Pair::new(Until::ListLink);
    pair.deaf();
    let before = format!("{:?}", pair.table.registry);
    pair.entered();
    pair.left();
    assert!(pair.publisher_hears().is_empty() && pair.subscriber_hears().is_empty());
    assert_eq!(format!("{:?}", pair.table.registry), before);
}

#[test]
fn a_link_is_its_ends_own_business() {
    let mut pair = Pair::new(Until::LinkReady);
    let stranger = pair.table.attach("stranger");
    pair.deaf();
    let before = format!("{:?}", pair.table.registry);
    let link = pair.id;
    let (publication, subscription) = (link.publication, link.subscription);
    for message in [
        ToDispatcher::LinkListed { link },
        ToDispatcher::LinkEntered { link },
        ToDispatcher::LinkRemoved { link },
        ToDispatcher::LinkLeft { link, evicted: false },
        ToDispatcher::Unadvertise { publication },
        ToDispatcher::Unsubscribe { subscription },
        ToDispatcher::LogReady { publication },
        ToDispatcher::Advertise(pair.advertise.clone()),
        ToDispatcher::Subscribe(pair.subscribe.clone()),
    ] {
        pair.table.say(stranger.session, message);
    }
    assert!(pair.publisher_hears().is_empty() && pair.subscriber_hears().is_empty());
    assert_eq!(format!("{:?}", pair.table.registry), before);
    // It is told that it has no part in them.
    let heard = names(&pair.table.hears(&stranger));
    assert_eq!(heard, ["RemoveLink", "LinkEnded", "Refused", "Refused", "Refused"]);
}

#[test]
fn a_line_is_used_again_only_when_both_ends_let_go_and_under_a_new_tag() {
    let mut pair = Pair::new(Until::LinkReady);
    let first = pair.table.link(pair.id);
    pair.unsubscribe();
    assert_eq!(pair.table.link(pair.id).publishing, PublisherEnd::Removing);
    // Another subscription of the same node, while the publisher still looks at the line.
    let (subscriber, publisher) = (pair.subscriber.clone(), pair.publisher.clone());
    pair.deaf();
    let again = pair.table.subscribe(&subscriber, "image", None);
    let meanwhile = list_link(&pair.publisher_hears()).unwrap();
    assert_ne!(meanwhile.line, first.line);
    pair.removed();
    assert!(!pair.exists());
    pair.table.say(subscriber.session, ToDispatcher::Unsubscribe { subscription: again.subscription });
    pair.table.say(publisher.session, ToDispatcher::LinkRemoved { link: meanwhile.link });
    pair.deaf();
    pair.table.subscribe(&subscriber, "image", None);
    let after = list_link(&pair.publisher_hears()).unwrap();
    assert_eq!(after.line, first.line);
    assert_ne!(after.tag, first.tag);
}

#[test]
fn a_line_is_not_used_while_its_reader_drains() {
    let mut pair = Pair::new(Until::LinkReady);
    let first = pair.table.link(pair.id);
    pair.unadvertise();
    let publisher = pair.publisher.clone();
    pair.deaf();
    let advertise = pair.table.publish(&publisher, "image", Schema::bytes());
    let meanwhile = list_link(&pair.publisher_hears()).unwrap();
    assert_eq!(meanwhile.link.publication, advertise.publication);
    assert_ne!(meanwhile.line, first.line);
    pair.left();
    assert!(!pair.exists());
}

#[test]
fn a_hang_up_of_the_subscriber_only_demotes() {
    for until in STATES {
        let mut pair = Pair::new(until);
        pair.deaf();
        let before = pair.table.link(pair.id);
        let subscriber = pair.subscriber.clone();
        pair.table.hang_up(&subscriber);
        let heard = pair.publisher_hears();
        let link = pair.table.link(pair.id);
        assert_eq!((link.line, link.tag, link.publishing), (before.line, before.tag, before.publishing), "{until:?}");
        // Before it heard of the link it had nothing to hold.
        let wanted = if until > Until::ListLink { vec![ToNode::Demote { link: pair.id }] } else { Vec::new() };
        assert_eq!(heard, wanted, "{until:?}");
        pair.table.handle(Input::Died { node: subscriber.id });
        assert_eq!(pair.publisher_hears(), [ToNode::RemoveLink { link: pair.id, died: true }], "{until:?}");
        pair.removed();
        assert!(!pair.exists());
        assert_eq!(pair.publisher_hears(), [ToNode::ForgetPeer { node: subscriber.id, died: true }]);
    }
}

#[test]
fn a_hang_up_of_the_publisher_changes_nothing_for_its_subscribers() {
    let mut pair = Pair::new(Until::LinkReady);
    pair.deaf();
    let publisher = pair.publisher.clone();
    pair.table.hang_up(&publisher);
    assert!(pair.subscriber_hears().is_empty());
    assert!(pair.table.link(pair.id).is_ready());
    // Nobody waits for it meanwhile.
    let late = pair.table.attach("late");
    pair.table.subscribe(&late, "image", None);
    assert!(matches!(&pair.table.hears(&late)[..], [ToNode::Subscribed { expected, mismatched, .. }]
        if expected.is_empty() && mismatched.is_empty()));
    pair.table.handle(Input::Died { node: publisher.id });
    let ended = ToNode::LinkEnded { link: pair.id, reason: EndReason::Died };
    assert_eq!(pair.subscriber_hears(), [ended]);
    assert_eq!(pair.table.link(pair.id).publishing, PublisherEnd::Gone, "no end of a link is a dead node's");
    pair.left();
    assert!(!pair.exists());
}

#[test]
fn death_may_be_seen_before_the_hang_up() {
    for dead_first in [true, false] {
        let mut pair = Pair::new(Until::LinkReady);
        let (publisher, subscriber) = (pair.publisher.clone(), pair.subscriber.clone());
        for node in [&publisher, &subscriber] {
            if dead_first {
                pair.table.handle(Input::Died { node: node.id });
                pair.table.hang_up(node);
            } else {
                pair.table.kill(node);
            }
        }
        assert!(pair.table.registry.is_empty(), "{:?}", pair.table.registry);
        assert!(pair.table.held.is_empty());
    }
}

#[test]
fn an_id_whose_links_others_still_hold_is_not_taken_again() {
    let mut pair = Pair::new(Until::LinkReady);
    let publisher = pair.publisher.clone();
    pair.table.kill(&publisher);
    let again = |pair: &mut Pair| {
        let session = pair.table.open(9, 1000);
        let hello = Hello::new(publisher.id, "camera");
        pair.table.say_with(session, ToDispatcher::Hello(hello), 1);
        pair.table.told.remove(&session).unwrap()
    };
    let heard: Vec<_> = again(&mut pair).into();
    let (about, code, text) = refused(&heard).unwrap();
    assert_eq!((about, code), (About::Session, RefusalCode::Denied));
    assert!(text.contains("draw a new id"), "{text}");
    pair.left();
    assert!(matches!(again(&mut pair).front(), Some(ToNode::Welcome(_))));
}

#[test]
fn the_publisher_may_see_the_death_first() {
    let mut pair = Pair::new(Until::LinkReady);
    pair.deaf();
    pair.removed();
    assert_eq!(pair.table.link(pair.id).publishing, PublisherEnd::Gone);
    let subscriber = pair.subscriber.clone();
    pair.table.kill(&subscriber);
    assert!(!pair.exists());
    assert_eq!(pair.publisher_hears(), [ToNode::ForgetPeer { node: subscriber.id, died: true }]);
}

#[test]
fn a_demoted_reader_that_left_is_linked_afresh() {
    let mut pair = Pair::new(Until::LinkReady);
    let first = pair.table.link(pair.id);
    let mut subscriber = pair.subscriber.clone();
    pair.deaf();
    pair.table.hang_up(&subscriber);
    assert_eq!(pair.publisher_hears(), [ToNode::Demote { link: pair.id }]);
    let held = HeldLink {
        link: pair.id,
        peer: pair.publisher.id,
        end: End::Subscriber,
        line: first.line,
        tag: first.tag,
        reliable: true,
        demoted: false,
    };
    let brings = [(ToDispatcher::Subscribe(pair.subscribe.clone()), 0), (ToDispatcher::HeldLink(held), 0)];
    pair.table.come_back(&mut subscriber, &brings);
    pair.subscriber = subscriber;
    // It is listed again as what it was: reliable.
    let heard = pair.publisher_hears();
    let promoted = list_link(&heard).unwrap();
    assert_eq!((promoted.line, promoted.tag, promoted.reliable), (first.line, first.tag, true));
    assert!(!pair.table.link(pair.id).demoted);
    pair.listed();
    assert_eq!(pair.publisher_hears(), [ToNode::LinkReady { link: pair.id }]);
    pair.deaf();
    // But it had lost something meanwhile.
    pair.left();
    assert_eq!(pair.publisher_hears(), [ToNode::RemoveLink { link: pair.id, died: false }]);
    pair.removed();
    let again = list_link(&pair.publisher_hears()).unwrap();
    assert_eq!(again.link, pair.id);
    assert_ne!((again.line, again.tag), (first.line, first.tag));
    assert!(!pair.table.link(pair.id).demoted);
}

#[test]
fn a_log_that_cannot_be_entered_is_not_tried_again() {
    let mut pair = Pair::new(Until::EnterLink);
    pair.left();
    pair.removed();
    pair.deaf();
    assert!(!pair.exists());
    let (publisher, subscriber) = (pair.publisher.clone(), pair.subscriber.clone());
    pair.table.say(subscriber.session, ToDispatcher::Subscribe(pair.subscribe.clone()));
    assert_eq!(names(&pair.table.hears(&publisher)), Vec::<&str>::new());
    // A new subscription is another thing.
    pair.table.subscribe(&subscriber, "image", None);
    assert!(list_link(&pair.table.hears(&publisher)).is_some());
}

#[test]
fn what_came_in_between_is_said_when_a_node_comes_back() {
    // The publisher was away while the subscriber left.
    let mut pair = Pair::new(Until::LinkReady);
    let first = pair.table.link(pair.id);
    let mut publisher = pair.publisher.clone();
    pair.table.hang_up(&publisher);
    pair.unsubscribe();
    assert_eq!(pair.table.link(pair.id).publishing, PublisherEnd::Removing);
    let slot = pair.table.registry.publications[&pair.id.publication].slot;
    let advertise = Advertise { slot: Some(slot), ..pair.advertise.clone() };
    let held = HeldLink {
        link: pair.id,
        peer: pair.subscriber.id,
        end: End::Publisher,
        line: first.line,
        tag: first.tag,
        reliable: true,
        demoted: false,
    };
    let brings = [(ToDispatcher::Advertise(advertise), 1), (ToDispatcher::HeldLink(held), 0)];
    pair.table.come_back(&mut publisher, &brings);
    assert!(pair.table.hears(&publisher).contains(&ToNode::RemoveLink { link: pair.id, died: false }));

    // The subscriber was away while the publication ended; it does not hold the link any more.
    let mut pair = Pair::new(Until::LinkReady);
    let mut subscriber = pair.subscriber.clone();
    pair.table.hang_up(&subscriber);
    pair.unadvertise();
    assert_eq!(pair.table.link(pair.id).reading, SubscriberEnd::Ending(EndReason::Withdrawn));
    pair.table.come_back(&mut subscriber, &[(ToDispatcher::Subscribe(pair.subscribe.clone()), 0)]);
    assert!(!pair.exists());
}
