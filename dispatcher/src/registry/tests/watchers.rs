//! What those hear who watch the nodes of a host.

use nodeset_bus::protocol::{Health, NodeState};

use super::*;

fn state(who: &Who, name: &str, health: Health) -> NodeState {
    NodeState {
        node: who.id,
        name: name.to_owned(),
        base_name: name.trim_end_matches("-2").to_owned(),
        pid: who.pid,
        uid: who.uid,
        health,
    }
}

fn is(who: &Who, name: &str, health: Health) -> ToNode {
    ToNode::NodeIs(state(who, name, health))
}

impl Table {
    fn watcher(&mut self) -> Who {
        let watcher = self.attach("watcher");
        self.say(watcher.session, ToDispatcher::WatchNodes);
        watcher
    }

    fn feels(&mut self, who: &Who, health: Health) {
        self.handle(Input::Health { node: who.id, health });
    }
}

#[test]
fn who_watches_hears_of_those_who_are_there_come_and_go() {
    let mut table = Table::new();
    let early = table.attach("early");
    let silent = table.attach("early");
    let watcher = table.watcher();
    let heard = table.hears(&watcher);
    let wanted = [
        is(&early, "early", Health::Alive),
        is(&silent, "early-2", Health::Alive),
        is(&watcher, "watcher", Health::Alive),
    ];
    assert_eq!(heard, wanted);
    let late = table.attach("late");
    assert_eq!(table.hears(&watcher), [is(&late, "late", Health::Alive)]);
    table.kill(&late);
    table.say(early.session, ToDispatcher::Goodbye);
    let gone = |who: &Who, died| ToNode::NodeGone { node: who.id, died };
    assert_eq!(table.hears(&watcher), [gone(&late, true), gone(&early, false)]);
    // A hang-up is no end; others are told nothing of it.
    table.publish(&silent, "a", Schema::bytes());
    table.hang_up(&silent);
    assert!(table.hears(&watcher).is_empty() && table.hears(&silent).iter().all(|it| !matches!(it, ToNode::NodeIs(_))));
    // Its own session is over: nobody is told for it any more.
    table.hang_up(&watcher);
    table.kill(&silent);
    assert!(table.hears(&watcher).is_empty());
}

#[test]
fn health_is_told_once_and_listed() {
    let mut table = Table::new();
    let node = table.attach("node");
    let watcher = table.watcher();
    table.hears(&watcher);
    for health in [Health::Slow, Health::Slow, Health::Stopped, Health::Alive, Health::Alive] {
        table.feels(&node, health);
    }
    let told = [Health::Slow, Health::Stopped, Health::Alive].map(|health| is(&node, "node", health));
    assert_eq!(table.hears(&watcher), told);
    table.feels(&node, Health::Stopped);
    let row = ListCursor::default().next_row(&table.registry).unwrap();
    let state = state(&node, "node", Health::Stopped);
    assert_eq!(row, Listing::Node { state, attached: true });
    // Nothing else happens to it, and of one that is gone nothing is told.
    assert!(table.hears(&node).iter().all(|it| matches!(it, ToNode::Welcome(_))));
    table.kill(&node);
    table.feels(&node, Health::Alive);
    assert_eq!(table.hears(&watcher)[1..], [ToNode::NodeGone { node: node.id, died: true }]);
}

#[test]
fn nobody_waits_for_a_publisher_or_subscriber_that_is_slow_or_stopped() {
    for health in [Health::Slow, Health::Stopped] {
        let mut table = Table::new();
        let (publisher, subscriber) = (table.attach("publisher"), table.attach("subscriber"));
        table.publish(&publisher, "a", Schema::bytes());
        table.subscribe(&subscriber, "b", None);
        table.hears(&publisher);
        let expected = |heard: &[ToNode]| {
            let found = heard.iter().find_map(|it| match it {
                ToNode::Subscribed { expected, .. } | ToNode::Advertised { expected, .. } => Some(expected[0].late),
                _ => None,
            });
            found.expect("an answer")
        };
        for (now, wanted) in [(Health::Alive, false), (health, true)] {
            table.feels(&publisher, now);
            table.feels(&subscriber, now);
            let asks = table.attach("asks");
            table.subscribe(&asks, "a", None);
            assert_eq!(expected(&table.hears(&asks)), wanted, "{now}");
            // The link is asked for nevertheless, and made when it answers.
            assert!(list_link(&table.hears(&publisher)).is_some(), "{now}");
            table.publish(&asks, "b", Schema::bytes());
            assert_eq!(expected(&table.hears(&asks)), wanted, "{now}");
        }
    }
}

#[test]
fn who_waits_for_a_link_is_told_when_its_other_end_gets_late() {
    for (until, late) in STATES.into_iter().flat_map(|until| [(until, Health::Slow), (until, Health::Stopped)]) {
        let mut pair = Pair::new(until);
        pair.deaf();
        let wanted = if until == Until::LinkReady { vec![] } else { vec![ToNode::LinkLate { link: pair.id }] };
        let (publisher, subscriber) = (pair.publisher.clone(), pair.subscriber.clone());
        pair.table.feels(&publisher, late);
        assert_eq!(pair.subscriber_hears(), wanted, "{until:?}");
        pair.table.feels(&publisher, Health::Alive);
        pair.table.feels(&subscriber, late);
        assert_eq!((pair.publisher_hears(), pair.subscriber_hears()), (wanted, vec![]), "{until:?}");
        // It is made all the same.
        if until < Until::EnterLink {
            pair.listed();
        }
        if until < Until::LinkReady {
            pair.entered();
        }
        assert!(pair.table.link(pair.id).is_ready());
    }
}

#[test]
fn a_new_dispatcher_says_when_all_who_could_come_back_had_the_time_to() {
    let mut table = Table::new();
    assert_eq!(table.registry.poll_timeout(), None, "nobody wants to know");
    let first = table.watcher();
    assert!(!table.hears(&first).contains(&ToNode::NodesComplete));
    assert_eq!(table.registry.poll_timeout(), Some(table.registry.settles_at()));
    table.pass(GRACE);
    assert_eq!(table.hears(&first), [ToNode::NodesComplete]);
    assert_eq!(table.registry.poll_timeout(), None);
    let second = table.watcher();
    assert_eq!(table.hears(&second).last(), Some(&ToNode::NodesComplete));
}

#[test]
fn a_tool_may_watch() {
    let mut table = Table::new();
    let node = table.attach("node");
    let session = table.open(5, 1000);
    table.say(session, ToDispatcher::Hello(Hello::tool(NodeId(500), "tool")));
    table.say(session, ToDispatcher::WatchNodes);
    let heard: Vec<_> = table.told.remove(&session).unwrap().into();
    assert_eq!(heard[1..], [is(&node, "node", Health::Alive)]);
}
