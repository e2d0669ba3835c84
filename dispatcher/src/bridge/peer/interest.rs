//! Who wants what: this host of the other side, and the other side of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nodeset_bus::topic::{Host, PatternIndex, Selector, Topic};

use super::contract::{InterestId, MirrorEnd, Want};
use super::flow::Wanted;
use super::session::Owed;
use super::{Action, Peer, Publication};
use crate::bridge::codec::Quality;

/// Connections of earlier lives of the other side whose interests count beside those of the last one; so their number is bounded.
const EARLIER_CONNECTIONS: usize = 4;

/// What the other side wants. Of the last connection on which it said everything, until it has said everything on this one; when
/// it was restarted meanwhile, until its nodes have had the time to come back as well.
#[derive(Debug)]
pub(super) struct Theirs {
    local: String,
    /// By connection and its number there.
    wants: BTreeMap<(u64, u32), Want>,
    index: PatternIndex<(u64, u32)>,
    /// The connections, counted.
    current: u64,
    /// The last one on which everything was said.
    complete: u64,
    /// Those on which an earlier life of the other side had said everything: its nodes come back one by one.
    earlier: BTreeSet<u64>,
    /// It was restarted, and has not said everything since.
    restarted: bool,
    /// How many wants were said on this one.
    said: usize,
}

impl Theirs {
    pub(super) fn new(local: String) -> Theirs {
        Theirs {
            local,
            wants: BTreeMap::new(),
            index: PatternIndex::new(),
            current: 0,
            complete: 0,
            earlier: BTreeSet::new(),
            restarted: false,
            said: 0,
        }
    }

    /// A connection begins; the other side may have been restarted since the last one.
    pub(super) fn begin(&mut self, restarted: bool) {
        self.restarted |= restarted;
        if restarted && self.current != self.complete {
            // Cut short, but said.
            self.keep_earlier(self.current);
        }
        let complete = self.complete;
        self.drop_unless(complete);
        self.current += 1;
        self.said = 0;
    }

    /// Everything was said; false when it had been already.
    pub(super) fn synced(&mut self) -> bool {
        let before = std::mem::replace(&mut self.complete, self.current);
        if std::mem::take(&mut self.restarted) {
            self.keep_earlier(before);
        }
        self.drop_unless(self.complete);
        before != self.current
    }

    fn keep_earlier(&mut self, connection: u64) {
        self.earlier.insert(connection);
        if self.earlier.len() > EARLIER_CONNECTIONS {
            self.earlier.pop_first();
        }
    }

    /// Whether something of an earlier life counts still.
    pub(super) fn has_earlier(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// The time is over in which nodes of the other side could come back.
    pub(super) fn forget_earlier(&mut self) {
        self.earlier.clear();
        self.drop_unless(self.complete);
    }

    /// Keeps what was said on that connection and on this one, and what counts of earlier lives.
    fn drop_unless(&mut self, kept: u64) {
        let keeps = |connection| [kept, self.current].contains(&connection) || self.earlier.contains(&connection);
        let old: Vec<_> = self.wants.keys().filter(|(connection, _)| !keeps(*connection)).copied().collect();
        old.into_iter().for_each(|key| drop(self.take(key)));
    }

    fn take(&mut self, key: (u64, u32)) -> Option<Want> {
        let want = self.wants.remove(&key)?;
        self.index.remove(want.selector.pattern(), &key);
        Some(want)
    }

    /// How many were said on this connection.
    pub(super) fn len(&self) -> usize {
        self.said
    }

    /// False when this number is taken.
    pub(super) fn add(&mut self, interest: u32, want: Want) -> bool {
        let key = (self.current, interest);
        if self.wants.contains_key(&key) {
            return false;
        }
        self.index.insert(want.selector.pattern(), key);
        self.wants.insert(key, want);
        self.said += 1;
        true
    }

    /// What it wanted by that number.
    pub(super) fn remove(&mut self, interest: u32) -> Option<Want> {
        let want = self.take((self.current, interest))?;
        self.said -= 1;
        Some(want)
    }

    /// What of all that means this publication.
    pub(super) fn wanted(&self, publication: &Publication) -> Option<Wanted> {
        let wants = self.index.matching(&publication.topic).filter_map(|key| self.wants.get(key));
        let wants = wants.filter(|want| {
            let names = [&*publication.node, &*publication.base_name];
            want.selector.wants_node(names, &self.local)
        });
        wants.fold(None, |found: Option<Wanted>, want| {
            let found = found.unwrap_or(Wanted { quality: want.quality, deadline: Duration::ZERO, history: 0 });
            let waits = want.quality == Quality::AcrossHosts;
            Some(Wanted {
                quality: found.quality.max(want.quality),
                deadline: if waits { found.deadline.max(want.deadline) } else { found.deadline },
                history: found.history.max(want.history),
            })
        })
    }
}

/// Whether a selector of this host can mean publications of that one.
fn concerns(selector: &Selector, remote: &str) -> bool {
    selector.target().is_none_or(|target| match &target.host {
        Host::Any => true,
        Host::Local => false,
        Host::Only(host) => **host == *remote,
    })
}

impl Peer {
    pub(super) fn wanted(&mut self, interest: InterestId, want: Want) {
        if !concerns(&want.selector, &self.settings.remote) || self.interests.contains_key(&interest) {
            return;
        }
        self.interests.insert(interest, want);
        self.owe(Owed::Want(interest));
    }

    pub(super) fn unwanted(&mut self, interest: InterestId) {
        let Some(old) = self.interests.remove(&interest) else { return };
        if let Some(session) = &mut self.session {
            session.surplus.remove(&interest);
            if session.told.remove(&interest) {
                session.owed.push_back(Owed::Unwant(interest));
                // There is room for another one now.
                session.owed.extend(session.surplus.pop_first().map(Owed::Want));
            }
            self.status.untold = session.surplus.len();
        }
        let no_more: Vec<_> = self
            .mirrors
            .iter()
            .filter(|(_, mirror)| old.selector.matches(&mirror.publication.topic))
            .filter(|(_, mirror)| !self.is_wanted_here(&mirror.publication))
            .map(|(&log, _)| log)
            .collect();
        for log in no_more {
            self.refuse_mirror(log, "nobody here wants it any more");
            self.actions.push_back(Action::EndMirror { log, end: MirrorEnd::Unwanted });
        }
    }

    /// Whether a publication of the other side is meant by anything that this host wants.
    pub(super) fn is_wanted_here(&self, publication: &Publication) -> bool {
        let names = [&*publication.node, &*publication.base_name];
        self.interests.values().any(|want| {
            want.selector.matches(&publication.topic) && want.selector.wants_node_of(names, &self.settings.remote)
        })
    }

    /// The other side wants something more.
    pub(super) fn they_want(&mut self, topics: &Selector) {
        let meant = |topic: &Topic| topics.matches(topic);
        let logs: Vec<_> =
            self.flows.iter().filter(|(_, flow)| meant(&flow.publication.topic)).map(|(&log, _)| log).collect();
        for log in logs {
            self.look_at_wants(log, true);
        }
    }

    /// The other side does no longer want something: `None` for anything.
    pub(super) fn they_do_not_want(&mut self, topics: Option<&Selector>) {
        let meant = |topic: &Topic| topics.is_none_or(|selector| selector.matches(topic));
        let logs: Vec<_> =
            self.flows.iter().filter(|(_, flow)| meant(&flow.publication.topic)).map(|(&log, _)| log).collect();
        for log in logs {
            self.look_at_wants(log, false);
        }
    }
}
