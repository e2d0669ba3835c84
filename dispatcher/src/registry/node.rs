//! A node in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nodeset_bus::protocol::{
    End, EndReason, Health, Hello, LinkId, NameHolder, NodeId, PublicationId, SubscriptionId, ToNode,
};
use tracing::{debug, info};

use super::lines::{Lines, Slots};
use super::link::{PublisherEnd, SubscriberEnd};
use super::quota::Item;
use super::{Action, Failure, Handle, Identity, Kind, Registry, SessionId};

/// How far a node has come with its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Said hello; its process is not watched or its page not made yet.
    Arriving,
    /// Has its page.
    Greeted,
    /// Says that its page is ready; that is being checked.
    Checking,
    /// Its page may be given to others.
    Ready,
}

/// A descriptor of a node's that peers of one user share.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shared {
    /// It exists.
    pub(super) made: bool,
    /// The node has it.
    pub(super) told: bool,
}

/// What a node was told of another one and has not been told to forget.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Introduced {
    pub(super) peer: bool,
    pub(super) signal: bool,
}

/// A node, from its hello until its process is dead or it said goodbye.
#[derive(Debug)]
pub(super) struct Node {
    /// The one that it has; nobody else has it.
    pub(super) name: String,
    /// The one that it asked for.
    pub(super) base_name: String,
    /// It wants no other one.
    pub(super) exact: bool,
    pub(super) named_at: Instant,
    /// An earlier dispatcher had it.
    pub(super) returned: bool,
    /// Who took its name while it had no session to be told.
    pub(super) replaced_by: Option<NameHolder>,
    pub(super) health: Health,
    /// Watchers were told that it is there.
    pub(super) announced: bool,
    pub(super) identity: Identity,
    /// `None`: it hung up, its process lives.
    pub(super) session: Option<SessionId>,
    pub(super) stage: Stage,
    /// It is about to leave the table.
    pub(super) ending: Option<EndReason>,
    /// It has not yet said all that it holds.
    pub(super) handing_back: bool,
    /// Ends of links that it named since it came back.
    pub(super) named: BTreeSet<(LinkId, bool)>,
    pub(super) lines: Lines,
    pub(super) slots: Slots,
    /// By the user of those who ring them.
    pub(super) bells: BTreeMap<u32, Shared>,
    /// By the user of the subscribers.
    pub(super) signals: BTreeMap<u32, Shared>,
    pub(super) introduced: BTreeMap<NodeId, Introduced>,
    pub(super) publications: BTreeSet<PublicationId>,
    pub(super) directs: BTreeSet<PublicationId>,
    pub(super) subscriptions: BTreeSet<SubscriptionId>,
}

impl Node {
    pub(super) fn new(now: Instant, hello: &Hello, name: String, identity: Identity, before_first_tag: u16) -> Node {
        Node {
            name,
            base_name: hello.name.clone(),
            exact: hello.claim.is_exact(),
            named_at: now,
            returned: hello.handing_back,
            replaced_by: None,
            health: Health::Alive,
            announced: false,
            identity,
            session: None,
            ending: None,
            stage: Stage::Arriving,
            handing_back: false,
            named: BTreeSet::new(),
            lines: Lines::new(before_first_tag),
            slots: Slots::default(),
            bells: BTreeMap::new(),
            signals: BTreeMap::new(),
            introduced: BTreeMap::new(),
            publications: BTreeSet::new(),
            directs: BTreeSet::new(),
            subscriptions: BTreeSet::new(),
        }
    }

    /// It is attached, has said all it holds, and can take part in links to come.
    pub(super) fn answers(&self) -> bool {
        self.session.is_some() && self.stage == Stage::Ready && !self.handing_back
    }

    /// Notes that it named that end of a link since it came back.
    pub(super) fn name_end(&mut self, link: LinkId, end: End) {
        self.named.insert((link, end == End::Publisher));
    }

    /// Whether it did.
    pub(super) fn has_named(&self, link: LinkId, end: End) -> bool {
        self.named.contains(&(link, end == End::Publisher))
    }
}

