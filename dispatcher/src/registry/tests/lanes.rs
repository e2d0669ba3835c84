//! Direct publications and their lanes.

use nodeset_bus::protocol::{AdvertiseDirect, LaneOf, LaneWanted, Listing};

use super::*;

/// A node with a direct publication.
struct Stand {
    table: Table,
    publisher: Who,
    direct: AdvertiseDirect,
}

impl Stand {
    fn new() -> Stand {
        let mut table = Table::new();
        let publisher = table.attach("stand");
        let publication = PublicationId(table.fresh_id());
        let direct = AdvertiseDirect { publication, topic: "jobs".to_owned(), schema: Schema::bytes() };
        table.say(publisher.session, ToDispatcher::AdvertiseDirect(direct.clone()));
        Stand { table, publisher, direct }
    }

    fn wanted(&mut self) -> Vec<LaneWanted> {
        let heard = self.table.hears(&self.publisher).into_iter();
        heard.filter_map(|message| if let ToNode::LaneWanted(it) = message { Some(it) } else { None }).collect()
    }

    /// Makes the lane to a subscription, as its publisher does.
    fn make_lane(&mut self, to: SubscriptionId) -> PublicationId {
        let publication = self.direct.publication.lane_to(to);
        let lane = Some(LaneOf { direct: self.direct.publication, to, first: 0 });
        let advertise = Advertise { publication, lane, ..self.table.advertise("jobs", Schema::bytes()) };
        self.table.say(self.publisher.session, ToDispatcher::Advertise(advertise));
        self.table.say(self.publisher.session, ToDispatcher::LogReady { publication });
        publication
    }

    fn make_ready(&mut self, subscriber: &Who, link: LinkId) {
        self.table.say(self.publisher.session, ToDispatcher::LinkListed { link });
        self.table.say(subscriber.session, ToDispatcher::LinkEntered { link });
        assert!(self.table.link(link).is_ready());
    }
}

fn link_of(lane: PublicationId, subscription: SubscriptionId) -> LinkId {
    LinkId { publication: lane, epoch: 1, subscription }
}

#[test]
fn each_subscription_is_asked_a_lane_for_and_expects_it() {
    let mut stand = Stand::new();
    let worker = stand.table.attach("worker");
    let subscribe = stand.table.subscribe(&worker, "jobs", Some(Schema::bytes()));
    let pattern = stand.table.subscribe(&worker, "*", None);
    let wanted = stand.wanted();
    let named: Vec<_> = wanted.iter().map(|it| (it.subscription, it.node.as_str(), it.weight)).collect();
    assert_eq!(named, [(subscribe.subscription, "worker", 1), (pattern.subscription, "worker", 1)]);
    let lane = stand.direct.publication.lane_to(subscribe.subscription);
    let heard = stand.table.hears(&worker);
    let expected = heard.iter().find_map(|message| match message {
        ToNode::Subscribed { expected, .. } => expected.first().cloned(),
        _ => None,
    });
    assert_eq!(expected.map(|it| it.link), Some(link_of(lane, subscribe.subscription)));
    // Heard again, answered again; a lane that is there is not wanted.
    stand.make_lane(subscribe.subscription);
    stand.table.hears(&stand.publisher);
    stand.table.say(stand.publisher.session, ToDispatcher::AdvertiseDirect(stand.direct.clone()));
    assert_eq!(stand.wanted().len(), 1, "the one of the pattern");
}

#[test]
fn a_lane_is_linked_with_its_own_subscription_alone_and_reliable() {
    let mut stand = Stand::new();
    let workers = ["one", "two"].map(|name| stand.table.attach(name));
    let [one, two] = workers.each_ref().map(|it| stand.table.subscribe(it, "jobs", None));
    let lanes = [one, two].map(|it| stand.make_lane(it.subscription));
    for (worker, lane) in workers.iter().zip(lanes) {
        let links: Vec<_> = stand.table.registry.publications[&lane].links.iter().copied().collect();
        let [link] = links[..] else { panic!("{links:?}") };
        stand.make_ready(worker, link);
        let enter = enter_link(&stand.table.hears(worker)).unwrap();
        assert_eq!((enter.link, enter.reliable, enter.lane), (link, true, Some(0)));
    }
}

