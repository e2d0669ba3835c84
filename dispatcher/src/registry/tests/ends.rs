//! `Unsubscribe`, `Unadvertise`, goodbye and death in every state of a link, with what crosses them on the way.

use nodeset_bus::protocol::EndReason;

use super::*;

/// Whatever the two ends still say after their link is gone changes nothing, and they are told to let go.
fn late_words(pair: &mut Pair) {
    pair.listed();
    pair.entered();
    pair.removed();
    pair.left();
    assert!(!pair.exists());
}

#[test]
fn unsubscribing_in_each_state() {
    for until in STATES {
        let mut pair = Pair::new(until);
        pair.deaf();
        pair.unsubscribe();
        assert_eq!(pair.publisher_hears(), [ToNode::RemoveLink { link: pair.id, died: false }], "{until:?}");
        // The publisher's answer to `ListLink` crosses.
        pair.listed();
        pair.entered();
        assert!(pair.publisher_hears().is_empty() && pair.subscriber_hears().is_empty(), "{until:?}");
        assert!(pair.exists(), "its line is not free before the publisher said so");
        pair.removed();
        assert!(!pair.exists());
        assert_eq!(pair.publisher_hears(), [ToNode::ForgetPeer { node: pair.subscriber.id, died: false }], "{until:?}");
        late_words(&mut pair);
    }
}

#[test]
fn unadvertising_in_each_state() {
    for until in STATES {
        let mut pair = Pair::new(until);
        pair.deaf();
        pair.unadvertise();
        let ended = ToNode::LinkEnded { link: pair.id, reason: EndReason::Withdrawn };
        if until == Until::ListLink {
            assert!(pair.subscriber_hears().is_empty(), "it never heard of the link");
            assert!(!pair.exists());
        } else {
            assert_eq!(pair.subscriber_hears(), [ended], "{until:?}");
            assert!(pair.exists(), "its line is not free before the subscriber has left");
            // Its answer to `EnterLink` crosses.
            pair.entered();
            pair.left();
            assert!(!pair.exists());
        }
        late_words(&mut pair);
    }
}

#[test]
fn both_ends_at_once() {
    for until in STATES {
        for publisher_first in [true, false] {
            let mut pair = Pair::new(until);
            if publisher_first {
                pair.unadvertise();
                pair.unsubscribe();
            } else {
                pair.unsubscribe();
                pair.unadvertise();
            }
            assert!(!pair.exists(), "{until:?}");
            late_words(&mut pair);
            assert!(pair.table.registry.topics.is_empty());
            assert!(pair.table.registry.shared.is_empty());
        }
    }
}

#[test]
fn goodbye_in_each_state() {
    for until in STATES {
        let mut pair = Pair::new(until);
        pair.deaf();
        pair.table.say(pair.publisher.session, ToDispatcher::Goodbye);
        let heard = pair.subscriber_hears();
        if until == Until::ListLink {
            assert_eq!(names(&heard), Vec::<&str>::new());
        } else {
            assert_eq!(heard, [ToNode::LinkEnded { link: pair.id, reason: EndReason::Withdrawn }]);
        }
        pair.left();
        pair.table.say(pair.subscriber.session, ToDispatcher::Goodbye);
        assert!(pair.table.registry.is_empty() && pair.table.held.is_empty(), "{until:?}");
    }
}

#[test]
fn death_in_each_state() {
    for until in STATES {
        for publisher_dies in [true, false] {
            let mut pair = Pair::new(until);
            pair.deaf();
            let (dead, other) = if publisher_dies {
                (pair.publisher.clone(), pair.subscriber.clone())
            } else {
                (pair.subscriber.clone(), pair.publisher.clone())
            };
            pair.table.handle(Input::Died { node: dead.id });
            let told = pair.table.hears(&other);
            let wanted = match (publisher_dies, until) {
                (true, Until::ListLink) => Vec::new(),
                (true, _) => vec![ToNode::LinkEnded { link: pair.id, reason: EndReason::Died }],
                (false, _) => vec![ToNode::RemoveLink { link: pair.id, died: true }],
            };
            assert_eq!(told, wanted, "{until:?}");
            if publisher_dies {
                pair.left();
            } else {
                pair.removed();
            }
            assert!(!pair.exists(), "{until:?}");
            pair.table.kill(&other);
            assert!(pair.table.registry.is_empty() && pair.table.held.is_empty(), "{until:?}");
        }
    }
}

