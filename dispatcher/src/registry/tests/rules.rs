//! Who may say what; names, types and limits.

use super::*;

#[test]
fn another_type_is_told_to_both_ends_in_either_order_of_start() {
    for publisher_first in [true, false] {
        let mut table = Table::new();
        let (publisher, subscriber) = (table.attach("camera"), table.attach("viewer"));
        let (advertise, subscribe) = if publisher_first {
            let advertise = table.publish(&publisher, "a", Schema::text());
            (advertise, table.subscribe(&subscriber, "a", Some(Schema::bytes())))
        } else {
            let subscribe = table.subscribe(&subscriber, "a", Some(Schema::bytes()));
            (table.publish(&publisher, "a", Schema::text()), subscribe)
        };
        let heard = (table.hears(&publisher), table.hears(&subscriber));
        assert!(list_link(&heard.0).is_none() && enter_link(&heard.1).is_none());
        let (at_publisher, at_subscriber) = (mismatch(&heard.0).unwrap(), mismatch(&heard.1).unwrap());
        assert_eq!(at_publisher.node, "viewer");
        assert_eq!(at_subscriber.node, "camera");
        for told in [&at_publisher, &at_subscriber] {
            assert_eq!((told.publication, told.subscription), (advertise.publication, subscribe.subscription));
            assert_eq!(told.topic, "a");
            assert!(!told.difference.is_empty());
        }
        assert_ne!(at_publisher.difference, at_subscriber.difference, "each reads it from its own side");
        // Whoever comes later is in the answer, whoever was there hears it at once.
        let late = |heard: &[ToNode]| heard.iter().any(|it| matches!(it, ToNode::Mismatch(_)));
        assert_eq!((late(&heard.0), late(&heard.1)), (publisher_first, !publisher_first));
        assert!(table.registry.links.is_empty());
        // Others of the same topic are not concerned.
        table.subscribe(&subscriber, "a", Some(Schema::text()));
        assert!(list_link(&table.hears(&publisher)).is_some());
    }
}

#[test]
fn nodes_of_one_name_get_a_suffix() {
    let mut table = Table::new();
    let mut all = Vec::new();
    for wanted in ["mnode", "mnode-2", "mnode-3"] {
        let node = table.attach("mnode");
        assert_eq!(table.registry.name_of(node.id), wanted);
        all.push(node);
    }
    // A hang-up is no death: the name is kept.
    table.hang_up(&all[0]);
    let node = table.attach("mnode");
    assert_eq!(table.registry.name_of(node.id), "mnode-4");
    table.kill(&all[1]);
    let node = table.attach("mnode");
    assert_eq!(table.registry.name_of(node.id), "mnode-2");
    // A name that is somebody's suffix already.
    let node = table.attach("mnode-2");
    assert_eq!(table.registry.name_of(node.id), "mnode-2-2");
    // It comes back under the name that it had.
    let mut first = all[0].clone();
    table.come_back(&mut first, &[]);
    assert!(matches!(&table.hears(&first)[0], ToNode::Welcome(welcome) if welcome.name == "mnode"));
}

#[test]
fn a_name_that_leaves_no_room_for_a_suffix() {
    let mut table = Table::new();
    let longest = "x".repeat(255);
    table.attach(&longest);
    let session = table.open(5, 1000);
    let hello = |name: &str| Hello::new(NodeId(999), name);
    table.say_with(session, ToDispatcher::Hello(hello(&longest)), 1);
    let heard: Vec<_> = table.told.remove(&session).unwrap().into();
    let (about, code, text) = refused(&heard).unwrap();
    assert_eq!((about, code), (About::Session, RefusalCode::Invalid));
    assert!(text.contains("shorter"), "{text}");
    for bad in ["", "a/b", "a b", "a@b", "*"] {
        let session = table.open(5, 1000);
        table.say_with(session, ToDispatcher::Hello(hello(bad)), 1);
        let heard: Vec<_> = table.told.remove(&session).unwrap().into();
        assert_eq!(refused(&heard).unwrap().1, RefusalCode::Invalid, "{bad:?}");
        assert!(!table.registry.sessions.contains_key(&session));
    }
}

/// A table with these limits.
fn limited(limits: Limits) -> Table {
    Table::with(Settings { limits, ..settings() })
}

