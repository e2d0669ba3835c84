//! A registry whose actions are carried out by a table of names, and nodes that speak to it.

mod ends;
mod hand_back;
mod invariants;
mod lanes;
mod link_life;
mod model;
mod naming;
mod news;
mod patterns;
mod rules;
mod watchers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::{
    Advertise, EnterLink, Hello, LinkId, ListLink, Listing, LogShape, Mismatch, NodeId, PublicationId, RefusalCode,
    Subscribe, SubscriptionId, ToDispatcher, ToNode,
};

use super::*;

const GRACE: Duration = Duration::from_secs(5);
const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 4 };

fn settings() -> Settings {
    Settings {
        host: "host".to_owned(),
        pid: 1,
        uid: 1000,
        embedded: false,
        started: Instant::now(),
        grace: GRACE,
        limits: Limits::default(),
        quotas: Quotas::default(),
        policy: Policy::default(),
        seed: 7,
    }
}

/// A registry, and what its loop would keep for it.
struct Table {
    registry: Registry,
    now: Instant,
    /// What sessions were told and have not read.
    told: BTreeMap<SessionId, VecDeque<ToNode>>,
    /// Descriptors that exist.
    held: BTreeSet<Handle>,
    /// Tasks of which the next one fails.
    failing: Option<fn(Task) -> bool>,
    /// What was given to a successor, and to which.
    left_to: Option<SessionId>,
    lists: Vec<SessionId>,
    /// What the bridge was told and has not read.
    news: Vec<News>,
    last_session: u64,
    last_id: u64,
}

impl Table {
    fn new() -> Table {
        Table::with(settings())
    }

    fn with(settings: Settings) -> Table {
        Table {
            registry: Registry::new(settings),
            now: Instant::now(),
            told: BTreeMap::new(),
            held: BTreeSet::new(),
            failing: None,
            left_to: None,
            lists: Vec::new(),
            news: Vec::new(),
            last_session: 0,
            last_id: 0,
        }
    }

    /// Gives an input, does what is wanted, and looks whether the table is still sound.
    fn handle(&mut self, input: Input) {
        self.registry.handle(self.now, input);
        self.carry_out();
        self.check();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.registry.handle_timeout(self.now);
        self.carry_out();
        self.check();
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.registry.poll_action() {
            match action {
                Action::Send { session, message, descriptors } => {
                    for handle in descriptors {
                        assert!(self.held.contains(&handle), "{message:?} with {handle:?}, which does not exist");
                    }
                    self.told.entry(session).or_default().push_back(message);
                }
                Action::Watch { node, .. } => self.task(Task::Watch(node), Some(Handle::PidfdOf(node))),
                Action::Create { handle, .. } => self.task(Task::Create(handle), Some(handle)),
                Action::Adopt { handle, .. } => self.task(Task::Adopt(handle), Some(handle)),
                Action::Check { handle, .. } => self.task(Task::Check(handle), None),
                Action::Forget { handle } => {
                    self.held.remove(&handle);
                }
                Action::Close { session } => {
                    assert!(!self.registry.sessions.contains_key(&session), "closed, but not forgotten");
                }
                Action::List { session } => self.lists.push(session),
                Action::Tell(news) => self.news.push(news),
                Action::Leave { session } => self.left_to = Some(session),
            }
        }
    }

    fn task(&mut self, task: Task, makes: Option<Handle>) {
        let fails = self.failing.is_some_and(|fails| fails(task));
        let result = if fails {
            self.failing = None;
            Err(Failure::new(RefusalCode::Limit, "no room"))
        } else {
            self.held.extend(makes);
            Ok(())
        };
        self.registry.handle(self.now, Input::Done { task, result });
    }

