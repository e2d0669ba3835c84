//! Subscriptions of patterns and of one node's publications.

use nodeset_bus::protocol::{About, AdvertiseDirect, End, HeldLink, Origin};
use nodeset_bus::topic::Selector;

use super::*;
use crate::policy;

/// The topics on which a node is asked to enter links; it enters them all, as publishers list them all.
fn linked(table: &mut Table, subscriber: &Who, publishers: &[&Who]) -> Vec<String> {
    for publisher in publishers {
        for told in table.hears(publisher) {
            if let ToNode::ListLink(ListLink { link, .. }) = told {
                table.say(publisher.session, ToDispatcher::LinkListed { link });
            }
        }
    }
    let mut topics = Vec::new();
    for told in table.hears(subscriber) {
        if let ToNode::EnterLink(EnterLink { link, topic, .. }) = told {
            table.say(subscriber.session, ToDispatcher::LinkEntered { link });
            topics.push(topic);
        }
    }
    topics.sort_unstable();
    topics
}

#[test]
fn a_pattern_is_linked_to_what_is_there_and_to_what_comes() {
    let mut table = Table::new();
    let (publisher, subscriber) = (table.attach("camera"), table.attach("viewer"));
    for topic in ["sensors/front", "sensors", "sensors2/front", "other/front"] {
        table.publish(&publisher, topic, Schema::bytes());
    }
    let pattern = table.subscribe(&subscriber, "sensors/**", None);
    assert_eq!(linked(&mut table, &subscriber, &[&publisher]), ["sensors", "sensors/front"]);
    table.publish(&publisher, "sensors/rear/left", Schema::bytes());
    table.publish(&publisher, "actors/rear", Schema::bytes());
    assert_eq!(linked(&mut table, &subscriber, &[&publisher]), ["sensors/rear/left"]);
    assert_eq!(table.registry.links.len(), 3);

    table.say(subscriber.session, ToDispatcher::Unsubscribe { subscription: pattern.subscription });
    table.publish(&publisher, "sensors/late", Schema::bytes());
    assert_eq!(linked(&mut table, &subscriber, &[&publisher]), [""; 0]);
    assert!(table.registry.patterns.is_empty());
}

#[test]
fn several_subscriptions_of_one_topic_are_linked_each_for_itself() {
    let mut table = Table::new();
    let (publisher, subscriber) = (table.attach("camera"), table.attach("viewer"));
    for selector in ["a/b", "a/*", "a/*", "**/b", "*/c"] {
        table.subscribe(&subscriber, selector, None);
    }
    table.publish(&publisher, "a/b", Schema::bytes());
    assert_eq!(linked(&mut table, &subscriber, &[&publisher]), ["a/b"; 4]);
}

#[test]
fn an_address_means_one_node_in_either_order_of_start() {
    for (selector, wanted) in [
        ("camera@local/a", &["a"][..]),
        ("camera@host/**", &["a", "b"]),
        ("camera@*/*", &["a", "b"]),
        ("*@local/a", &["a", "a"]),
        ("camera@elsewhere/a", &[]),
        ("lidar@local/b", &[]),
    ] {
        for subscriber_first in [true, false] {
            let mut table = Table::new();
            let subscriber = table.attach("viewer");
            if subscriber_first {
                table.subscribe(&subscriber, selector, None);
            }
            let (camera, lidar) = (table.attach("camera"), table.attach("lidar"));
            for (node, topic) in [(&camera, "a"), (&camera, "b"), (&lidar, "a")] {
                table.publish(node, topic, Schema::bytes());
            }
            if !subscriber_first {
                table.subscribe(&subscriber, selector, None);
            }
            assert_eq!(linked(&mut table, &subscriber, &[&camera, &lidar]), wanted, "{selector}");
        }
    }
}

#[test]
fn a_name_means_all_nodes_that_asked_for_it() {
    let mut table = Table::new();
    let (one, other, subscriber) = (table.attach("camera"), table.attach("camera"), table.attach("viewer"));
    for node in [&one, &other] {
        table.publish(node, "a", Schema::bytes());
    }
    table.subscribe(&subscriber, "camera@local/a", None);
    table.subscribe(&subscriber, "camera-2@local/a", None);
    assert_eq!(linked(&mut table, &subscriber, &[&one, &other]), ["a"; 3]);
}

/// Those who were told of another type outside the answer to what they asked for.
fn told_of_another_type(heard: &[ToNode]) -> Vec<Mismatch> {
    let told = heard.iter().filter_map(|it| if let ToNode::Mismatch(it) = it { Some(it.clone()) } else { None });
    told.collect()
}