#[test]
fn a_lane_is_passed_on_to_whom_its_publisher_names() {
    let mut stand = Stand::new();
    let workers = ["one", "two"].map(|name| stand.table.attach(name));
    let [one, two] = workers.each_ref().map(|it| stand.table.subscribe(it, "jobs", None).subscription);
    let lane = stand.make_lane(one);
    stand.make_ready(&workers[0], link_of(lane, one));
    stand.table.kill(&workers[0]);
    stand.table.say(stand.publisher.session, ToDispatcher::LinkRemoved { link: link_of(lane, one) });
    assert!(stand.table.registry.links.is_empty());
    stand.table.hears(&workers[1]);
    let pass = ToDispatcher::PassLane { publication: lane, to: two, first: 7 };
    stand.table.say(stand.publisher.session, pass);
    stand.make_ready(&workers[1], link_of(lane, two));
    assert_eq!(enter_link(&stand.table.hears(&workers[1])).unwrap().lane, Some(7));
    // Once more, to somebody who is gone: nothing.
    let pass = ToDispatcher::PassLane { publication: lane, to: one, first: 9 };
    stand.table.say(stand.publisher.session, pass);
    assert_eq!(stand.table.registry.links.len(), 1);
}

#[test]
fn a_reader_without_a_session_keeps_its_lane_whole() {
    let mut stand = Stand::new();
    let worker = stand.table.attach("worker");
    let to = stand.table.subscribe(&worker, "jobs", None).subscription;
    let lane = stand.make_lane(to);
    stand.make_ready(&worker, link_of(lane, to));
    stand.table.hears(&stand.publisher);
    stand.table.hang_up(&worker);
    assert!(stand.table.hears(&stand.publisher).is_empty(), "not demoted");
    assert!(!stand.table.link(link_of(lane, to)).demoted);
}

#[test]
fn a_lane_that_cannot_be_made_is_not_waited_for_nor_asked_for_again() {
    let mut stand = Stand::new();
    let worker = stand.table.attach("worker");
    let to = stand.table.subscribe(&worker, "jobs", None).subscription;
    stand.table.hears(&worker);
    stand.table.failing = Some(|task| matches!(task, Task::Create(Handle::LogOf(_))));
    stand.make_lane(to);
    let about = refused(&stand.table.hears(&worker)).unwrap().0;
    assert_eq!(about, About::Link(link_of(stand.direct.publication.lane_to(to), to)));
    stand.table.hears(&stand.publisher);
    stand.table.say(stand.publisher.session, ToDispatcher::AdvertiseDirect(stand.direct.clone()));
    assert!(stand.wanted().is_empty());
}

#[test]
fn a_drained_lane_that_is_withdrawn_is_wanted_anew() {
    let mut stand = Stand::new();
    let worker = stand.table.attach("worker");
    let to = stand.table.subscribe(&worker, "jobs", None).subscription;
    let publication = stand.make_lane(to);
    stand.table.hears(&stand.publisher);
    stand.table.say(stand.publisher.session, ToDispatcher::Unadvertise { publication });
    assert_eq!(stand.wanted().len(), 1);
    // Not so when the direct publication went first.
    let publication = stand.make_lane(to);
    stand.table.hears(&stand.publisher);
    let direct = stand.direct.publication;
    for publication in [direct, publication] {
        stand.table.say(stand.publisher.session, ToDispatcher::Unadvertise { publication });
    }
    assert!(stand.wanted().is_empty());
}

