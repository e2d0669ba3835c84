//! The control protocol: what nodes and their dispatcher say to each other.
//!
//! One record of a `SOCK_SEQPACKET` Unix socket carries one message ([`ToDispatcher`] or [`ToNode`]) and at most
//! [`MAX_DESCRIPTORS`](record::MAX_DESCRIPTORS) descriptors; [`record`] puts messages into records and takes them out.
//! Every message about a link is idempotent: a side that hears one twice answers as it did the first time.
//!
//! # The life of a session
//!
//! ```text
//! node                                         dispatcher
//! Hello + [life-line (+ page)]       ->
//!                                    <-        Welcome (+ page, unless the node handed its own back)
//! PageReady                          ->        (the node mapped its page and added the last seals)
//! (hand-back only: Bell.., Signal.., Advertise + log.., Subscribe.., HeldLink..) HandedBack ->
//! Advertise                          ->
//!                                    <-        LogGranted + [log]
//! LogReady                           ->        (the dispatcher reads seals and size from its own descriptor)
//!                                    <-        Advertised
//! Subscribe                          ->
//!                                    <-        Subscribed
//! ```
//!
//! # The life of a link (publication P of node A to subscription S of node B)
//!
//! ```text
//! A                    dispatcher                     B
//!   <- Peer B + [page, bell, pidfd]                         once a (A, B), before the first link
//!   <- OwnSignal + [signal page]                            once a (A, user of B)
//!   <- ListLink
//! LinkListed ->                                             A put the link on its list
//!                Peer A + [page, bell, pidfd] ->            once a (B, A)
//!                Signal A + [signal page] ->                once a (B, A)
//!                EnterLink + [log] ->
//!                                     <- LinkEntered        B entered the log
//!   <- LinkReady
//! ```
//!
//! # The lanes of a direct publication D of node A
//!
//! ```text
//! A                    dispatcher                     B
//! AdvertiseDirect ->
//!                             <- Subscribe                  S, of D's topic and type
//!   <- LaneWanted                                           once a (D, S)
//! Advertise + lane ->                                       L, a log of its own; linked to S alone, as above
//! ```
//!
//! When S is gone, A may pass what it had not handled on: `PassLane` names another subscription, with which L is linked then.
//!
//! It ends by `RemoveLink` to A (B left or died), which A confirms with `LinkRemoved` once its producer no longer looks
//! at the line, or by `LinkEnded` to B (P was withdrawn or A died). A session that ends while the process lives only
//! demotes: `Demote` to A.

// rkyv's derive makes public types whose fields it does not document.
#![allow(missing_docs, reason = "the archived forms that rkyv derives have fields without documentation")]

pub mod endpoint;
mod naming;
pub mod record;

use rkyv::{Archive, Deserialize, Serialize};

pub use naming::{Claim, Health, Hello, NameHolder, NodeState};

use crate::message::Schema;

/// The major version: both ends must have the same one.
pub const VERSION_MAJOR: u16 = 1;
/// The minor version: a higher one adds messages that the other end may refuse but never misreads.
pub const VERSION_MINOR: u16 = 0;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[rkyv(derive(Debug))]
        pub struct $name(pub u64);

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({:016x})"), self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

id! {
    /// A node, as long as it lives; drawn at random by the node, so it survives the dispatcher.
    NodeId
}
id! {
    /// A publication (publisher x topic), drawn at random by its node.
    PublicationId
}
id! {
    /// A subscription (subscriber x topic), drawn at random by its node.
    SubscriptionId
}

impl PublicationId {
    /// The lane of a direct publication to that subscription: both ends of a link to come know its name.
    pub fn lane_to(self, subscription: SubscriptionId) -> PublicationId {
        // The finaliser of SplitMix64 (Steele, Lea, Flood 2014) mixes two random numbers into one.
        let mut mixed = self.0.rotate_left(32) ^ subscription.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        PublicationId(mixed ^ mixed >> 31)
    }
}

/// Names one link for good: the same publication restarted has another epoch.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    /// Whose log.
    pub publication: PublicationId,
    /// Which log of that publication: grows with each fresh log.
    pub epoch: u64,
    /// Who reads it.
    pub subscription: SubscriptionId,
}

/// How a publication's log is laid out.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogShape {
    /// Bytes of a block; a power of two, 4 KiB to 64 MiB.
    pub block_len: u32,
    /// How many blocks the pool may have; 0 asks for the dispatcher's default, `LogGranted` says what was given.
    pub blocks: u32,
}

