//! Random histories of a whole host: nodes that keep what real ones keep, messages that are on their way in both directions,
//! deaths, hang-ups, and dispatchers that are restarted. What a line is used for is judged by what the *nodes* do with it.

use std::ops::RangeInclusive;

use nodeset_bus::protocol::{End, EndReason, HeldLink, Welcome};
use proptest::collection::vec;
use proptest::prelude::*;

use nodeset_bus::topic::{self, Selector, Topic};

use super::*;

const NODES: usize = 4;
const TOPICS: [&str; 3] = ["a", "b", "c/d"];
/// What is subscribed.
const SELECTORS: [&str; 9] = ["a", "b", "c/d", "*", "**", "c/*", "**/d/**", "*@local/b", "*@elsewhere/**"];

/// What may happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Attach {
        node: usize,
    },
    Publish {
        node: usize,
        topic: usize,
        text: bool,
    },
    Subscribe {
        node: usize,
        selector: usize,
        schema: Option<bool>,
        reliable: bool,
    },
    Withdraw {
        node: usize,
        which: usize,
    },
    Unsubscribe {
        node: usize,
        which: usize,
        link_by_link: bool,
    },
    /// The node reads some of what it was told.
    Read {
        node: usize,
        count: usize,
    },
    /// The dispatcher reads some of what a node said; of what may come twice, everything comes twice.
    Say {
        node: usize,
        count: usize,
        twice: bool,
    },
    /// The log of a link that ended was drained.
    Drain {
        node: usize,
        which: usize,
    },
    /// A reader finds that it was demoted.
    Evicted {
        node: usize,
        which: usize,
    },
    /// A publisher finds that a subscriber's process is dead.
    Bury {
        node: usize,
    },
    HangUp {
        node: usize,
    },
    Goodbye {
        node: usize,
    },
    Kill {
        node: usize,
        dead_first: bool,
    },
    Restart,
    Pass,
    /// The next thing that is to be made cannot be made.
    Fail {
        what: usize,
    },
}

