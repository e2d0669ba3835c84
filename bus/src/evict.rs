//! Giving up reliable subscribers that hold the log back: a publisher's policy, looked at where a block ends.
//!
//! Evicting only demotes: what the subscriber reads stays where it is until it has left it. It learns of it, with the exact count
//! of what it missed, when it gets to messages that are gone.

use std::fmt;
use std::time::{Duration, Instant};

use crate::atomics::Words;
use crate::log::Producer;
use crate::protocol::LinkId;

/// When a reliable subscriber is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evict {
    /// When it is more than so many messages behind, counted from the first one of the block that it reads.
    Lag(u64),
    /// When it has read one block for so long while the publisher went on to others.
    After(Duration),
}

/// Called with each link that was given up.
pub type OnEvicted = Box<dyn Fn(LinkId) + Send>;

/// A policy, and what was seen of the laggards so far.
pub(crate) struct Evictor {
    policy: Evict,
    on_evicted: OnEvicted,
    /// Who stood behind when it was looked last: in which block, and since when.
    standing: Vec<Standing>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    link: LinkId,
    generation: u64,
    since: Instant,
}

impl Evictor {
    pub(crate) fn new(policy: Evict, on_evicted: OnEvicted) -> Evictor {
        Evictor { policy, on_evicted, standing: Vec::new() }
    }

    /// Gives up whom the policy gives up now. Returns when the next one would be due, if it stays where it is.
    pub(crate) fn look<W: Words>(&mut self, producer: &mut Producer<W>, now: Instant) -> Option<Instant> {
        producer.refresh_links();
        let before = std::mem::take(&mut self.standing);
        let mut due = None;
        let mut evicted = Vec::new();
        for laggard in producer.laggards() {
            let seen = before.iter().find(|it| it.link == laggard.link && it.generation == laggard.generation);
            let standing =
                seen.copied().unwrap_or(Standing { link: laggard.link, generation: laggard.generation, since: now });
            let over = match self.policy {
                Evict::Lag(messages) => laggard.messages > messages,
                // A time that the clock cannot say never comes.
                Evict::After(time) => match standing.since.checked_add(time) {
                    Some(end) if end > now => {
                        due = Some(due.map_or(end, |due: Instant| due.min(end)));
                        false
                    }
                    end => end.is_some(),
                },
            };
            if over { evicted.push(laggard.link) } else { self.standing.push(standing) }
        }
        for link in evicted {
            if producer.links().demote(link) {
                (self.on_evicted)(link);
            }
        }
        due
    }
}

impl fmt::Debug for Evictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evictor")
            .field("policy", &self.policy)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}