/// Announces a publication. Attached when handed back: its sealed log.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Advertise {
    /// Which one.
    pub publication: PublicationId,
    /// Of its log.
    pub epoch: u64,
    /// Where it publishes: a plain topic, no pattern.
    pub topic: String,
    /// What it publishes.
    pub schema: Schema,
    /// Wished (or, handed back, existing) layout of the log.
    pub shape: LogShape,
    /// Its word in the node's signal pages, when handed back; else `None` and the dispatcher assigns one.
    pub slot: Option<u32>,
    /// It is a lane: for one subscription alone.
    pub lane: Option<LaneOf>,
    /// It repeats a publication of another host; only the dispatcher's own bridge may say so.
    pub origin: Option<Origin>,
}

/// A publication of another host, which a bridge repeats on this one.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of that host.
    pub host: String,
    /// Name of the publisher's node there.
    pub node: String,
    /// The name that this node had asked for.
    pub base_name: String,
    /// Which publication it is there.
    pub publication: PublicationId,
    /// Of its log there.
    pub epoch: u64,
}

/// Whose a lane is.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneOf {
    /// The direct publication.
    pub direct: PublicationId,
    /// The one subscription that it is linked with.
    pub to: SubscriptionId,
    /// Sequence of the first message that is for that subscription.
    pub first: u64,
}

/// Announces a direct publication: each message goes to one subscription, over a lane. It has no log of its own.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct AdvertiseDirect {
    /// Which one.
    pub publication: PublicationId,
    /// Where it publishes: a plain topic, no pattern.
    pub topic: String,
    /// What it publishes.
    pub schema: Schema,
}

/// To a direct publisher: a subscription wants a lane.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct LaneWanted {
    /// Whose.
    pub publication: PublicationId,
    /// Which subscription.
    pub subscription: SubscriptionId,
    /// Name of its node.
    pub node: String,
    /// Its share of the messages.
    pub weight: u16,
}

/// Asks for a topic.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Subscribe {
    /// Which one.
    pub subscription: SubscriptionId,
    /// What it subscribes.
    pub topic: String,
    /// What it can read; `None` reads anything (tools).
    pub schema: Option<Schema>,
    /// Keep everything for this subscriber, or let it lose what it is too slow for.
    pub reliable: bool,
    /// Its share of what direct publishers send; 0: it takes nothing of theirs.
    pub weight: u16,
    /// Milliseconds for which publishers of other hosts wait while it cannot take anything; `None`: they do not.
    pub across_ms: Option<u32>,
}

/// Which end of a link its sender is.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The publisher's.
    Publisher,
    /// The subscriber's.
    Subscriber,
}

/// A link as one end of it holds it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLink {
    /// Which one.
    pub link: LinkId,
    /// The node at the other end.
    pub peer: NodeId,
    /// Which end the sender is.
    pub end: End,
    /// The link's line in the subscriber's node page.
    pub line: u32,
    /// The tag its words carry.
    pub tag: u16,
    /// Its kind.
    pub reliable: bool,
    /// Whether it was demoted.
    pub demoted: bool,
}

/// From a node (or tool) to its dispatcher.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum ToDispatcher {
    /// First of all.
    Hello(Hello),
    /// The node page is mapped and carries its last seals.
    PageReady,
    /// Hand-back: one of the node's bells (attached), for peers of that user.
    Bell {
        /// Numeric user id of those who ring it.
        uid: u32,
    },
    /// Hand-back: one of the node's signal pages (attached), for subscribers of that user.
    Signal {
        /// Numeric user id of the subscribers.
        uid: u32,
    },
    /// Hand-back: one existing link.
    HeldLink(HeldLink),
    /// Hand-back is complete: what is not named by now is gone.
    HandedBack,
    /// Announces a publication; answered by `LogGranted` (or `Advertised` when handed back) or `Refused`.
    Advertise(Advertise),
    /// Announces a direct publication; answered by `Advertised` or `Refused`.
    AdvertiseDirect(AdvertiseDirect),
    /// That lane is linked with another subscription from now on.
    PassLane {
        /// Which lane.
        publication: PublicationId,
        /// With whom.
        to: SubscriptionId,
        /// Sequence of the first message that is for that one.
        first: u64,
    },
    /// The publication's log is mapped, initialised and carries its last seals; answered by `Advertised`.
    LogReady {
        /// Which one.
        publication: PublicationId,
    },
    /// The publication ends.
    Unadvertise {
        /// Which one.
        publication: PublicationId,
    },
    /// Asks for a topic; answered by `Subscribed` or `Refused`.
    Subscribe(Subscribe),
    /// The subscription ends and none of its samples is held any more.
    Unsubscribe {
        /// Which one.
        subscription: SubscriptionId,
    },
    /// Publisher: the link is on my list.
    LinkListed {
        /// Which one.
        link: LinkId,
    },
    /// Subscriber: I am in the log.
    LinkEntered {
        /// Which one.
        link: LinkId,
    },
    /// Publisher: the link is off my list, its line may be used again. Also said unasked when the subscriber's
    /// process died.
    LinkRemoved {
        /// Which one.
        link: LinkId,
    },
    /// Subscriber: I am done with that link (it ended and was drained, or could not be entered).
    LinkLeft {
        /// Which one.
        link: LinkId,
        /// Because the publisher gave it up: a fresh one is wanted.
        evicted: bool,
    },
    /// Asks for the table: answered by `Listing`s and `ListingEnd`.
    List,
    /// Asks to be told of all nodes of this host, now and whenever something about one changes, until the session ends:
    /// `NodeIs`, `NodeGone`, `NodesComplete`.
    WatchNodes,
    /// A dispatcher that starts asks the one that is there to leave the socket to it; answered by `Leaving` with the
    /// listening socket attached, or by `Refused`.
    Replace {
        /// Also if the one that is there is a standalone one: somebody said so on the command line.
        standalone: bool,
    },
    /// Leaves in order: the node's publications and subscriptions end.
    Goodbye,
}