#[test]
fn a_pattern_takes_what_is_of_its_type_and_keeps_nobody_from_another_one() {
    for publisher_first in [true, false] {
        let mut table = Table::new();
        let (publisher, subscriber) = (table.attach("camera"), table.attach("viewer"));
        let publish = |table: &mut Table| {
            table.publish(&publisher, "a/text", Schema::text());
            table.publish(&publisher, "a/bytes", Schema::bytes());
            let publication = PublicationId(table.fresh_id());
            let direct = AdvertiseDirect { publication, topic: "a/jobs".to_owned(), schema: Schema::text() };
            table.say(publisher.session, ToDispatcher::AdvertiseDirect(direct));
        };
        if publisher_first {
            publish(&mut table);
        }
        table.subscribe(&subscriber, "a/*", Some(Schema::bytes()));
        if !publisher_first {
            publish(&mut table);
        }
        for (node, peer) in [(&publisher, "viewer"), (&subscriber, "camera")] {
            let heard = table.hears(node);
            let told = told_of_another_type(&heard);
            let told: Vec<_> = told.iter().map(|it| (&*it.topic, &*it.node, it.difference.is_empty())).collect();
            assert_eq!(told, [("a/text", peer, false), ("a/jobs", peer, false)]);
            let answered = heard.iter().all(|it| match it {
                ToNode::Advertised { mismatched, .. } | ToNode::Subscribed { mismatched, .. } => mismatched.is_empty(),
                _ => true,
            });
            assert!(answered, "what was asked for was done");
        }
        assert_eq!(table.registry.links.len(), 1, "the one of its type is linked");
    }
}

#[test]
fn whoever_names_a_topic_or_a_reserved_level_insists_on_the_type() {
    for (topic, wanted) in [("a/text", "camera@local/a/text"), ("a/$call/1", "a/$call/*")] {
        let mut table = Table::new();
        let (publisher, subscriber) = (table.attach("camera"), table.attach("viewer"));
        table.publish(&publisher, topic, Schema::text());
        table.subscribe(&subscriber, wanted, Some(Schema::bytes()));
        table.publish(&publisher, topic, Schema::text());
        let [at_publisher, at_subscriber] = [&publisher, &subscriber].map(|node| table.hears(node));
        assert_eq!(told_of_another_type(&at_publisher).len(), 1, "the one that was there first");
        assert_eq!(told_of_another_type(&at_subscriber).len(), 1, "of the one that came last");
        let answers = |heard: &[ToNode]| {
            let answers = heard.iter().filter_map(|it| match it {
                ToNode::Advertised { mismatched, .. } | ToNode::Subscribed { mismatched, .. } => Some(mismatched.len()),
                _ => None,
            });
            answers.collect::<Vec<_>>()
        };
        assert_eq!((answers(&at_publisher), answers(&at_subscriber)), (vec![0, 1], vec![1]));
    }
}

/// What camera `camera-2` of host `far` publishes, as the bridge says it here.
fn repeated(table: &mut Table, topic: &str) -> Advertise {
    let (host, node, base_name) = ("far".to_owned(), "camera-2".to_owned(), "camera".to_owned());
    let origin = Some(Origin { host, node, base_name, publication: PublicationId(9), epoch: 3 });
    Advertise { origin, ..table.advertise(topic, Schema::bytes()) }
}

#[test]
fn what_the_bridge_repeats_is_its_publishers_and_not_the_bridges() {
    let mut table = Table::new();
    let bridge = table.attach_from("bridge", 1, 1000);
    let subscriber = table.attach("viewer");
    let meant = ["a", "**", "camera@far/a", "camera-2@far/*", "*@*/a", "camera@*/a"];
    let not_meant = ["*@local/a", "bridge@local/a", "bridge@*/a", "*@host/a", "*@other/a", "camera@far/b"];
    for selector in meant.into_iter().chain(not_meant) {
        table.subscribe(&subscriber, selector, None);
    }
    let advertise = repeated(&mut table, "a");
    table.say(bridge.session, ToDispatcher::Advertise(advertise.clone()));
    table.say(bridge.session, ToDispatcher::LogReady { publication: advertise.publication });
    let told = table.hears(&bridge);
    for link in told.iter().filter_map(|told| if let ToNode::ListLink(it) = told { Some(it.link) } else { None }) {
        table.say(bridge.session, ToDispatcher::LinkListed { link });
    }
    let entered: Vec<_> = table
        .hears(&subscriber)
        .into_iter()
        .filter_map(|told| if let ToNode::EnterLink(enter) = told { Some(enter.origin) } else { None })
        .collect();
    assert_eq!(entered, vec![advertise.origin; meant.len()]);
}

