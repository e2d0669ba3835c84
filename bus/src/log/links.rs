//! The list of links of one publication, shared by its producer and the thread that speaks to the dispatcher.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::atomics::{Fact, Words};
use crate::line::{FROM, LineView, OwnLine};
use crate::page::{NodePage, PeerPage, SignalPage};
use crate::protocol::LinkId;

/// Something that wakes a sleeping process: an eventfd, or a model of one.
pub trait Ring: Send + Sync {
    /// Wakes whoever sleeps on it; never blocks.
    fn ring(&self);
}

/// One link, as the publisher needs it.
#[derive(Clone)]
pub struct Link<W> {
    /// Which one.
    pub id: LinkId,
    /// The subscriber's node page.
    pub page: PeerPage<W>,
    /// The link's line in it.
    pub line: u32,
    /// The tag that the line's words carry.
    pub tag: u16,
    /// Whether the producer keeps everything for it. The kind comes from the dispatcher, never from the page.
    pub reliable: bool,
    /// Wakes the subscriber.
    pub bell: Arc<dyn Ring>,
    /// The publisher's signal page for the subscriber's user.
    pub signal: SignalPage<W>,
    /// The publication's word in it.
    pub slot: u32,
}

impl<W: Words> Link<W> {
    pub(crate) fn view(&self) -> LineView<W> {
        LineView::new(self.page.words().clone(), self.line, self.tag)
    }
}

struct Listed<W> {
    link: Arc<Link<W>>,
    ready: bool,
}

/// See the module. The producer copies the list when its version moved; it never holds the lock while it publishes.
pub struct Links<W> {
    listed: Mutex<Vec<Listed<W>>>,
    /// One word: grows with every change.
    version: W,
}

impl<W: Words> Links<W> {
    /// An empty list; `version` is one zeroed word of this process.
    pub fn new(version: W) -> Links<W> {
        Links { listed: Mutex::new(Vec::new()), version }
    }

    /// Puts a link on the list, or in the place of the one with its id. When it returns, the producer respects the link's
    /// line at every border from now on.
    pub fn add(&self, link: Link<W>) {
        self.change(|listed| {
            let link = Arc::new(link);
            match listed.iter_mut().find(|other| other.link.id == link.id) {
                Some(other) => other.link = link,
                None => listed.push(Listed { link, ready: false }),
            }
            true
        });
    }

    /// Counts the link as ready: its subscriber is in the log. Says whether the link is on the list.
    pub fn set_ready(&self, id: LinkId) -> bool {
        // No change of version: the producer does not care.
        self.lock().iter_mut().find(|listed| listed.link.id == id).map(|listed| listed.ready = true).is_some()
    }

    /// No longer waits for the link; its pins stay. Says whether the link is on the list.
    pub fn demote(&self, id: LinkId) -> bool {
        self.change(|listed| match listed.iter_mut().find(|listed| listed.link.id == id) {
            Some(listed) => {
                listed.link = Arc::new(Link { reliable: false, ..Link::clone(&listed.link) });
                true
            }
            None => false,
        })
    }

    /// Takes the link off the list. Only for a link whose subscriber holds nothing any more or whose process is dead. The
    /// producer may look once more at the line; whoever uses it then has another tag.
    pub fn remove(&self, id: LinkId) -> bool {
        self.change(|listed| {
            let before = listed.len();
            listed.retain(|listed| listed.link.id != id);
            listed.len() != before
        })
    }

    /// Of a lane: sequence of the first message that a link's reader has not handled, as it says; `None` when the link is not on
    /// the list.
    pub fn done(&self, id: LinkId) -> Option<u64> {
        self.lock().iter().find(|listed| listed.link.id == id).map(|listed| listed.link.view().done())
    }

    /// Of a lane: the reader of a link is gone. In its place comes a link without a reader, which keeps what that one kept; its
    /// line is the first of `page`, which nobody else has. Says whether the link was on the list.
    pub fn keep(&self, id: LinkId, page: &NodePage<W>, bell: Arc<dyn Ring>) -> bool {
        let Ok(peer) = PeerPage::open(page.words().clone()) else { return false };
        self.change(|listed| {
            let Some(other) = listed.iter_mut().find(|listed| listed.link.id == id) else { return false };
            let (line, tag) = (OwnLine::new(page.words().clone(), 0, other.link.tag), other.link.tag);
            // One that never entered the log needs all of it.
            line.set(FROM, other.link.view().from().unwrap_or(1));
            line.set_done(other.link.view().done());
            let link = Link {
                page: peer.clone(),
                line: 0,
                tag,
                reliable: true,
                bell: Arc::clone(&bell),
                ..Link::clone(&other.link)
            };
            *other = Listed { link: Arc::new(link), ready: false };
            true
        })
    }

    /// The links whose subscribers are in the log.
    pub fn ready_count(&self) -> usize {
        self.lock().iter().filter(|listed| listed.ready).count()
    }

    /// All ids on the list.
    pub fn ids(&self) -> Vec<LinkId> {
        self.lock().iter().map(|listed| listed.link.id).collect()
    }

    /// Whether that link is one the producer waits for; `None` when it is not on the list.
    pub fn is_reliable(&self, id: LinkId) -> Option<bool> {
        self.lock().iter().find(|listed| listed.link.id == id).map(|listed| listed.link.reliable)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Listed<W>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Listed<W>>) -> bool) -> bool {
        let changed = change(&mut self.lock());
        if changed {
            // After the lock, so that nobody orders anything while holding it.
            // PAIRS links-changed: Release here, Acquire in version.
            self.version.add_release(0, 1, Fact::LinksChanged);
        }
        changed
    }

    /// Changes with the list.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        // PAIRS links-changed: Acquire here, Release in change.
        self.version.load_acquire(0, Fact::LinksChanged)
    }

    /// The list as it is now.
    pub(crate) fn copy(&self) -> Vec<Arc<Link<W>>> {
        self.lock().iter().map(|listed| Arc::clone(&listed.link)).collect()
    }
}
