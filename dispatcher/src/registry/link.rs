//! One link and how far either end has got with it.

use nodeset_bus::protocol::{EndReason, NodeId};

/// How far the publisher has got.
///
/// ```text
/// Unknown -(it names the link, or the grace period ends)-> Listed | Gone
/// Waiting -ListLink-> Asked -LinkListed-> Listed -RemoveLink-> Removing -LinkRemoved-> Gone
/// ```
/// From each state, withdrawal of the publication and the publisher's death lead to `Gone`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublisherEnd {
    /// Only the subscriber named this link, to a dispatcher that did not make it.
    Unknown,
    /// It has not heard of the link.
    Waiting,
    /// `ListLink` was sent.
    Asked,
    /// The link is on its list.
    Listed,
    /// `RemoveLink` was sent.
    Removing,
    /// It does not look at the line any more.
    Gone,
}

/// How far the subscriber has got.
///
/// ```text
/// Unknown -(it names the link)-> Entered
/// Waiting -EnterLink-> Asked -LinkEntered-> Entered -LinkEnded-> Ending -LinkLeft-> Gone
/// ```
/// From each state, `LinkLeft`, the end of the subscription and the subscriber's death lead to `Gone`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubscriberEnd {
    /// Only the publisher named this link, to a dispatcher that did not make it.
    Unknown,
    /// It has not heard of the link.
    Waiting,
    /// `EnterLink` was sent.
    Asked,
    /// It is in the log.
    Entered,
    /// `LinkEnded` was sent; it drains the log.
    Ending(EndReason),
    /// It does not write the line any more.
    Gone,
}

/// A link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) publisher: NodeId,
    pub(super) subscriber: NodeId,
    /// in the subscriber's node page
    pub(super) line: u32,
    /// never 0
    pub(super) tag: u16,
    /// `line` is taken in the subscriber's table; false while the subscriber has not said whether it knows the link
    pub(super) line_taken: bool,
    pub(super) reliable: bool,
    /// The publisher does not wait for it; its pins stay.
    pub(super) demoted: bool,
    /// It was demoted at some time: its reader may learn so at its next block, and leave in order to be linked afresh.
    pub(super) ever_demoted: bool,
    /// `LinkReady` was sent.
    pub(super) announced: bool,
    pub(super) publishing: PublisherEnd,
    pub(super) reading: SubscriberEnd,
}

impl Link {
    /// Both ends have it and the publisher knows.
    pub(super) fn is_ready(&self) -> bool {
        self.publishing == PublisherEnd::Listed && self.reading == SubscriberEnd::Entered
    }

    /// Only one end named it so far.
    pub(super) fn is_half(&self) -> bool {
        self.publishing == PublisherEnd::Unknown || self.reading == SubscriberEnd::Unknown
    }

    /// It is being made: neither ready nor ending.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.publishing, PublisherEnd::Waiting | PublisherEnd::Asked | PublisherEnd::Listed)
            && matches!(self.reading, SubscriberEnd::Waiting | SubscriberEnd::Asked | SubscriberEnd::Entered)
            && !self.is_ready()
    }
}