#[test]
fn a_publication_may_end_before_it_is_live() {
    let mut table = Table::new();
    let (publisher, subscriber) = (table.attach("one"), table.attach("two"));
    table.subscribe(&subscriber, "a", None);
    table.hears(&subscriber);
    let advertise = table.advertise("a", Schema::bytes());
    let publication = advertise.publication;
    table.say(publisher.session, ToDispatcher::Advertise(advertise.clone()));
    table.say(publisher.session, ToDispatcher::Unadvertise { publication });
    assert!(!table.held.contains(&Handle::LogOf(publication)));
    table.say(publisher.session, ToDispatcher::LogReady { publication });
    let heard = table.hears(&publisher);
    assert_eq!(names(&heard), ["LogGranted", "Refused"]);
    assert!(table.hears(&subscriber).is_empty());

    // The same by hanging up: a log that nobody else has seen is not worth keeping.
    table.say(publisher.session, ToDispatcher::Advertise(advertise));
    table.hang_up(&publisher);
    assert!(table.registry.publications.is_empty());
    assert!(table.registry.nodes.contains_key(&publisher.id));
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    // A log.
    let mut table = Table::new();
    let node = table.attach("one");
    let advertise = table.advertise("a", Schema::bytes());
    for task in [(|task| matches!(task, Task::Create(Handle::LogOf(_)))) as fn(Task) -> bool, |task| {
        matches!(task, Task::Check(Handle::LogOf(_)))
    }] {
        table.failing = Some(task);
        table.say(node.session, ToDispatcher::Advertise(advertise.clone()));
        table.say(node.session, ToDispatcher::LogReady { publication: advertise.publication });
        let (about, code, text) = refused(&table.hears(&node)).unwrap();
        assert_eq!((about, code, &*text), (About::Publication(advertise.publication), RefusalCode::Limit, "no room"));
        assert!(table.registry.publications.is_empty() && table.registry.topics.is_empty());
    }

    // What a link needs.
    for task in [(|task| matches!(task, Task::Create(Handle::BellOf(..)))) as fn(Task) -> bool, |task| {
        matches!(task, Task::Create(Handle::SignalOf(..)))
    }] {
        let mut table = Table::new();
        table.failing = Some(task);
        let mut pair = Pair::with(table, Until::ListLink);
        for heard in [pair.publisher_hears(), pair.subscriber_hears()] {
            assert_eq!(refused(&heard), Some((About::Link(pair.id), RefusalCode::Limit, "no room".to_owned())));
        }
        assert!(!pair.exists());
        let subscriber = pair.subscriber.clone();
        pair.table.subscribe(&subscriber, "image", None);
        assert!(list_link(&pair.publisher_hears()).is_some(), "another one may have more luck");
    }

    // What a node needs: the session is over, and so is the node.
    for task in [(|task| matches!(task, Task::Watch(_))) as fn(Task) -> bool, |task| {
        matches!(task, Task::Create(Handle::PageOf(_)))
    }] {
        let mut table = Table::new();
        table.failing = Some(task);
        let session = table.open(5, 1000);
        let hello = Hello::new(NodeId(77), "one");
        table.say_with(session, ToDispatcher::Hello(hello), 1);
        let heard: Vec<_> = table.told.remove(&session).unwrap().into();
        assert_eq!(refused(&heard), Some((About::Session, RefusalCode::Limit, "no room".to_owned())));
        assert!(table.registry.is_empty() && table.held.is_empty());
    }
}
