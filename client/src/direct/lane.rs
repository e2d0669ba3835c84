//! One lane, as its publisher holds it.

use std::sync::Arc;

use nodeset_bus::log::{Extensions, NoRoom, Reach};
use nodeset_bus::message::Message;
use nodeset_bus::outlet::{Outlet, OutletError};
use nodeset_bus::protocol::PublicationId;

use crate::session::OpenedLane;

/// See the module.
pub(super) struct Lane {
    pub(super) id: PublicationId,
    /// Name of its subscriber's node.
    pub(super) node: Arc<str>,
    pub(super) weight: u16,
    pub(super) outlet: Outlet,
    /// Its subscriber is in it: before that nothing is sent.
    pub(super) ready: bool,
    /// Messages that may still be sent before what is handled is looked up again.
    credit: u64,
}

/// What may wait in a lane.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// messages
    pub(super) most: u64,
    /// With less room than this, it counts as full; at least 1.
    pub(super) room: u64,
}

/// Why a lane did not take a message.
pub(super) enum Refusal {
    /// Its subscriber has too much to do.
    Full,
    /// No lane will ever take it.
    Never(OutletError),
}

impl Lane {
    pub(super) fn new(opened: OpenedLane, timestamps: bool) -> Lane {
        let OpenedLane { id, node, weight, mut outlet } = opened;
        outlet.set_stamping(timestamps);
        Lane { id, node, weight, outlet: *outlet, ready: false, credit: 0 }
    }

    /// Publishes on it, if it may get more for sure. Whatever is in the way is said by [`try_publish`](Self::try_publish).
    #[inline(always)]
    pub(super) fn publish_on_credit<T: Message + ?Sized>(&mut self, message: &T) -> bool {
        let taken = self.credit > 0 && self.outlet.publish_at_once(message).is_some();
        self.credit -= u64::from(taken);
        taken
    }

    /// Publishes on it, with a tag if there is one, unless its log has no room or so many messages wait in it that fewer than
    /// `room` more may come.
    pub(super) fn try_publish<T: Message + ?Sized>(
        &mut self,
        message: &T,
        tag: Option<u64>,
        limit: Limit,
    ) -> Result<(), Refusal> {
        if self.credit == 0 && !self.look(limit) {
            return Err(Refusal::Full);
        }
        let published = match tag {
            None => self.outlet.try_publish(message, Reach::Prompt),
            Some(_) => self.outlet.try_publish_extended(message, Extensions { tag, ..Extensions::NONE }, Reach::Prompt),
        };
        match published {
            Ok(_) => {
                self.credit -= 1;
                Ok(())
            }
            Err(OutletError::NoRoom(NoRoom::Behind(_) | NoRoom::Full(_) | NoRoom::Outgrown)) => Err(Refusal::Full),
            Err(never) => Err(Refusal::Never(never)),
        }
    }

    /// How much its subscriber has handled meanwhile. Says whether it may get more.
    fn look(&mut self, limit: Limit) -> bool {
        let room = if self.ready { limit.most.saturating_sub(self.waiting()) } else { 0 };
        self.credit = if room >= limit.room { room } else { 0 };
        self.credit > 0
    }

    /// Messages in it that are not handled.
    pub(super) fn waiting(&mut self) -> u64 {
        self.outlet.next_sequence() - self.outlet.done()
    }
}
