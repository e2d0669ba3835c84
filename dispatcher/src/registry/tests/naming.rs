//! Suffixes, unique names, names taken over, and names that come back to a dispatcher that has just started.

use nodeset_bus::protocol::{Claim, NameHolder};

use super::*;

impl Table {
    /// A node says hello for the first time; it may be refused.
    fn claim(&mut self, name: &str, claim: Claim, uid: u32) -> Who {
        let id = NodeId(self.fresh_id());
        self.hello(Hello { claim, ..Hello::new(id, name) }, uid)
    }

    /// A node comes from an earlier dispatcher, where it was called `held`.
    fn returns(&mut self, id: u64, base: &str, held: &str, claim: Claim) -> Who {
        self.hello(Hello { name: base.to_owned(), claim, ..Hello::back(NodeId(id), held) }, 1000)
    }

    fn hello(&mut self, hello: Hello, uid: u32) -> Who {
        let pid = 100 + hello.node.0 as u32;
        let who = Who { session: self.open(pid, uid), id: hello.node, pid, uid };
        let (returns, session) = (hello.handing_back, who.session);
        self.say_with(session, ToDispatcher::Hello(hello), if returns { 2 } else { 1 });
        self.say(session, if returns { ToDispatcher::HandedBack } else { ToDispatcher::PageReady });
        who
    }

    fn name(&self, who: &Who) -> &str {
        &self.registry.nodes[&who.id].name
    }

    fn is_known(&self, who: &Who) -> bool {
        self.registry.nodes.contains_key(&who.id)
    }
}

fn holder(name: &str, who: &Who, seconds: u64) -> NameHolder {
    NameHolder { name: name.to_owned(), pid: who.pid, uid: who.uid, seconds }
}

#[test]
fn an_address_means_all_that_asked_for_the_name() {
    let mut table = Table::new();
    let nodes = ["mnode", "mnode", "other", "mnode"].map(|name| table.attach(name));
    let named = |table: &Table, name| table.registry.nodes_named(name).collect::<Vec<_>>();
    assert_eq!(named(&table, "mnode"), [nodes[0].id, nodes[1].id, nodes[3].id]);
    assert_eq!(named(&table, "mnode-2"), [nodes[1].id]);
    assert_eq!(named(&table, "mnode-7"), []);
    let mut cursor = ListCursor::default();
    let listed: Vec<_> = std::iter::from_fn(|| cursor.next_row(&table.registry)).collect();
    let Listing::Node { state, attached: true } = &listed[1] else { panic!("{listed:?}") };
    assert_eq!((state.name.as_str(), state.base_name.as_str()), ("mnode-2", "mnode"));
}

#[test]
fn a_unique_name_that_is_taken_is_refused_with_who_has_it() {
    let mut table = Table::new();
    let first = table.claim("robot", Claim::Unique, 1000);
    assert_eq!(table.name(&first), "robot");
    table.pass(Duration::from_secs(12));
    let second = table.claim("robot", Claim::Unique, 1000);
    assert_eq!(table.hears(&second), [ToNode::NameTaken(holder("robot", &first, 12))]);
    assert!(!table.is_known(&second));
    // Who does not ask for a name of its own gets one, now as ever.
    let third = table.claim("robot", Claim::Suffix, 1000);
    assert_eq!(table.name(&third), "robot-2");
    // Its address would mean the one with the suffix as well.
    table.kill(&first);
    let fourth = table.claim("robot", Claim::Unique, 1000);
    assert_eq!(table.hears(&fourth), [ToNode::NameTaken(holder("robot-2", &third, 0))]);
    table.kill(&third);
    let fifth = table.claim("robot", Claim::Unique, 1000);
    assert_eq!(table.name(&fifth), "robot");
}

#[test]
fn a_name_is_taken_over_from_the_same_user_only() {
    let mut table = Table::new();
    let old = table.claim("robot", Claim::Unique, 1000);
    table.hears(&old);
    for stranger in [1001, 0] {
        let other = table.claim("robot", Claim::Replace, stranger);
        assert_eq!(table.hears(&other), [ToNode::NameTaken(holder("robot", &old, 0))]);
    }
    let new = table.claim("robot", Claim::Replace, 1000);
    assert_eq!(table.name(&new), "robot");
    assert_eq!(table.hears(&old), [ToNode::Replaced(holder("robot", &new, 0))]);
    let before = &table.registry.nodes[&old.id];
    assert_eq!((before.session, before.name.as_str()), (None, "robot-2"), "its process lives, and so does what it has");
    // It comes again when it is told to; its name is taken.
    let again = table.returns(old.id.0, "robot", "robot", Claim::Unique);
    assert_eq!(table.hears(&again), [ToNode::NameTaken(holder("robot", &new, 0))]);
    table.kill(&new);
    let again = table.returns(old.id.0, "robot", "robot", Claim::Unique);
    assert_eq!(names(&table.hears(&again)), ["Welcome"]);
    assert_eq!(table.name(&again), "robot");
}