#[test]
fn nobody_but_the_bridge_speaks_for_other_hosts() {
    let mut table = Table::new();
    let publisher = table.attach("bridge");
    let advertise = repeated(&mut table, "a");
    table.say(publisher.session, ToDispatcher::Advertise(advertise));
    let heard = table.hears(&publisher);
    assert!(matches!(&heard[..], [ToNode::Refused { code: RefusalCode::Denied, .. }]), "{heard:?}");
}

#[test]
fn what_may_not_be_read_is_not_linked() {
    let rules = "default = \"allow\"\n[[rule]]\ndeny = [\"subscribe\"]\nusers = [1001]\ntopics = [\"secret/**\"]\n";
    let policy = policy::file::parse(std::path::Path::new("rules.toml"), rules).unwrap();
    let mut table = Table::with(Settings { policy, ..settings() });
    let publisher = table.attach("camera");
    let (owner, guest) = (table.attach("owner"), table.attach_as("guest", 1001));
    table.publish(&publisher, "secret/plan", Schema::bytes());
    for subscriber in [&owner, &guest] {
        table.subscribe(subscriber, "**", None);
        table.subscribe(subscriber, "camera@local/secret/plan", None);
    }
    table.publish(&publisher, "secret/late", Schema::bytes());
    table.publish(&publisher, "open", Schema::bytes());
    assert_eq!(linked(&mut table, &guest, &[&publisher]), ["open"]);
    assert_eq!(linked(&mut table, &owner, &[&publisher]), ["open", "secret/late", "secret/plan", "secret/plan"]);
}

#[test]
fn what_may_not_be_read_is_told_with_the_rule() {
    let rules = "default = \"allow\"\n[[rule]]\ndeny = [\"subscribe\"]\nusers = [1001]\ntopics = [\"secret/**\"]\n";
    let policy = policy::file::parse(std::path::Path::new("rules.toml"), rules).unwrap();
    let mut table = Table::with(Settings { policy, ..settings() });
    let (publisher, guest) = (table.attach("camera"), table.attach_as("guest", 1001));
    table.publish(&publisher, "secret/plan", Schema::bytes());
    let all = table.subscribe(&guest, "**", None);
    let one = table.subscribe(&guest, "camera@local/secret/jobs", None);
    table.subscribe(&guest, "open/*", None);
    let publication = PublicationId(table.fresh_id());
    let direct = AdvertiseDirect { publication, topic: "secret/jobs".to_owned(), schema: Schema::bytes() };
    table.say(publisher.session, ToDispatcher::AdvertiseDirect(direct));
    table.publish(&publisher, "open/door", Schema::bytes());
    let denied = |heard: Vec<ToNode>| {
        let denied = heard.into_iter().filter_map(|it| match it {
            ToNode::Denied { subscription, topic, text } => {
                assert!(text.contains("may not subscribe") && text.contains("rules.toml, line 2"), "{text}");
                Some((subscription, topic))
            }
            _ => None,
        });
        denied.collect::<Vec<_>>()
    };
    let (plan, jobs) = ("secret/plan".to_owned(), "secret/jobs".to_owned());
    let expected = vec![(all.subscription, plan), (all.subscription, jobs.clone()), (one.subscription, jobs)];
    assert_eq!(denied(table.hears(&guest)), expected);
    // Nor is it told of anew by what changes elsewhere.
    table.publish(&publisher, "open/gate", Schema::bytes());
    assert_eq!(denied(table.hears(&guest)), []);
    assert_eq!(denied(table.hears(&publisher)), [], "whoever publishes does not learn who may not read it");
}

/// A publication on `a/b`, a subscription of a pattern that means it, and the link that an earlier dispatcher made of them.
struct Brought {
    table: Table,
    publisher: Who,
    subscriber: Who,
    advertise: Advertise,
    subscribe: Subscribe,
    link: LinkId,
}

impl Brought {
    fn new(mut table: Table) -> Brought {
        table.last_id = 100;
        let who = |pid, id| Who { session: SessionId(0), id: NodeId(id), pid, uid: 1000 };
        let advertise = Advertise { slot: Some(5), ..table.advertise("a/b", Schema::bytes()) };
        let subscription = SubscriptionId(table.fresh_id());
        let subscribe = Subscribe {
            subscription,
            topic: "a/*".to_owned(),
            schema: None,
            reliable: true,
            weight: 1,
            across_ms: None,
        };
        let link = LinkId { publication: advertise.publication, epoch: 1, subscription };
        Brought { table, publisher: who(11, 1), subscriber: who(12, 2), advertise, subscribe, link }
    }