const FAILURES: [fn(Task) -> bool; 4] = [
    |task| matches!(task, Task::Create(Handle::LogOf(_))),
    |task| matches!(task, Task::Create(Handle::BellOf(..))),
    |task| matches!(task, Task::Create(Handle::SignalOf(..))),
    |task| matches!(task, Task::Check(Handle::LogOf(_))),
];

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    let topic = 0..TOPICS.len();
    let which = 0..8usize;
    prop_oneof![
        4 => node.clone().prop_map(|node| Step::Attach { node }),
        6 => (node.clone(), topic, prop::bool::weighted(0.2))
            .prop_map(|(node, topic, text)| Step::Publish { node, topic, text }),
        6 => (node.clone(), 0..SELECTORS.len(), prop::option::of(prop::bool::weighted(0.2)), any::<bool>())
            .prop_map(|(node, selector, schema, reliable)| Step::Subscribe { node, selector, schema, reliable }),
        2 => (node.clone(), which.clone()).prop_map(|(node, which)| Step::Withdraw { node, which }),
        2 => (node.clone(), which.clone(), any::<bool>())
            .prop_map(|(node, which, link_by_link)| Step::Unsubscribe { node, which, link_by_link }),
        12 => (node.clone(), 1..8usize).prop_map(|(node, count)| Step::Read { node, count }),
        12 => (node.clone(), 1..8usize, any::<bool>()).prop_map(|(node, count, twice)| Step::Say { node, count, twice }),
        3 => (node.clone(), which.clone()).prop_map(|(node, which)| Step::Drain { node, which }),
        2 => (node.clone(), which).prop_map(|(node, which)| Step::Evicted { node, which }),
        1 => node.clone().prop_map(|node| Step::Bury { node }),
        2 => node.clone().prop_map(|node| Step::HangUp { node }),
        1 => node.clone().prop_map(|node| Step::Goodbye { node }),
        1 => (node, any::<bool>()).prop_map(|(node, dead_first)| Step::Kill { node, dead_first }),
        1 => Just(Step::Restart),
        1 => Just(Step::Pass),
        1 => (0..FAILURES.len()).prop_map(|what| Step::Fail { what }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, no panic, no broken invariant, no line with two users; and once everything has calmed down, each
    /// publication is linked with each subscription that wants it, and nothing else is left.
    #[test]
    fn any_history_ends_well(steps in vec(step(), 0..250)) {
        let mut host = Host::new();
        for step in steps {
            host.step(step);
            host.check_lines();
        }
        host.calm_down();
        host.check_links();
        host.check_names();
        host.end();
    }
}

/// A link as one end holds it.
#[derive(Debug, Clone, Copy)]
struct Mine {
    peer: NodeId,
    line: u32,
    tag: u16,
    reliable: bool,
    demoted: bool,
    ended: bool,
}

/// What a node knows.
#[derive(Debug)]
struct Node {
    who: Who,
    /// As it was told last.
    name: Option<String>,
    attached: bool,
    /// It was welcomed by the dispatcher to which it is attached.
    welcomed: bool,
    /// It has its page.
    greeted: bool,
    outbox: VecDeque<(ToDispatcher, usize)>,
    /// With the slot, once it is live.
    publications: BTreeMap<PublicationId, (Advertise, bool)>,
    subscriptions: BTreeMap<SubscriptionId, (Subscribe, bool)>,
    listed: BTreeMap<LinkId, Mine>,
    entered: BTreeMap<LinkId, Mine>,
    /// Whether with the signal page.
    peers: BTreeMap<NodeId, bool>,
    bells: BTreeSet<u32>,
    signals: BTreeSet<u32>,
}

struct Host {
    table: Table,
    nodes: Vec<Node>,
    dead: BTreeSet<NodeId>,
    restarts: u16,
    /// Pairs that were told that there will be no link.
    given_up: BTreeSet<(PublicationId, SubscriptionId)>,
}

impl Host {
    fn new() -> Host {
        let mut table = Table::new();
        let nodes = (0..NODES).map(|at| Node::new(&mut table, at)).collect();
        Host { table, nodes, dead: BTreeSet::new(), restarts: 0, given_up: BTreeSet::new() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Attach { node } => self.attach(node),
            Step::Publish { node, topic, text } => {
                let schema = if text { Schema::text() } else { Schema::bytes() };
                let advertise = self.table.advertise(TOPICS[topic], schema);
                let node = &mut self.nodes[node];
                node.say(ToDispatcher::Advertise(advertise.clone()));
                node.publications.insert(advertise.publication, (advertise, false));
            }
            Step::Subscribe { node, selector, schema, reliable } => {
                let subscription = SubscriptionId(self.table.fresh_id());
                let schema = schema.map(|text| if text { Schema::text() } else { Schema::bytes() });
                let subscribe = Subscribe {
                    subscription,
                    topic: SELECTORS[selector].to_owned(),
                    schema,
                    reliable,
                    weight: 1,
                    across_ms: None,
                };
                let node = &mut self.nodes[node];
                node.say(ToDispatcher::Subscribe(subscribe.clone()));
                node.subscriptions.insert(subscription, (subscribe, false));
            }
            Step::Withdraw { node, which } => self.nodes[node].withdraw(which),
            Step::Unsubscribe { node, which, link_by_link } => self.nodes[node].unsubscribe(which, link_by_link),
            Step::Read { node, count } => self.read(node, count),
            Step::Say { node, count, twice } => self.say(node, count, twice),
            Step::Drain { node, which } => self.nodes[node].drain(which),
            Step::Evicted { node, which } => self.evict(node, which),
            Step::Bury { node } => self.bury(node),
            Step::HangUp { node } => self.hang_up(node),
            Step::Goodbye { node } => self.leave(node),
            Step::Kill { node, dead_first } => self.kill(node, dead_first),
            Step::Restart => self.restart(),
            Step::Pass => self.table.pass(GRACE / 2),
            Step::Fail { what } => self.table.failing = Some(FAILURES[what]),
        }
    }

    /// A node that says goodbye says nothing after it; another one takes its seat.
    fn leave(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.welcomed {
            node.say(ToDispatcher::Goodbye);
            self.dead.insert(node.who.id);
            self.say(at, usize::MAX, false);
            self.nodes[at] = Node::new(&mut self.table, at);
        }
    }

    fn attach(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.attached {
            return;
        }
        node.attached = true;
        node.who.session = self.table.open(node.who.pid, node.who.uid);
        let held_name = node.name.clone().filter(|_| node.greeted);
        let hello = Hello { handing_back: node.greeted, held_name, ..Hello::new(node.who.id, "n") };
        node.outbox.push_back((ToDispatcher::Hello(hello), if node.greeted { 2 } else { 1 }));
    }

    fn hang_up(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.attached {
            node.cut_off();
            let who = node.who.clone();
            self.table.hang_up(&who);
            self.table.hears(&who);
        }
    }

    fn kill(&mut self, at: usize, dead_first: bool) {
        let who = self.nodes[at].who.clone();
        if dead_first {
            self.table.handle(Input::Died { node: who.id });
        }
        if self.nodes[at].attached {
            self.table.hang_up(&who);
        }
        self.table.handle(Input::Died { node: who.id });
        self.table.hears(&who);
        self.dead.insert(who.id);
        self.nodes[at] = Node::new(&mut self.table, at);
    }

    fn restart(&mut self) {
        self.restarts += 1;
        let seed = u64::from(self.restarts) * 1000;
        self.table.registry = Registry::new(Settings { seed, started: self.table.now, ..settings() });
        self.table.held.clear();
        self.table.told.clear();
        for node in &mut self.nodes {
            node.cut_off();
        }
    }

    fn bury(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let buried: Vec<_> =
            node.listed.iter().filter(|(_, mine)| self.dead.contains(&mine.peer)).map(|(&link, _)| link).collect();
        for link in buried {
            node.listed.remove(&link);
            node.say(ToDispatcher::LinkRemoved { link });
        }
        for mine in node.entered.values_mut().filter(|mine| self.dead.contains(&mine.peer)) {
            mine.ended = true;
        }
    }

    /// A reader learns from the log that its publisher demoted it; it leaves in order to be linked afresh.
    fn evict(&mut self, at: usize, which: usize) {
        let demoted: Vec<_> = self.nodes[at]
            .entered
            .keys()
            .filter(|link| self.nodes.iter().any(|it| it.listed.get(link).is_some_and(|mine| mine.demoted)))
            .copied()
            .collect();
        let node = &mut self.nodes[at];
        // It gives up its link only while it is attached.
        if let Some(&link) = pick(&demoted, which).filter(|_| node.welcomed) {
            node.entered.remove(&link);
            node.say(ToDispatcher::LinkLeft { link, evicted: false });
        }
    }

    fn say(&mut self, at: usize, count: usize, twice: bool) {
        for _ in 0..count {
            let node = &mut self.nodes[at];
            let session = node.who.session;
            let Some((message, descriptors)) = node.outbox.pop_front() else { return };
            // What a relink could cross comes once; a hello does by rule.
            let repeatable = matches!(
                message,
                ToDispatcher::LinkListed { .. }
                    | ToDispatcher::LinkEntered { .. }
                    | ToDispatcher::Advertise(_)
                    | ToDispatcher::LogReady { .. }
                    | ToDispatcher::Unadvertise { .. }
                    | ToDispatcher::Subscribe(_)
                    | ToDispatcher::Unsubscribe { .. }
                    | ToDispatcher::HeldLink(_)
            );
            if twice && repeatable {
                self.table.say_with(session, message.clone(), descriptors);
            }
            self.table.say_with(session, message, descriptors);
        }
    }

    fn read(&mut self, at: usize, count: usize) {
        let session = self.nodes[at].who.session;
        for _ in 0..count {
            let Some(message) = self.table.told.get_mut(&session).and_then(VecDeque::pop_front) else { return };
            if let ToNode::Refused { about, code, text } = &message {
                match about {
                    About::Link(link) => {
                        self.given_up.insert((link.publication, link.subscription));
                    }
                    // What was said twice, after the first one was refused.
                    About::Publication(_) if *code == RefusalCode::Protocol => {}
                    // What could not be made.
                    About::Publication(publication) if *code == RefusalCode::Limit => {
                        self.nodes[at].publications.remove(publication);
                    }
                    _ => panic!("{about:?} {code:?} {text}"),
                }
            }
            self.nodes[at].on_message(message);
        }
    }

    /// Everybody comes back, everything is said and read, all time is over.
    fn calm_down(&mut self) {
        self.table.failing = None;
        for round in 0.. {
            assert!(round < 100, "it never comes to rest");
            let mut quiet = true;
            for at in 0..NODES {
                quiet &= self.nodes[at].attached;
                self.attach(at);
                self.bury(at);
                while self.nodes[at].entered.values().any(|mine| mine.ended) {
                    self.nodes[at].drain(0);
                }
                self.evict(at, 0);
            }
            for at in 0..NODES {
                quiet &= self.nodes[at].outbox.is_empty();
                self.say(at, usize::MAX, false);
                let session = self.nodes[at].who.session;
                quiet &= self.table.told.get(&session).is_none_or(VecDeque::is_empty);
                self.read(at, usize::MAX);
                self.check_lines();
            }
            if quiet && self.table.registry.poll_timeout().is_none() {
                return;
            }
            if quiet {
                self.table.pass(GRACE);
            }
        }
    }

    /// No line of a page is used for two links, by whoever looks at it or writes it.
    fn check_lines(&self) {
        let mut users: BTreeMap<(NodeId, u32, u16), LinkId> = BTreeMap::new();
        for node in &self.nodes {
            let listed = node.listed.iter().map(|(id, mine)| (mine.peer, id, mine));
            let entered = node.entered.iter().map(|(id, mine)| (node.who.id, id, mine));
            for (page, &id, mine) in listed.chain(entered) {
                // A dispatcher that was restarted knows not what is still on the way to be handed back, but it uses other
                // tags, under which nobody takes a word for another link's.
                let tag = if self.restarts == 0 { 0 } else { mine.tag };
                let other = *users.entry((page, mine.line, tag)).or_insert(id);
                assert_eq!(other, id, "line {} of {page}, tag {}", mine.line, mine.tag);
            }
        }
    }

    /// Each publication is linked with each subscription that wants it, at both ends alike, and nothing else is left.
    fn check_links(&self) {
        let mut wanted = BTreeSet::new();
        for from in &self.nodes {
            for (advertise, live) in from.publications.values() {
                assert!(live, "{advertise:?}");
                for to in &self.nodes {
                    for (subscribe, live) in to.subscriptions.values() {
                        assert!(live, "{subscribe:?}");
                        let link = LinkId {
                            publication: advertise.publication,
                            epoch: advertise.epoch,
                            subscription: subscribe.subscription,
                        };
                        let matches = subscribe.schema.as_ref().is_none_or(|it| it.matches(&advertise.schema));
                        let given_up = self.given_up.contains(&(link.publication, link.subscription));
                        let selector = Selector::new(&subscribe.topic).unwrap();
                        let meant = selector.matches(&Topic::new(&advertise.topic).unwrap());
                        let here = selector.target().is_none_or(|it| it.host == topic::Host::Local);
                        if !meant || !here || !matches || given_up {
                            continue;
                        }
                        wanted.insert(link);
                        let (Some(listed), Some(entered)) = (from.listed.get(&link), to.entered.get(&link)) else {
                            let state = self.table.registry.links.get(&link);
                            panic!(
                                "{link:?} is not there: {:?}, {:?}, {state:?}",
                                from.listed.get(&link),
                                to.entered.get(&link)
                            );
                        };
                        assert_eq!(
                            (listed.peer, listed.line, listed.tag, listed.reliable),
                            (to.who.id, entered.line, entered.tag, entered.reliable)
                        );
                        assert_eq!((entered.peer, entered.reliable), (from.who.id, subscribe.reliable));
                        assert!(!listed.demoted && !entered.ended);
                        let known = self.table.link(link);
                        assert!(known.is_ready() && known.announced, "{known:?}");
                        assert_eq!((known.line, known.tag), (listed.line, listed.tag));
                    }
                }
            }
        }
        let all = self.nodes.iter().flat_map(|node| node.listed.keys().chain(node.entered.keys()));
        let all: BTreeSet<_> = all.chain(self.table.registry.links.keys()).copied().collect();
        let beyond: Vec<_> = all
            .difference(&wanted)
            .filter(|link| !self.given_up.contains(&(link.publication, link.subscription)))
            .collect();
        assert!(beyond.is_empty(), "{beyond:?}");
    }

    /// Each node knows the name that it has.
    fn check_names(&self) {
        for node in self.nodes.iter().filter(|node| node.welcomed) {
            assert_eq!(node.name.as_ref(), Some(&self.table.registry.nodes[&node.who.id].name));
        }
    }

    /// All die: nothing is left.
    fn end(&mut self) {
        for at in 0..NODES {
            self.kill(at, at % 2 == 0);
        }
        assert!(self.table.registry.is_empty(), "{:?}", self.table.registry);
        assert!(self.table.held.is_empty(), "{:?}", self.table.held);
    }
}

fn pick<T>(from: &[T], which: usize) -> Option<&T> {
    if from.is_empty() { None } else { from.get(which % from.len()) }
}

/// All links of one publication.
fn links_of(publication: PublicationId, epoch: u64) -> RangeInclusive<LinkId> {
    LinkId { publication, epoch, subscription: SubscriptionId(0) }..=LinkId {
        publication,
        epoch,
        subscription: SubscriptionId(u64::MAX),
    }
}

impl Node {
    fn new(table: &mut Table, at: usize) -> Node {
        let id = NodeId(table.fresh_id());
        // One of them is root's.
        let uid = if at == 0 { 0 } else { 1000 };
        Node {
            who: Who { session: SessionId(0), id, pid: 100 + id.0 as u32, uid },
            name: None,
            attached: false,
            welcomed: false,
            greeted: false,
            outbox: VecDeque::new(),
            publications: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            listed: BTreeMap::new(),
            entered: BTreeMap::new(),
            peers: BTreeMap::new(),
            bells: BTreeSet::new(),
            signals: BTreeSet::new(),
        }
    }

    fn say(&mut self, message: ToDispatcher) {
        if self.welcomed {
            self.outbox.push_back((message, 0));
        }
    }

    /// The session ended; what was on the way is lost.
    fn cut_off(&mut self) {
        self.attached = false;
        self.welcomed = false;
        self.outbox.clear();
    }

    fn withdraw(&mut self, which: usize) {
        let all: Vec<_> = self.publications.keys().copied().collect();
        let Some(&publication) = pick(&all, which) else { return };
        let epoch = self.publications.remove(&publication).unwrap().0.epoch;
        let links: Vec<_> = self.listed.range(links_of(publication, epoch)).map(|(&link, _)| link).collect();
        for link in links {
            self.listed.remove(&link);
        }
        self.say(ToDispatcher::Unadvertise { publication });
    }

    fn unsubscribe(&mut self, which: usize, link_by_link: bool) {
        let all: Vec<_> = self.subscriptions.keys().copied().collect();
        let Some(&subscription) = pick(&all, which) else { return };
        self.subscriptions.remove(&subscription);
        let links: Vec<_> = self.entered.keys().filter(|link| link.subscription == subscription).copied().collect();
        for link in links {
            self.entered.remove(&link);
            if link_by_link {
                self.say(ToDispatcher::LinkLeft { link, evicted: false });
            }
        }
        self.say(ToDispatcher::Unsubscribe { subscription });
    }

    fn drain(&mut self, which: usize) {
        let ended: Vec<_> = self.entered.iter().filter(|(_, mine)| mine.ended).map(|(&link, _)| link).collect();
        if let Some(&link) = pick(&ended, which) {
            self.entered.remove(&link);
            self.say(ToDispatcher::LinkLeft { link, evicted: false });
        }
    }

    fn on_message(&mut self, message: ToNode) {
        match message {
            ToNode::Welcome(welcome) => self.on_welcome(welcome),
            ToNode::LogGranted { publication, slot, .. } => match self.publications.get_mut(&publication) {
                Some((advertise, _)) => {
                    advertise.slot = Some(slot);
                    self.say(ToDispatcher::LogReady { publication });
                }
                None => self.say(ToDispatcher::Unadvertise { publication }),
            },
            ToNode::Advertised { publication, .. } => match self.publications.get_mut(&publication) {
                Some((_, live)) => *live = true,
                None => self.say(ToDispatcher::Unadvertise { publication }),
            },
            ToNode::Subscribed { subscription, .. } => match self.subscriptions.get_mut(&subscription) {
                Some((_, live)) => *live = true,
                None => self.say(ToDispatcher::Unsubscribe { subscription }),
            },
            ToNode::LaneWanted(wanted) => panic!("nobody publishes directly here: {wanted:?}"),
            ToNode::Peer(peer) => {
                self.peers.entry(peer.node).or_insert(false);
            }
            ToNode::Signal { node } => *self.peers.get_mut(&node).expect("`Signal` before `Peer`") = true,
            ToNode::OwnBell { uid } => {
                self.bells.insert(uid);
            }
            ToNode::OwnSignal { uid } => {
                self.signals.insert(uid);
            }
            ToNode::ForgetPeer { node, .. } => {
                let mut mine = self.listed.iter().chain(&self.entered);
                if let Some(held) = mine.find(|(_, mine)| mine.peer == node) {
                    panic!("told to forget {node}, with which it shares {held:?}");
                }
                self.peers.remove(&node);
            }
            ToNode::ListLink(link) => self.list(link),
            ToNode::EnterLink(link) => self.enter(link),
            ToNode::Demote { link } => {
                if let Some(mine) = self.listed.get_mut(&link) {
                    mine.demoted = true;
                }
            }
            ToNode::RemoveLink { link, .. } => {
                self.listed.remove(&link);
                self.say(ToDispatcher::LinkRemoved { link });
            }
            ToNode::LinkEnded { link, .. } => match self.entered.get_mut(&link) {
                Some(mine) => mine.ended = true,
                None => self.say(ToDispatcher::LinkLeft { link, evicted: false }),
            },
            ToNode::LinkLate { .. }
            | ToNode::LinkReady { .. }
            | ToNode::Mismatch(_)
            | ToNode::Denied { .. }
            | ToNode::Refused { .. } => {}
            ToNode::Renamed { name } => self.name = Some(name),
            ToNode::Listing(_)
            | ToNode::ListingEnd
            | ToNode::Leaving
            | ToNode::NameTaken(_)
            | ToNode::Replaced(_)
            | ToNode::NodeIs(_)
            | ToNode::NodeGone { .. }
            | ToNode::NodesComplete => panic!("nobody asked: {message:?}"),
        }
    }

    fn on_welcome(&mut self, welcome: Welcome) {
        self.name = Some(welcome.name);
        self.welcomed = true;
        if self.greeted {
            self.hand_back();
        } else {
            self.greeted = true;
            self.say(ToDispatcher::PageReady);
        }
        for (advertise, live) in self.publications.values_mut().filter(|(_, live)| !live) {
            assert!(!*live);
            advertise.slot = None;
        }
        let publications: Vec<_> = self.publications.values().filter(|(_, live)| !live).cloned().collect();
        for (advertise, _) in publications {
            self.say(ToDispatcher::Advertise(advertise));
        }
        let subscriptions: Vec<_> = self.subscriptions.values().filter(|(_, live)| !live).cloned().collect();
        for (subscribe, _) in subscriptions {
            self.say(ToDispatcher::Subscribe(subscribe));
        }
    }

    fn hand_back(&mut self) {
        let bells = self.bells.iter().map(|&uid| (ToDispatcher::Bell { uid }, 1));
        let signals = self.signals.iter().map(|&uid| (ToDispatcher::Signal { uid }, 1));
        let publications = self.publications.values().filter(|(_, live)| *live);
        let publications = publications.map(|(advertise, _)| (ToDispatcher::Advertise(advertise.clone()), 1));
        let subscriptions = self.subscriptions.values().filter(|(_, live)| *live);
        let subscriptions = subscriptions.map(|(subscribe, _)| (ToDispatcher::Subscribe(subscribe.clone()), 0));
        let links = [(&self.listed, End::Publisher), (&self.entered, End::Subscriber)];
        let links = links.into_iter().flat_map(|(links, end)| {
            links.iter().map(move |(&link, mine)| {
                let &Mine { peer, line, tag, reliable, demoted, .. } = mine;
                (ToDispatcher::HeldLink(HeldLink { link, peer, end, line, tag, reliable, demoted }), 0)
            })
        });
        let all = bells.chain(signals).chain(publications).chain(subscriptions).chain(links);
        self.outbox.extend(all);
        self.outbox.push_back((ToDispatcher::HandedBack, 0));
    }

    fn list(&mut self, link: ListLink) {
        let ListLink { link: id, subscriber, line, tag, reliable } = link;
        assert!(self.peers.contains_key(&subscriber), "`ListLink` before `Peer`");
        if self.publications.contains_key(&id.publication) {
            assert!(self.signals.len() + self.bells.len() >= 2, "`ListLink` before `OwnSignal` and `OwnBell`");
            let mine = Mine { peer: subscriber, line, tag, reliable, demoted: false, ended: false };
            let before = self.listed.insert(id, mine);
            assert!(before.is_none(), "{id:?} is listed twice");
            self.say(ToDispatcher::LinkListed { link: id });
        } else {
            self.say(ToDispatcher::LinkRemoved { link: id });
        }
    }

    fn enter(&mut self, link: EnterLink) {
        let EnterLink { link: id, publisher, line, tag, reliable, .. } = link;
        assert_eq!(self.peers.get(&publisher), Some(&true), "`EnterLink` before `Peer` and `Signal`");
        if self.subscriptions.contains_key(&id.subscription) {
            let mine = Mine { peer: publisher, line, tag, reliable, demoted: false, ended: false };
            let before = self.entered.insert(id, mine);
            assert!(before.is_none(), "{id:?} is entered twice");
            self.say(ToDispatcher::LinkEntered { link: id });
        } else {
            self.say(ToDispatcher::LinkLeft { link: id, evicted: false });
        }
    }
}

/// What real publishers and subscribers answer is told in `client`; here only that death and withdrawal are told apart.
#[test]
fn the_model_sees_what_it_should() {
    let mut host = Host::new();
    for step in [
        Step::Publish { node: 1, topic: 0, text: false },
        Step::Subscribe { node: 2, selector: 0, schema: None, reliable: true },
    ] {
        host.step(step);
    }
    host.calm_down();
    host.check_links();
    assert_eq!(host.nodes[1].listed.len(), 1);
    host.kill(1, true);
    let ended = ToNode::LinkEnded { link: *host.nodes[2].entered.keys().next().unwrap(), reason: EndReason::Died };
    assert!(host.table.hears(&host.nodes[2].who.clone()).contains(&ended));
}