impl Registry {
    pub(super) fn answers(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(Node::answers)
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone())
    }

    /// All links of which that node holds an end.
    pub(super) fn links_of(&self, node: NodeId) -> BTreeSet<LinkId> {
        let Some(node) = self.nodes.get(&node) else { return BTreeSet::new() };
        let published = node.publications.iter().filter_map(|id| self.publications.get(id)).flat_map(|it| &it.links);
        let subscribed = node.subscriptions.iter().filter_map(|id| self.subscriptions.get(id)).flat_map(|it| &it.links);
        published.chain(subscribed).copied().collect()
    }

    /// The node page was made, adopted or checked.
    pub(super) fn on_page(&mut self, id: NodeId, result: Result<(), Failure>) {
        let Some(node) = self.nodes.get_mut(&id) else {
            self.actions.push_back(Action::Forget { handle: Handle::PageOf(id) });
            return;
        };
        let Some(session) = node.session else { return };
        if let Err(failure) = result {
            self.refuse_session(session, failure.code, failure.text);
            return;
        }
        match node.stage {
            Stage::Arriving if node.handing_back => {
                node.stage = Stage::Ready;
                self.welcome(session, id, Vec::new());
                self.announce(id);
            }
            Stage::Arriving => {
                node.stage = Stage::Greeted;
                self.welcome(session, id, vec![Handle::PageOf(id)]);
            }
            Stage::Checking => {
                node.stage = Stage::Ready;
                self.announce(id);
            }
            Stage::Greeted | Stage::Ready => {}
        }
    }

    /// The node says that its page is mapped and sealed.
    pub(super) fn page_ready(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.stage == Stage::Greeted) {
            node.stage = Stage::Checking;
            self.actions.push_back(Action::Check { handle: Handle::PageOf(id), kind: Kind::Page });
        }
    }

    /// The session of a node ended while its process lives, as far as is known: it stays in the table, nobody waits for it.
    pub(super) fn detach(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.session = None;
        node.handing_back = false;
        node.named.clear();
        node.introduced.clear();
        for shared in node.bells.values_mut().chain(node.signals.values_mut()) {
            shared.told = false;
        }
        let has_nothing = node.publications.is_empty() && node.directs.is_empty() && node.subscriptions.is_empty();
        if node.stage != Stage::Ready && has_nothing {
            self.drop_node(id, EndReason::Withdrawn);
            return;
        }
        // What matters follows: the node is gone, or it attaches again.
        debug!(event = "node_detached", node = %id, name = node.name);
        let unfinished: Vec<_> =
            node.publications.iter().filter(|it| !self.publications[it].is_live()).copied().collect();
        for publication in unfinished {
            self.drop_publication(publication, EndReason::Withdrawn);
        }
        for link in self.links_of(id) {
            if self.links.get(&link).is_some_and(|link| link.subscriber == id) {
                self.demote(link);
            }
        }
    }

    /// Takes a node out of the table, with all it had.
    pub(super) fn drop_node(&mut self, id: NodeId, reason: EndReason) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.ending = Some(reason);
        if let Some(session) = node.session.take() {
            self.sessions.remove(&session);
            self.actions.push_back(Action::Close { session });
        }
        let publications: Vec<_> = node.publications.iter().copied().collect();
        let subscriptions: Vec<_> = node.subscriptions.iter().copied().collect();
        let directs: Vec<_> = node.directs.iter().copied().collect();
        let counts = [publications.len(), subscriptions.len()];
        directs.into_iter().for_each(|direct| self.drop_direct(direct));
        for publication in publications {
            self.drop_publication(publication, reason);
        }
        for subscription in subscriptions {
            self.drop_subscription(subscription);
        }
        let awaited: Vec<_> = self.halves.keys().copied().collect();
        for link in awaited {
            let half = self.links[&link];
            if half.subscriber == id && half.reading == SubscriberEnd::Unknown {
                self.end_reading(link);
            } else if half.publisher == id && half.publishing == PublisherEnd::Unknown {
                self.end_publishing(link, reason);
            }
        }
        let Some(node) = self.nodes.remove(&id) else { return };
        info!(
            event = "node_gone",
            node = %id,
            name = node.name,
            pid = node.identity.pid,
            died = reason == EndReason::Died,
            publications = counts[0],
            subscriptions = counts[1]
        );
        self.accounts.remove(node.identity.uid, Item::Node);
        self.names.remove(&node.name);
        if self.has_shared(id) {
            self.departed.insert(id, reason);
        }
        if node.announced {
            self.tell_watchers_gone(id, reason);
        }
        let handles = node.bells.keys().map(|&uid| Handle::BellOf(id, uid));
        let handles = handles.chain(node.signals.keys().map(|&uid| Handle::SignalOf(id, uid)));
        let handles = handles.chain([Handle::PageOf(id), Handle::PidfdOf(id)]);
        self.actions.extend(handles.map(|handle| Action::Forget { handle }));
    }

    /// A bell was made or adopted.
    pub(super) fn on_bell(&mut self, id: NodeId, uid: u32, result: Result<(), Failure>) {
        let known = self.nodes.get_mut(&id).map(|node| node.bells.entry(uid).or_default());
        let handle = Handle::BellOf(id, uid);
        match (known, result) {
            (None, _) => self.actions.push_back(Action::Forget { handle }),
            (Some(bell), Ok(())) => {
                bell.made = true;
                self.introduce_again(id, uid, false);
                self.settle_all(id);
            }
            (Some(_), Err(failure)) => self.lack(id, uid, handle, failure),
        }
    }

    /// A signal page was made or adopted.
    pub(super) fn on_signal(&mut self, id: NodeId, uid: u32, result: Result<(), Failure>) {
        let known = self.nodes.get_mut(&id).map(|node| node.signals.entry(uid).or_default());
        let handle = Handle::SignalOf(id, uid);
        match (known, result) {
            (None, _) => self.actions.push_back(Action::Forget { handle }),
            (Some(signal), Ok(())) => {
                signal.made = true;
                self.introduce_again(id, uid, true);
                self.settle_all(id);
            }
            (Some(_), Err(failure)) => self.lack(id, uid, handle, failure),
        }
    }

    /// Tells a node all of its own bells and signal pages that it does not have.
    pub(super) fn tell_own(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let mut untold = Vec::new();
        for (&uid, bell) in node.bells.iter_mut().filter(|(_, it)| it.made && !it.told) {
            bell.told = true;
            untold.push((ToNode::OwnBell { uid }, Handle::BellOf(id, uid)));
        }
        for (&uid, signal) in node.signals.iter_mut().filter(|(_, it)| it.made && !it.told) {
            signal.told = true;
            untold.push((ToNode::OwnSignal { uid }, Handle::SignalOf(id, uid)));
        }
        for (message, handle) in untold {
            self.send(id, message, vec![handle]);
        }
    }
}