    fn held(&self, end: End) -> (ToDispatcher, usize) {
        let peer = if end == End::Publisher { self.subscriber.id } else { self.publisher.id };
        let (link, line, tag) = (self.link, 3, 9);
        (ToDispatcher::HeldLink(HeldLink { link, peer, end, line, tag, reliable: true, demoted: false }), 0)
    }

    fn publisher_comes(&mut self) {
        let brings = [
            (ToDispatcher::Bell { uid: 1000 }, 1),
            (ToDispatcher::Signal { uid: 1000 }, 1),
            (ToDispatcher::Advertise(self.advertise.clone()), 1),
            self.held(End::Publisher),
        ];
        self.table.come_back(&mut self.publisher, &brings);
    }

    fn subscriber_comes(&mut self, with_link: bool) {
        let subscribe = (ToDispatcher::Subscribe(self.subscribe.clone()), 0);
        let mut brings = vec![(ToDispatcher::Bell { uid: 1000 }, 1), subscribe];
        brings.extend(with_link.then(|| self.held(End::Subscriber)));
        self.table.come_back(&mut self.subscriber, &brings);
    }

    fn linked(&mut self) -> Vec<String> {
        linked(&mut self.table, &self.subscriber, &[&self.publisher])
    }
}

#[test]
fn a_pattern_is_handed_back_with_its_links_and_goes_on() {
    let mut brought = Brought::new(Table::new());
    brought.publisher_comes();
    brought.subscriber_comes(true);
    let link = brought.table.link(brought.link);
    assert!(link.is_ready() && link.line == 3, "{link:?}");
    assert_eq!(brought.linked(), [""; 0], "it is there already");
    brought.table.publish(&brought.publisher, "a/new", Schema::bytes());
    assert_eq!(brought.linked(), ["a/new"]);
}

#[test]
fn a_link_of_a_pattern_that_only_the_publisher_names_is_entered_again() {
    let mut brought = Brought::new(Table::new());
    brought.publisher_comes();
    brought.subscriber_comes(false);
    assert_eq!(brought.linked(), ["a/b"]);
    let link = brought.table.link(brought.link);
    assert!(link.is_ready(), "{link:?}");
}

#[test]
fn a_link_of_a_pattern_that_may_not_be_read_here_ends_at_both_ends() {
    for publisher_first in [true, false] {
        let rules = "default = \"allow\"\n[[rule]]\ndeny = [\"subscribe\"]\ntopics = [\"a/b\"]\n";
        let policy = policy::file::parse(std::path::Path::new("rules.toml"), rules).unwrap();
        let mut brought = Brought::new(Table::with(Settings { policy, ..settings() }));
        if publisher_first {
            brought.publisher_comes();
            brought.subscriber_comes(true);
        } else {
            brought.subscriber_comes(true);
            brought.publisher_comes();
        }
        let Brought { table, publisher, subscriber, link, .. } = &mut brought;
        let link = *link;
        let of_publisher = table.hears(publisher);
        assert!(of_publisher.contains(&ToNode::RemoveLink { link, died: false }), "{of_publisher:?}");
        let of_subscriber = table.hears(subscriber);
        let ended = ToNode::LinkEnded { link, reason: EndReason::Withdrawn };
        assert!(of_subscriber.contains(&ended), "{of_subscriber:?}");
        table.say(publisher.session, ToDispatcher::LinkRemoved { link });
        table.say(subscriber.session, ToDispatcher::LinkLeft { link, evicted: false });
        assert!(table.registry.links.is_empty(), "{:?}", table.registry.links);
        table.publish(publisher, "a/open", Schema::bytes());
        assert_eq!(brought.linked(), ["a/open"], "the rest of the pattern is linked");
    }
}

#[test]
fn what_is_no_selector_and_what_is_no_topic_to_publish_on_is_refused() {
    let mut table = Table::new();
    let node = table.attach("node");
    for selector in ["a/b*", "n@h", "n@/a", "a//b", "a/n@h"] {
        table.subscribe(&node, selector, None);
        let (about, code, text) = refused(&table.hears(&node)).unwrap();
        assert!(matches!((about, code), (About::Subscription(_), RefusalCode::Invalid)), "{text}");
        assert_eq!(text, Selector::new(selector).unwrap_err().to_string());
    }
    for topic in ["a/*", "**", "n@local/a"] {
        let advertise = table.advertise(topic, Schema::bytes());
        table.say(node.session, ToDispatcher::Advertise(advertise));
        let (about, code, text) = refused(&table.hears(&node)).unwrap();
        assert!(matches!((about, code), (About::Publication(_), RefusalCode::Invalid)), "{text}");
    }
    assert!(table.registry.subscriptions.is_empty() && table.registry.patterns.is_empty());
}