#[test]
fn links_of_a_node_that_is_replaced_are_demoted_as_after_a_hang_up() {
    let mut pair = Pair::new(Until::LinkReady);
    pair.deaf();
    let new = pair.table.claim("viewer", Claim::Replace, 1000);
    assert_eq!(names(&pair.subscriber_hears()), ["Replaced"]);
    assert_eq!(pair.publisher_hears(), [ToNode::Demote { link: pair.id }]);
    assert!(pair.exists() && pair.table.link(pair.id).demoted);
    // The one that took the name gets links of its own.
    pair.table.hears(&new);
    pair.table.subscribe(&new, "image", None);
    assert!(list_link(&pair.publisher_hears()).is_some());
}

#[test]
fn one_that_had_no_session_learns_that_it_was_replaced_when_it_comes() {
    let mut table = Table::new();
    let old = table.claim("robot", Claim::Suffix, 1000);
    table.publish(&old, "a", Schema::bytes());
    table.hang_up(&old);
    let new = table.claim("robot", Claim::Replace, 1000);
    assert_eq!(table.name(&new), "robot");
    let comes = table.returns(old.id.0, "robot", "robot", Claim::Suffix);
    assert_eq!(table.hears(&comes), [ToNode::Replaced(holder("robot", &new, 0))]);
    // It was told; when it comes nevertheless, somebody wants it to.
    let comes = table.returns(old.id.0, "robot", "robot", Claim::Suffix);
    assert!(matches!(&table.hears(&comes)[0], ToNode::Welcome(welcome) if welcome.name == "robot-2"));
}

#[test]
fn names_come_back_to_those_who_had_them_in_any_order() {
    let held = [(11, "mnode"), (12, "mnode-2"), (13, "mnode-3")];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut table = Table::new();
        for at in order {
            let (id, name) = held[at];
            let who = table.returns(id, "mnode", name, Claim::Suffix);
            assert_eq!(table.name(&who), name);
        }
        assert_eq!(table.registry.nodes_named("mnode").count(), 3);
    }
}

#[test]
fn a_new_node_makes_way_for_the_one_that_had_its_name_while_it_may_come_back() {
    let mut table = Table::new();
    table.last_id = 50;
    let new = table.claim("robot", Claim::Suffix, 1000);
    let unique = table.claim("arm", Claim::Unique, 1000);
    table.hears(&new);
    table.hears(&unique);
    let old = table.returns(90, "robot", "robot", Claim::Suffix);
    assert_eq!((table.name(&old), table.name(&new)), ("robot", "robot-2"));
    assert_eq!(table.hears(&new), [ToNode::Renamed { name: "robot-2".to_owned() }]);
    let old = table.returns(91, "arm", "arm", Claim::Suffix);
    assert_eq!(table.hears(&unique), [ToNode::Replaced(holder("arm", &old, 0))]);
    assert_eq!(table.name(&old), "arm");

    // Later, who has a name keeps it.
    table.pass(GRACE);
    let new = table.claim("late", Claim::Suffix, 1000);
    table.hears(&new);
    let old = table.returns(92, "late", "late", Claim::Suffix);
    assert_eq!((table.name(&old), table.name(&new)), ("late-2", "late"));
    assert!(table.hears(&new).is_empty());
    let old = table.returns(93, "late", "late", Claim::Unique);
    assert_eq!(table.hears(&old), [ToNode::NameTaken(holder("late", &new, 0))]);
}

#[test]
fn two_that_had_one_name_get_it_alike_in_either_order() {
    for order in [[21, 22], [22, 21]] {
        let mut table = Table::new();
        for id in order {
            table.returns(id, "robot", "robot", Claim::Suffix);
        }
        let named = |id| table.registry.nodes[&NodeId(id)].name.as_str();
        assert_eq!((named(21), named(22)), ("robot", "robot-2"), "{order:?}");
    }
}

#[test]
fn the_name_of_one_that_hung_up_stays_its_own() {
    let mut table = Table::new();
    let node = table.claim("robot", Claim::Suffix, 1000);
    table.publish(&node, "a", Schema::bytes());
    table.hang_up(&node);
    table.pass(GRACE * 10);
    let other = table.claim("robot", Claim::Suffix, 1000);
    assert_eq!(table.name(&other), "robot-2");
    let back = table.returns(node.id.0, "robot", "robot", Claim::Suffix);
    assert_eq!(table.name(&back), "robot");
}

#[test]
fn a_name_that_was_held_is_checked_like_any_other() {
    let mut table = Table::new();
    let who = table.returns(5, "good", "bad name", Claim::Suffix);
    assert_eq!(refused(&table.hears(&who)).unwrap().1, RefusalCode::Invalid);
    assert!(!table.is_known(&who));
}

#[test]
fn nobody_is_renamed_beyond_the_longest_name() {
    let mut table = Table::new();
    let longest = "n".repeat(255);
    let old = table.claim(&longest, Claim::Suffix, 1000);
    let new = table.claim(&longest, Claim::Replace, 1000);
    assert_eq!(table.hears(&new), [ToNode::NameTaken(holder(&longest, &old, 0))]);
    assert_eq!(table.name(&old), longest);
    let third = table.claim(&longest, Claim::Suffix, 1000);
    assert_eq!(refused(&table.hears(&third)).unwrap().1, RefusalCode::Invalid);
}