    fn open(&mut self, pid: u32, uid: u32) -> SessionId {
        self.last_session += 1;
        let session = SessionId(self.last_session);
        self.handle(Input::Opened { session, identity: Identity { pid, uid }, groups: vec![uid] });
        session
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn say(&mut self, session: SessionId, message: ToDispatcher) {
        self.say_with(session, message, 0);
    }

    fn say_with(&mut self, session: SessionId, message: ToDispatcher, descriptors: usize) {
        self.handle(Input::Message { session, message, descriptors });
    }

    fn hang_up(&mut self, node: &Who) {
        self.handle(Input::Closed { session: node.session });
    }

    /// Both that its process is dead and that it hung up, in the order in which the kernel says so.
    fn kill(&mut self, node: &Who) {
        self.handle(Input::Closed { session: node.session });
        self.handle(Input::Died { node: node.id });
    }

    /// All that a session was told since this was last asked.
    fn hears(&mut self, node: &Who) -> Vec<ToNode> {
        self.told.remove(&node.session).unwrap_or_default().into()
    }

    /// A node that has its page.
    fn attach(&mut self, name: &str) -> Who {
        self.attach_as(name, 1000)
    }

    fn attach_as(&mut self, name: &str, uid: u32) -> Who {
        // Of a process of its own.
        let pid = 101 + self.last_id as u32;
        self.attach_from(name, pid, uid)
    }

    fn attach_from(&mut self, name: &str, pid: u32, uid: u32) -> Who {
        let id = NodeId(self.fresh_id());
        let session = self.open(pid, uid);
        let hello = Hello::new(id, name);
        self.say_with(session, ToDispatcher::Hello(hello), 1);
        let who = Who { session, id, pid, uid };
        let heard = self.hears(&who);
        assert!(matches!(&heard[..], [ToNode::Welcome(_)]), "{heard:?}");
        self.say(session, ToDispatcher::PageReady);
        who
    }

    /// The node comes back on a session of its own; `brings` is what it says before `HandedBack`.
    fn come_back(&mut self, node: &mut Who, brings: &[(ToDispatcher, usize)]) {
        node.session = self.open(node.pid, node.uid);
        let hello = Hello::back(node.id, format!("node-of-{}", node.pid));
        self.say_with(node.session, ToDispatcher::Hello(hello), 2);
        for (message, descriptors) in brings {
            self.say_with(node.session, message.clone(), *descriptors);
        }
        self.say(node.session, ToDispatcher::HandedBack);
    }

    fn advertise(&mut self, topic: &str, schema: Schema) -> Advertise {
        let publication = PublicationId(self.fresh_id());
        Advertise {
            publication,
            epoch: 1,
            topic: topic.to_owned(),
            schema,
            shape: SHAPE,
            slot: None,
            lane: None,
            origin: None,
        }
    }

    /// A publication that is live.
    fn publish(&mut self, node: &Who, topic: &str, schema: Schema) -> Advertise {
        let advertise = self.advertise(topic, schema);
        self.say(node.session, ToDispatcher::Advertise(advertise.clone()));
        self.say(node.session, ToDispatcher::LogReady { publication: advertise.publication });
        advertise
    }

    fn subscribe(&mut self, node: &Who, topic: &str, schema: Option<Schema>) -> Subscribe {
        let subscription = SubscriptionId(self.fresh_id());
        let subscribe =
            Subscribe { subscription, topic: topic.to_owned(), schema, reliable: true, weight: 1, across_ms: None };
        self.say(node.session, ToDispatcher::Subscribe(subscribe.clone()));
        subscribe
    }

    fn link(&self, id: LinkId) -> Link {
        self.registry.links[&id]
    }
}

/// A node.
#[derive(Debug, Clone)]
struct Who {
    session: SessionId,
    id: NodeId,
    pid: u32,
    uid: u32,
}

/// Two nodes, and a link between them in one of its states.
struct Pair {
    table: Table,
    publisher: Who,
    subscriber: Who,
    advertise: Advertise,
    subscribe: Subscribe,
    id: LinkId,
}

/// How far the link of a [`Pair`] was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Until {
    ListLink,
    EnterLink,
    LinkReady,
}

const STATES: [Until; 3] = [Until::ListLink, Until::EnterLink, Until::LinkReady];

impl Pair {
    fn new(until: Until) -> Pair {
        Pair::with(Table::new(), until)
    }

    fn with(mut table: Table, until: Until) -> Pair {
        let publisher = table.attach("camera");
        let subscriber = table.attach("viewer");
        let advertise = table.publish(&publisher, "image", Schema::bytes());
        let subscribe = table.subscribe(&subscriber, "image", Some(Schema::bytes()));
        let id = LinkId { publication: advertise.publication, epoch: 1, subscription: subscribe.subscription };
        let mut pair = Pair { table, publisher, subscriber, advertise, subscribe, id };
        if until > Until::ListLink {
            pair.listed();
        }
        if until > Until::EnterLink {
            pair.entered();
        }
        pair
    }