#[test]
fn each_limit_is_refused_by_its_name() {
    let few = Limits::default();
    let text_of = |heard: &[ToNode], about: About| {
        let (said, code, text) = refused(heard).unwrap();
        assert_eq!((said, code), (about, RefusalCode::Limit));
        text
    };

    let mut table = limited(Limits { nodes: 1, ..few });
    let node = table.attach("one");
    let session = table.open(5, 1000);
    let hello = Hello::new(NodeId(9), "two");
    table.say_with(session, ToDispatcher::Hello(hello), 1);
    let heard: Vec<_> = table.told.remove(&session).unwrap().into();
    let text = text_of(&heard, About::Session);
    assert!(text.contains("1 nodes") && text.contains("--max-nodes"), "{text}");
    assert!(table.registry.nodes.contains_key(&node.id));

    let mut table = limited(Limits { publications: 1, ..few });
    let node = table.attach("one");
    table.publish(&node, "a", Schema::bytes());
    let second = table.publish(&node, "b", Schema::bytes());
    let text = text_of(&table.hears(&node), About::Publication(second.publication));
    assert!(text.contains("1 publications") && text.contains("--max-publications"), "{text}");

    let mut table = limited(Limits { subscriptions: 1, ..few });
    let node = table.attach("one");
    table.subscribe(&node, "a", None);
    let second = table.subscribe(&node, "b", None);
    let text = text_of(&table.hears(&node), About::Subscription(second.subscription));
    assert!(text.contains("1 subscriptions") && text.contains("--max-subscriptions"), "{text}");

    let mut table = limited(Limits { topics: 1, ..few });
    let node = table.attach("one");
    table.subscribe(&node, "a", None);
    table.subscribe(&node, "a", None);
    let second = table.subscribe(&node, "b", None);
    let text = text_of(&table.hears(&node), About::Subscription(second.subscription));
    assert!(text.contains("1 topics") && text.contains("--max-topics"), "{text}");

    let mut table = limited(Limits { links: 1, ..few });
    let mut nodes = vec![table.attach("one"), table.attach("two")];
    let advertise = table.publish(&nodes[0], "a", Schema::bytes());
    table.subscribe(&nodes[1], "a", None);
    let second = table.subscribe(&nodes[1], "a", None);
    let link = LinkId { publication: advertise.publication, epoch: 1, subscription: second.subscription };
    for node in nodes.drain(..) {
        let text = text_of(&table.hears(&node), About::Link(link));
        assert!(text.contains("1 links") && text.contains("--max-links"), "{text}");
    }

    let mut table = limited(Limits { log_bytes: 8192, ..few });
    let node = table.attach("one");
    let big = table.publish(&node, "a", Schema::bytes());
    let text = text_of(&table.hears(&node), About::Publication(big.publication));
    assert!(text.contains("16384") && text.contains("8192") && text.contains("--max-log-bytes"), "{text}");
}

#[test]
fn sessions_are_limited() {
    let mut table = limited(Limits { nodes: 0, ..Limits::default() });
    let mut refusals = 0;
    for pid in 0..100 {
        let session = table.open(pid, 1000);
        if let Some(heard) = table.told.remove(&session) {
            let heard: Vec<_> = heard.into();
            let (_, code, text) = refused(&heard).unwrap();
            assert_eq!(code, RefusalCode::Limit);
            assert!(text.contains("64 sessions") && text.contains("--max-nodes"), "{text}");
            assert!(!table.registry.sessions.contains_key(&session));
            refusals += 1;
        }
    }
    assert_eq!(refusals, 36);
    assert_eq!(table.registry.sessions().count(), 64);
}

#[test]
fn lines_of_a_page_are_limited() {
    let mut table = Table::new();
    let (publisher, subscriber) = (table.attach("one"), table.attach("two"));
    let lines = &mut table.registry.nodes.get_mut(&subscriber.id).unwrap().lines;
    while lines.take().is_some() {}
    // The invariants do not hold for lines that were taken behind the registry's back.
    table.registry.handle(
        table.now,
        Input::Message {
            session: subscriber.session,
            message: ToDispatcher::Subscribe(Subscribe {
                subscription: SubscriptionId(1),
                topic: "a".to_owned(),
                schema: None,
                reliable: false,
                weight: 1,
                across_ms: None,
            }),
            descriptors: 0,
        },
    );
    let advertise = table.advertise("a", Schema::bytes());
    let publication = advertise.publication;
    for message in [ToDispatcher::Advertise(advertise), ToDispatcher::LogReady { publication }] {
        let input = Input::Message { session: publisher.session, message, descriptors: 0 };
        table.registry.handle(table.now, input);
        table.carry_out();
    }
    let (about, code, text) = refused(&table.hears(&publisher)).unwrap();
    let link = LinkId { publication, epoch: 1, subscription: SubscriptionId(1) };
    assert_eq!((about, code), (About::Link(link), RefusalCode::Limit));
    assert!(text.contains("node page") && text.contains("use another node"), "{text}");
}

#[test]
fn invalid_topics_and_shapes_are_refused() {
    let mut table = Table::new();
    let node = table.attach("one");
    for topic in ["", "a/*", "**", "a//b", "a b"] {
        let advertise = table.publish(&node, topic, Schema::bytes());
        let heard = table.hears(&node);
        assert_eq!(refused(&heard).unwrap().0, About::Publication(advertise.publication), "{topic:?}");
    }
    for selector in ["", "a//b", "a b", "a*"] {
        let subscribe = table.subscribe(&node, selector, None);
        let (about, code, _) = refused(&table.hears(&node)).unwrap();
        assert_eq!((about, code), (About::Subscription(subscribe.subscription), RefusalCode::Invalid), "{selector:?}");
    }
    for (block_len, blocks) in [(0, 4), (4097, 4), (4096, 1), (1 << 31, 4), (3, 0)] {
        let advertise = Advertise { shape: LogShape { block_len, blocks }, ..table.advertise("a", Schema::bytes()) };
        table.say(node.session, ToDispatcher::Advertise(advertise));
        assert_eq!(refused(&table.hears(&node)).unwrap().1, RefusalCode::Invalid, "{block_len} x {blocks}");
    }
    assert!(table.registry.publications.is_empty() && table.registry.topics.is_empty());
}