/// What the dispatcher tells of itself.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The name this node has now.
    pub name: String,
    /// Name of this host.
    pub host: String,
    /// The dispatcher's process.
    pub dispatcher_pid: u32,
    /// It runs on a thread of some node's process.
    pub embedded: bool,
    /// The sender's own user, as the kernel told the dispatcher.
    pub uid: u32,
}

/// One end of a pending link, for people.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The link to come.
    pub link: LinkId,
    /// Name of the node at the other end.
    pub node: String,
    /// That node is slow or stopped: nobody should wait for it.
    pub late: bool,
}

/// Two ends of one topic that do not speak of the same type.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The publication.
    pub publication: PublicationId,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The topic.
    pub topic: String,
    /// The node at the other end.
    pub node: String,
    /// What differs, seen from the receiver of this message: "field `depth`: u32 here, u64 there".
    pub difference: String,
}

/// Why something was refused; the text that comes with it is for people.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The two protocol versions do not fit.
    Version,
    /// Malformed or out of order.
    Protocol,
    /// A name, topic or shape is not valid.
    Invalid,
    /// A limit was reached; the text names it.
    Limit,
    /// Not allowed.
    Denied,
    /// What was handed back is not what it must be.
    Damaged,
    /// The other side does not do that (replacing a standalone dispatcher unasked).
    Unsupported,
}

/// What a refusal is about.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The session itself: it is over.
    Session,
    /// A publication: it does not exist.
    Publication(PublicationId),
    /// A subscription: it does not exist.
    Subscription(SubscriptionId),
    /// A link: it does not exist.
    Link(LinkId),
    /// The request to replace the dispatcher.
    Replace,
}

/// Introduces a node at the other end of links. Attached: its node page, its bell for the receiver's user, its pidfd.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its user, as the kernel told the dispatcher.
    pub uid: u32,
    /// Its process, for people only (never used to find out whether it lives).
    pub pid: u32,
}

/// To a publisher: put this link on the list of that publication, then say `LinkListed`.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListLink {
    /// Which one.
    pub link: LinkId,
    /// The subscriber's node; introduced before.
    pub subscriber: NodeId,
    /// The link's line in the subscriber's node page.
    pub line: u32,
    /// The tag its words carry.
    pub tag: u16,
    /// Its kind.
    pub reliable: bool,
}

/// To a subscriber: enter that log, then say `LinkEntered`. Attached: the log.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct EnterLink {
    /// Which one.
    pub link: LinkId,
    /// The publisher's node; introduced before.
    pub publisher: NodeId,
    /// The concrete topic.
    pub topic: String,
    /// What the publication carries.
    pub schema: Schema,
    /// Layout of the log.
    pub shape: LogShape,
    /// The publication's word in the publisher's signal page.
    pub slot: u32,
    /// The link's line in the receiver's own node page.
    pub line: u32,
    /// The tag its words carry.
    pub tag: u16,
    /// Its kind.
    pub reliable: bool,
    /// The log is a lane, for the receiver alone, and begins for it with the message of that sequence.
    pub lane: Option<u64>,
    /// The log repeats one of another host: its messages are those of that publisher.
    pub origin: Option<Origin>,
}

/// Why a link ended for its subscriber.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The publisher withdrew the publication.
    Withdrawn,
    /// The publisher's process died.
    Died,
}

