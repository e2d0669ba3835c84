//! The table for people, row by row, so that a slow reader costs a cursor and not a copy.

use std::ops::Bound;

use nodeset_bus::protocol::{LinkId, Listing, LogShape, NodeId, PublicationId, SubscriptionId};

use super::Registry;

/// How far a listing has come. Rows that come and go meanwhile may be missed; none is shown twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCursor {
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nodes(Bound<NodeId>),
    Publications(Bound<PublicationId>),
    Subscriptions(Bound<SubscriptionId>),
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Nodes(Bound::Unbounded)
    }
}

impl ListCursor {
    /// The next row: nodes, then publications, then subscriptions.
    pub fn next_row(&mut self, registry: &Registry) -> Option<Listing> {
        loop {
            match self.stage {
                Stage::Nodes(after) => match registry.nodes.range((after, Bound::Unbounded)).next() {
                    Some((&id, node)) => {
                        self.stage = Stage::Nodes(Bound::Excluded(id));
                        return Some(Listing::Node { state: node.state(id), attached: node.session.is_some() });
                    }
                    None => self.stage = Stage::Publications(Bound::Unbounded),
                },
                Stage::Publications(after) => {
                    let mut rest = registry.publications.range((after, Bound::Unbounded));
                    match rest.find(|(_, it)| it.is_live()) {
                        Some((&id, it)) => {
                            self.stage = Stage::Publications(Bound::Excluded(id));
                            return Some(Listing::Publication {
                                node: registry.name_of(it.node),
                                topic: it.topic.to_string(),
                                schema: it.schema.name().to_owned(),
                                links: registry.count_ready(&it.links),
                            });
                        }
                        None => self.stage = Stage::Subscriptions(Bound::Unbounded),
                    }
                }
                Stage::Subscriptions(after) => {
                    let (&id, it) = registry.subscriptions.range((after, Bound::Unbounded)).next()?;
                    self.stage = Stage::Subscriptions(Bound::Excluded(id));
                    return Some(Listing::Subscription {
                        node: registry.name_of(it.node),
                        topic: it.selector.to_string(),
                        schema: it.schema.as_ref().map_or("any", |schema| schema.name()).to_owned(),
                        reliable: it.reliable,
                        links: registry.count_ready(&it.links),
                    });
                }
            }
        }
    }
}

/// A publication that exists for others.
#[derive(Debug, Clone)]
pub struct PublicationRow {
    /// Which one.
    pub id: PublicationId,
    /// Where it publishes.
    pub topic: String,
    /// Name of its node.
    pub node: String,
    /// Name of its messages' type.
    pub schema: String,
    /// Layout of its log.
    pub shape: LogShape,
}

/// A link that is ready.
#[derive(Debug, Clone)]
pub struct LinkRow {
    /// Which one.
    pub id: LinkId,
    /// Whose page has its line.
    pub subscriber: NodeId,
    /// Name of that node.
    pub name: String,
    /// Its line.
    pub line: u32,
    /// The tag of its words.
    pub tag: u16,
    /// It was asked for as a reliable one.
    pub reliable: bool,
    /// The publisher does not wait for it any more.
    pub demoted: bool,
    /// Its log is a lane.
    pub lane: bool,
}

impl Registry {
    /// How many nodes, publications and subscriptions there are.
    pub fn counts(&self) -> [u64; 3] {
        [self.nodes.len(), self.publications.len(), self.subscriptions.len()].map(|count| count as u64)
    }

    /// Publications that exist for others.
    pub fn live_publications(&self) -> impl Iterator<Item = PublicationRow> + '_ {
        self.publications.iter().filter(|(_, it)| it.is_live()).map(|(&id, it)| PublicationRow {
            id,
            topic: it.topic.to_string(),
            node: self.name_of(it.node),
            schema: it.schema.name().to_owned(),
            shape: it.shape,
        })
    }

    /// Links that are ready.
    pub fn ready_links(&self) -> impl Iterator<Item = LinkRow> + '_ {
        self.links.iter().filter(|(_, it)| it.is_ready()).map(|(&id, it)| LinkRow {
            id,
            subscriber: it.subscriber,
            name: self.name_of(it.subscriber),
            line: it.line,
            tag: it.tag,
            reliable: it.reliable,
            demoted: it.demoted,
            lane: self.is_lane(id.publication),
        })
    }

    fn count_ready<'a>(&self, links: impl IntoIterator<Item = &'a LinkId>) -> u32 {
        let ready = links.into_iter().filter(|link| self.links.get(link).is_some_and(|link| link.is_ready()));
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }
}
