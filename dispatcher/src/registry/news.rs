//! What the bridge hears: which publications there are on this host, and what is subscribed.
//!
//! The bridge lives in the dispatcher's process, so it is told by actions and not by messages of a session: however much there
//! is, nothing waits for a socket. Its own node is among those that it hears of; it knows its own id.

use std::sync::Arc;

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::{NodeId, PublicationId, SubscriptionId};
use nodeset_bus::topic::{Selector, Topic};

use super::topics::Publication;
use super::{Action, Registry};

/// Something that hosts may want to know. Each thing is told once when it comes and once when it goes.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A publication exists: it can be subscribed.
    Published(Published),
    /// It ended.
    Withdrawn {
        /// Which.
        publication: PublicationId,
        /// Of its log.
        epoch: u64,
    },
    /// Somebody subscribes.
    Wanted {
        /// Which subscription.
        subscription: SubscriptionId,
        /// Whose.
        node: NodeId,
        /// What.
        selector: Selector,
        /// Nothing may be missed.
        reliable: bool,
        /// Milliseconds for which publishers of other hosts wait for it; `None`: they do not.
        across_ms: Option<u32>,
    },
    /// Does so no longer.
    Unwanted {
        /// Which subscription.
        subscription: SubscriptionId,
    },
}

/// A publication of this host.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// Which.
    pub publication: PublicationId,
    /// Of its log.
    pub epoch: u64,
    /// Whose.
    pub node: NodeId,
    /// The name that the node has.
    pub name: String,
    /// The one that it asked for.
    pub base_name: String,
    /// Where it publishes.
    pub topic: Topic,
    /// What it publishes.
    pub schema: Arc<Schema>,
}

impl Registry {
    /// From now on there is [`Action::Tell`], at once for all that is there; or no longer.
    pub fn set_bridged(&mut self, bridged: bool) {
        if std::mem::replace(&mut self.bridged, bridged) || !bridged {
            return;
        }
        let publications: Vec<_> = self.publications.iter().filter(|(_, it)| it.is_live()).map(|(&id, _)| id).collect();
        for publication in publications {
            self.tell_published(publication);
        }
        for subscription in self.subscriptions.keys().copied().collect::<Vec<_>>() {
            self.tell_wanted(subscription);
        }
    }

    pub(super) fn tell_published(&mut self, id: PublicationId) {
        // A lane is for one subscription of this host.
        let tellable = |it: &&Publication| self.bridged && it.lane.is_none();
        let Some(publication) = self.publications.get(&id).filter(tellable) else { return };
        let Some(node) = self.nodes.get(&publication.node) else { return };
        let published = Published {
            publication: id,
            epoch: publication.epoch,
            node: publication.node,
            name: node.name.clone(),
            base_name: node.base_name.clone(),
            topic: publication.topic.clone(),
            schema: Arc::new(publication.schema.clone()),
        };
        self.actions.push_back(Action::Tell(News::Published(published)));
    }

    pub(super) fn tell_withdrawn(&mut self, publication: PublicationId, epoch: u64) {
        if self.bridged {
            self.actions.push_back(Action::Tell(News::Withdrawn { publication, epoch }));
        }
    }

    pub(super) fn tell_wanted(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get(&id).filter(|_| self.bridged) else { return };
        self.actions.push_back(Action::Tell(News::Wanted {
            subscription: id,
            node: subscription.node,
            selector: subscription.selector.clone(),
            reliable: subscription.reliable,
            across_ms: subscription.across_ms,
        }));
    }

    pub(super) fn tell_unwanted(&mut self, subscription: SubscriptionId) {
        if self.bridged {
            self.actions.push_back(Action::Tell(News::Unwanted { subscription }));
        }
    }
}