/// One row of the table, for people.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum Listing {
    /// A node.
    Node {
        /// Who and how it is.
        state: NodeState,
        /// It has a session with this dispatcher.
        attached: bool,
    },
    /// A publication.
    Publication {
        /// Its node's name.
        node: String,
        /// Its topic.
        topic: String,
        /// Its message type.
        schema: String,
        /// How many links are ready.
        links: u32,
    },
    /// A subscription.
    Subscription {
        /// Its node's name.
        node: String,
        /// Its topic.
        topic: String,
        /// Its message type; `any` where it reads anything.
        schema: String,
        /// Reliable or lossy.
        reliable: bool,
        /// How many links are ready.
        links: u32,
    },
}

/// From the dispatcher to a node (or tool).
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub enum ToNode {
    /// Answers `Hello`. Attached: the fresh node page, unless handed back or a tool.
    Welcome(Welcome),
    /// Something was refused.
    Refused {
        /// What.
        about: About,
        /// Why, for programs.
        code: RefusalCode,
        /// Why and what to do, for people.
        text: String,
    },
    /// Answers `Advertise`. Attached: the log, sized and sealed against resizing.
    LogGranted {
        /// Which one.
        publication: PublicationId,
        /// The layout given.
        shape: LogShape,
        /// Its word in the node's signal pages.
        slot: u32,
    },
    /// The publication exists now.
    Advertised {
        /// Which one.
        publication: PublicationId,
        /// The links that are being made to live subscriptions.
        expected: Vec<Expected>,
        /// Live subscriptions of the topic that want another type.
        mismatched: Vec<Mismatch>,
    },
    /// The subscription exists now.
    Subscribed {
        /// Which one.
        subscription: SubscriptionId,
        /// The links that are being made to live publications.
        expected: Vec<Expected>,
        /// Live publications of the topic that carry another type.
        mismatched: Vec<Mismatch>,
    },
    /// To a direct publisher.
    LaneWanted(LaneWanted),
    /// An end with another type appeared later, or does not keep the receiver from going on without it.
    Mismatch(Mismatch),
    /// To a subscriber: a publication that it means by a pattern is on a topic that its user may not subscribe.
    Denied {
        /// Which subscription.
        subscription: SubscriptionId,
        /// The publication's topic.
        topic: String,
        /// Why, for people.
        text: String,
    },
    /// Introduces the node at the other end.
    Peer(Peer),
    /// That node has no link with the receiver any more: what came with `Peer` and `Signal` may be dropped.
    ForgetPeer {
        /// Which node.
        node: NodeId,
        /// Its process died.
        died: bool,
    },
    /// One of the receiver's own signal pages (attached).
    OwnSignal {
        /// The user of the subscribers that share it.
        uid: u32,
    },
    /// One of the receiver's own bells (attached), to wait on; peers of that user ring it.
    OwnBell {
        /// The user of those who ring it.
        uid: u32,
    },
    /// The signal page (attached) of that publisher, for the receiver's user.
    Signal {
        /// Which publisher.
        node: NodeId,
    },
    /// To a publisher.
    ListLink(ListLink),
    /// To a subscriber.
    EnterLink(EnterLink),
    /// The other end of a link that is being made has become slow or stopped: nobody should wait for it any more. The link is
    /// made when it answers.
    LinkLate {
        /// Which one.
        link: LinkId,
    },
    /// To a publisher: the subscriber is in the log.
    LinkReady {
        /// Which one.
        link: LinkId,
    },
    /// To a publisher: no longer wait for that link; its pins stay.
    Demote {
        /// Which one.
        link: LinkId,
    },
    /// To a publisher: the subscriber left or died; take the link off the list, then say `LinkRemoved`.
    RemoveLink {
        /// Which one.
        link: LinkId,
        /// The subscriber's process died.
        died: bool,
    },
    /// To a subscriber: no more will come; drain, then say `LinkLeft`.
    LinkEnded {
        /// Which one.
        link: LinkId,
        /// Why.
        reason: EndReason,
    },
    /// Another node has the name that the receiver asked for: the session is over.
    NameTaken(NameHolder),
    /// That node has taken the receiver's name: the session is over. The receiver keeps its links, and does not come back
    /// by itself.
    Replaced(NameHolder),
    /// The receiver has this name from now on: a node that had its name before came back.
    Renamed {
        /// The new one.
        name: String,
    },
    /// To who watches: a node is there, or something about it changed.
    NodeIs(NodeState),
    /// To who watches: a node is not there any more.
    NodeGone {
        /// Which one.
        node: NodeId,
        /// Its process died; else it said goodbye.
        died: bool,
    },
    /// To who watches: whoever could come back after this dispatcher's start has had the time to. Nodes of which this
    /// dispatcher has not said that they are there are gone.
    NodesComplete,
    /// One row of the table.
    Listing(Listing),
    /// The table is complete.
    ListingEnd,
    /// The dispatcher leaves; a successor is there or will be: connect again. To the successor itself the listening
    /// socket is attached.
    Leaving,
}