    fn listed(&mut self) {
        self.table.say(self.publisher.session, ToDispatcher::LinkListed { link: self.id });
    }

    fn entered(&mut self) {
        self.table.say(self.subscriber.session, ToDispatcher::LinkEntered { link: self.id });
    }

    fn removed(&mut self) {
        self.table.say(self.publisher.session, ToDispatcher::LinkRemoved { link: self.id });
    }

    fn left(&mut self) {
        self.table.say(self.subscriber.session, ToDispatcher::LinkLeft { link: self.id, evicted: false });
    }

    fn unsubscribe(&mut self) {
        let subscription = self.subscribe.subscription;
        self.table.say(self.subscriber.session, ToDispatcher::Unsubscribe { subscription });
    }

    fn unadvertise(&mut self) {
        let publication = self.advertise.publication;
        self.table.say(self.publisher.session, ToDispatcher::Unadvertise { publication });
    }

    fn publisher_hears(&mut self) -> Vec<ToNode> {
        self.table.hears(&self.publisher)
    }

    fn subscriber_hears(&mut self) -> Vec<ToNode> {
        self.table.hears(&self.subscriber)
    }

    /// Both ends have read all they were told.
    fn deaf(&mut self) {
        self.publisher_hears();
        self.subscriber_hears();
    }

    fn exists(&self) -> bool {
        self.table.registry.links.contains_key(&self.id)
    }
}

fn list_link(heard: &[ToNode]) -> Option<ListLink> {
    heard.iter().find_map(|message| if let ToNode::ListLink(it) = message { Some(*it) } else { None })
}

fn enter_link(heard: &[ToNode]) -> Option<EnterLink> {
    heard.iter().find_map(|message| if let ToNode::EnterLink(it) = message { Some(it.clone()) } else { None })
}

fn refused(heard: &[ToNode]) -> Option<(About, RefusalCode, String)> {
    heard.iter().find_map(|message| match message {
        ToNode::Refused { about, code, text } => Some((*about, *code, text.clone())),
        _ => None,
    })
}

fn mismatch(heard: &[ToNode]) -> Option<Mismatch> {
    heard.iter().find_map(|message| match message {
        ToNode::Mismatch(it) => Some(it.clone()),
        ToNode::Advertised { mismatched, .. } | ToNode::Subscribed { mismatched, .. } => mismatched.first().cloned(),
        _ => None,
    })
}

/// The names of messages, without what they hold.
fn names(heard: &[ToNode]) -> Vec<&'static str> {
    heard
        .iter()
        .map(|message| match message {
            ToNode::Welcome(_) => "Welcome",
            ToNode::Refused { .. } => "Refused",
            ToNode::LogGranted { .. } => "LogGranted",
            ToNode::Advertised { .. } => "Advertised",
            ToNode::Subscribed { .. } => "Subscribed",
            ToNode::LaneWanted(_) => "LaneWanted",
            ToNode::Mismatch(_) => "Mismatch",
            ToNode::Denied { .. } => "Denied",
            ToNode::Peer(_) => "Peer",
            ToNode::ForgetPeer { .. } => "ForgetPeer",
            ToNode::OwnSignal { .. } => "OwnSignal",
            ToNode::OwnBell { .. } => "OwnBell",
            ToNode::Signal { .. } => "Signal",
            ToNode::ListLink(_) => "ListLink",
            ToNode::EnterLink(_) => "EnterLink",
            ToNode::LinkLate { .. } => "LinkLate",
            ToNode::LinkReady { .. } => "LinkReady",
            ToNode::Demote { .. } => "Demote",
            ToNode::RemoveLink { .. } => "RemoveLink",
            ToNode::LinkEnded { .. } => "LinkEnded",
            ToNode::NameTaken(_) => "NameTaken",
            ToNode::Replaced(_) => "Replaced",
            ToNode::Renamed { .. } => "Renamed",
            ToNode::NodeIs(_) => "NodeIs",
            ToNode::NodeGone { .. } => "NodeGone",
            ToNode::NodesComplete => "NodesComplete",
            ToNode::Listing(_) => "Listing",
            ToNode::ListingEnd => "ListingEnd",
            ToNode::Leaving => "Leaving",
        })
        .collect()
}