#[test]
fn what_is_said_out_of_order_ends_the_session() {
    let hello = |handing_back| Hello { handing_back, ..Hello::new(NodeId(500), "n") };
    let tool = Hello { tool: true, ..hello(false) };
    let say_hello = |hello: &Hello| (ToDispatcher::Hello(hello.clone()), 1 + usize::from(hello.handing_back));
    let cases = [
        vec![(ToDispatcher::List, 0)],
        vec![(ToDispatcher::PageReady, 0)],
        vec![(ToDispatcher::Hello(hello(false)), 0)],
        vec![(ToDispatcher::Hello(hello(false)), 2)],
        vec![(ToDispatcher::Hello(hello(true)), 1)],
        vec![say_hello(&hello(false)), say_hello(&hello(false))],
        vec![say_hello(&hello(false)), (ToDispatcher::HandedBack, 0)],
        vec![say_hello(&hello(false)), (ToDispatcher::PageReady, 0), (ToDispatcher::HandedBack, 0)],
        vec![say_hello(&hello(false)), (ToDispatcher::PageReady, 0), (ToDispatcher::Bell { uid: 0 }, 1)],
        vec![say_hello(&hello(true)), (ToDispatcher::Signal { uid: 0 }, 0)],
        vec![say_hello(&tool), (ToDispatcher::PageReady, 0)],
        vec![say_hello(&tool), (ToDispatcher::Unsubscribe { subscription: SubscriptionId(1) }, 0)],
    ];
    for case in cases {
        let mut table = Table::new();
        let session = table.open(5, 1000);
        for (message, descriptors) in case.clone() {
            table.say_with(session, message, descriptors);
        }
        let heard: Vec<_> = table.told.remove(&session).unwrap_or_default().into();
        let (about, code, text) = refused(&heard).unwrap();
        assert_eq!((about, code), (About::Session, RefusalCode::Protocol), "{case:?}");
        assert!(text.len() > 20, "{text}");
        assert!(table.registry.sessions.is_empty(), "{case:?}");
        // What more it says is said to nobody.
        table.say(session, ToDispatcher::List);
        assert!(table.lists.is_empty());
    }
}

#[test]
fn a_tool_lists_and_costs_nothing() {
    let mut table = Table::new();
    let session = table.open(5, 1000);
    let hello = Hello::tool(NodeId(5), "list");
    table.say(session, ToDispatcher::Hello(hello));
    table.say(session, ToDispatcher::List);
    assert_eq!(table.lists, [session]);
    assert!(table.registry.nodes.is_empty() && table.held.is_empty());
    table.say(session, ToDispatcher::Goodbye);
    assert!(table.registry.is_empty());
}

#[test]
fn a_listing_goes_on_while_the_table_changes() {
    let mut pair = Pair::new(Until::LinkReady);
    let mut cursor = ListCursor::default();
    let first = cursor.next_row(&pair.table.registry);
    assert!(matches!(first, Some(nodeset_bus::protocol::Listing::Node { .. })));
    let (publisher, subscriber) = (pair.publisher.clone(), pair.subscriber.clone());
    pair.table.kill(&publisher);
    pair.table.kill(&subscriber);
    assert_eq!(cursor.next_row(&pair.table.registry), None);
    assert_eq!(cursor.next_row(&pair.table.registry), None);
}

#[test]
fn who_leaves_does_so_only_to_its_user_or_root() {
    for (embedded, standalone, uid, wanted) in [
        (true, false, 1000, None),
        (true, true, 0, None),
        (true, true, 1001, Some(RefusalCode::Denied)),
        (false, false, 1000, Some(RefusalCode::Unsupported)),
        (false, true, 1000, None),
        (false, true, 0, None),
        (false, true, 1001, Some(RefusalCode::Denied)),
    ] {
        let mut table = Table::with(Settings { embedded, ..settings() });
        let session = table.open(5, uid);
        table.say(session, ToDispatcher::Replace { standalone });
        let heard: Vec<_> = table.told.remove(&session).unwrap_or_default().into();
        assert_eq!(refused(&heard).map(|it| (it.0, it.1)), wanted.map(|code| (About::Replace, code)));
        assert_eq!(table.left_to.is_some(), wanted.is_none());
    }
}

#[test]
fn another_process_cannot_take_a_nodes_place() {
    let mut table = Table::new();
    let node = table.attach("one");
    let session = table.open(node.pid + 1, node.uid);
    let hello = Hello::back(node.id, "one");
    table.say_with(session, ToDispatcher::Hello(hello), 2);
    let heard: Vec<_> = table.told.remove(&session).unwrap().into();
    assert_eq!(refused(&heard).unwrap().1, RefusalCode::Denied);
    assert_eq!(table.registry.nodes[&node.id].session, Some(node.session));
}