#[test]
fn lanes_belong_to_the_node_of_their_publication() {
    let mut stand = Stand::new();
    let other = stand.table.attach("other");
    let to = stand.table.subscribe(&other, "jobs", None).subscription;
    let lane = Some(LaneOf { direct: stand.direct.publication, to, first: 0 });
    let advertise = Advertise { lane, ..stand.table.advertise("jobs", Schema::bytes()) };
    stand.table.say(other.session, ToDispatcher::Advertise(advertise));
    assert_eq!(refused(&stand.table.hears(&other)).unwrap().1, RefusalCode::Denied);
    // Nor is a direct publication another node's.
    stand.table.say(other.session, ToDispatcher::AdvertiseDirect(stand.direct.clone()));
    assert_eq!(refused(&stand.table.hears(&other)).unwrap().1, RefusalCode::Protocol);
}

#[test]
fn another_type_is_told_to_both_ends() {
    let mut stand = Stand::new();
    let worker = stand.table.attach("worker");
    stand.table.subscribe(&worker, "jobs", Some(Schema::text()));
    assert!(mismatch(&stand.table.hears(&worker)).is_some());
    assert!(mismatch(&stand.table.hears(&stand.publisher)).is_some());
    assert!(stand.wanted().is_empty());
}

#[test]
fn nothing_is_left_when_the_publisher_dies() {
    let mut stand = Stand::new();
    let worker = stand.table.attach("worker");
    let subscription = stand.table.subscribe(&worker, "jobs", None).subscription;
    stand.make_lane(subscription);
    stand.table.kill(&stand.publisher);
    assert!(stand.table.registry.directs.is_empty() && stand.table.registry.publications.is_empty());
    stand.table.say(worker.session, ToDispatcher::Unsubscribe { subscription });
    stand.table.kill(&worker);
    assert!(stand.table.registry.is_empty());
}

#[test]
fn a_dispatcher_that_knows_nothing_is_told_of_lanes_and_asks_for_the_missing_ones() {
    let mut stand = Stand::new();
    let mut worker = stand.table.attach("worker");
    let subscribe = stand.table.subscribe(&worker, "jobs", None);
    let publication = stand.make_lane(subscribe.subscription);
    stand.make_ready(&worker, link_of(publication, subscribe.subscription));
    let mut rows = Vec::new();
    let mut cursor = super::super::ListCursor::default();
    while let Some(row) = cursor.next_row(&stand.table.registry) {
        rows.push(row);
    }
    assert!(rows.iter().any(|row| matches!(row, Listing::Publication { topic, links: 1, .. } if topic == "jobs")));

    let mut next = Table::new();
    let mut publisher = stand.publisher.clone();
    next.come_back(&mut worker, &[(ToDispatcher::Subscribe(subscribe.clone()), 0)]);
    next.come_back(&mut publisher, &[(ToDispatcher::AdvertiseDirect(stand.direct.clone()), 0)]);
    let heard = next.hears(&publisher);
    assert!(
        heard
            .iter()
            .any(|it| matches!(it, ToNode::LaneWanted(wanted) if wanted.subscription == subscribe.subscription)),
        "{heard:?}"
    );
}

#[test]
fn a_subscription_without_weight_takes_nothing_of_direct_publishers() {
    let mut stand = Stand::new();
    let tap = stand.table.attach("tap");
    let subscription = SubscriptionId(stand.table.fresh_id());
    let subscribe =
        Subscribe { subscription, topic: "jobs".to_owned(), schema: None, reliable: true, weight: 0, across_ms: None };
    stand.table.say(tap.session, ToDispatcher::Subscribe(subscribe));
    let heard = stand.table.hears(&tap);
    assert!(matches!(&heard[..], [.., ToNode::Subscribed { expected, .. }] if expected.is_empty()), "{heard:?}");
    stand.table.say(stand.publisher.session, ToDispatcher::AdvertiseDirect(stand.direct.clone()));
    assert!(stand.wanted().is_empty());
}
