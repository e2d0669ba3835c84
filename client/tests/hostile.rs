//! A dispatcher that says anything: random bytes, damaged records, good records that make no sense, with descriptors of
//! every wrong kind. A node that hears it neither panics nor hangs, and once a good dispatcher is there it works as before.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nodeset::{Node, NodeEvent};
use nodeset_bus::atomics::Words;
use nodeset_bus::log::segment_len;
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::message::Schema;
use nodeset_bus::page::{NODE_PAGE_LEN, NodePage, SIGNAL_PAGE_LEN};
use nodeset_bus::protocol::record::{self, Receiver, SendError};
use nodeset_bus::protocol::*;
use nodeset_bus::sys::Bell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tempfile::TempDir;

/// No test waits for a time to pass; this is only how long one that fails takes.
const DEADLINE: Duration = Duration::from_secs(60);
const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 4 };
/// How often the node is welcomed by the false dispatcher.
const SESSIONS: usize = 300;
/// Messages of a session, until it is ended by what is no message.
const MESSAGES: usize = 60;

/// splitmix64: the same sequence in every run
struct Draw(u64);

impl Draw {
    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.any() % limit as u64) as usize
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// Mostly a small one that may be right.
    fn number(&mut self) -> u32 {
        match self.below(4) {
            0 => self.any() as u32,
            1 => 65_530 + self.below(12) as u32,
            2 => 32_766 + self.below(4) as u32,
            _ => self.below(4) as u32,
        }
    }

    fn text(&mut self) -> String {
        ["", "in", "out", "false", "a/b", "\0\n\u{1b}[2J", "*/**"][self.below(7)].to_owned()
    }
}

/// What the false dispatcher says things about.
#[derive(Default)]
struct Heard {
    publications: Vec<(PublicationId, u64)>,
    subscriptions: Vec<SubscriptionId>,
    links: Vec<LinkId>,
}

struct FalseDispatcher {
    listener: OwnedFd,
    draw: Draw,
    heard: Heard,
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags) {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&timeout)).unwrap() > 0, "the node does nothing more");
}

impl FalseDispatcher {
    fn bind(path: &Path) -> FalseDispatcher {
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&listener, 16).unwrap();
        FalseDispatcher { listener, draw: Draw(1), heard: Heard::default() }
    }

    /// One session, from the node's coming to its going.
    fn session(&mut self) {
        wait(self.listener.as_fd(), PollFlags::IN);
        let mut session = Session { socket: accept(&self.listener).unwrap(), receiver: Receiver::new() };
        assert!(matches!(session.hear(), Some(ToDispatcher::Hello(_))));
        if self.draw.chance(8) {
            // Before it was welcomed.
            session.say(&self.nonsense());
        } else {
            let welcome = Welcome {
                name: "victim".to_owned(),
                host: self.draw.text(),
                dispatcher_pid: self.draw.number(),
                embedded: true,
                uid: rustix::process::geteuid().as_raw(),
            };
            session.say(&Said::new(ToNode::Welcome(welcome)));
            self.listen_to_hand_back(&mut session);
        }
        for said in self.introductions() {
            session.say(&said);
        }
        for _ in 0..self.draw.below(MESSAGES) {
            let said = self.anything();
            session.say(&said);
        }
        let end = Said { bytes: vec![self.draw.any() as u8; 1 + self.draw.below(100)], with: Vec::new() };
        session.say(&end);
        // Whoever hears that hangs up.
        while session.hear().is_some() {}
    }

    fn listen_to_hand_back(&mut self, session: &mut Session) {
        loop {
            match session.hear() {
                Some(ToDispatcher::Advertise(it)) => self.heard.publications.push((it.publication, it.epoch)),
                Some(ToDispatcher::Subscribe(it)) => self.heard.subscriptions.push(it.subscription),
                Some(ToDispatcher::HandedBack) => return,
                Some(_) => {}
                None => panic!("a node that was welcomed hands back what it has"),
            }
        }
    }

    /// What makes later messages go further than the first check.
    fn introductions(&mut self) -> Vec<Said> {
        let mut said: Vec<_> = (0..3).map(|node| self.peer(node)).collect();
        let uid = rustix::process::geteuid().as_raw();
        said.push(Said::with(ToNode::OwnSignal { uid }, [signal_page()]));
        said.push(Said::with(ToNode::OwnBell { uid }, [bell()]));
        said.extend((0..3).map(|node| Said::with(ToNode::Signal { node: NodeId(node) }, [signal_page()])));
        said
    }

    /// A node whose page, bell and process are good ones, but for the page's content.
    fn peer(&mut self, node: u64) -> Said {
        let page = Segment::create("page", NODE_PAGE_LEN).unwrap();
        let words = SharedWords::mapped(page.map_writable().unwrap());
        NodePage::create(words.clone());
        for _ in 0..100 {
            words.store(8 + 8 * self.draw.below(2000), self.draw.any());
        }
        page.seal_for_one_writer().unwrap();
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let peer = Peer { node: NodeId(node), name: self.draw.text(), uid, pid: self.draw.number() };
        Said::with(ToNode::Peer(peer), [page.into(), bell(), pidfd])
    }

    fn anything(&mut self) -> Said {
        let mut said = self.nonsense();
        if self.draw.chance(3) {
            said.with.truncate(self.draw.below(3));
            for _ in 0..self.draw.below(4) {
                let descriptor = self.descriptor();
                said.with.insert(self.draw.below(said.with.len() + 1), descriptor);
            }
        }
        if self.draw.chance(40) {
            for _ in 0..1 + self.draw.below(4) {
                let at = self.draw.below(said.bytes.len());
                said.bytes[at] = self.draw.any() as u8;
            }
        }
        said
    }

    /// A record that can be read.
    fn nonsense(&mut self) -> Said {
        let link = self.link();
        let node = NodeId(self.draw.below(4) as u64);
        let (line, tag, slot) = (self.draw.number(), self.draw.any() as u16, self.draw.number());
        let reliable = self.draw.chance(2);
        match self.draw.below(26) {
            0..=5 => Said::new(ToNode::ListLink(ListLink { link, subscriber: node, line, tag, reliable })),
            6..=10 => {
                let topic = self.draw.text();
                let enter = EnterLink {
                    link,
                    publisher: node,
                    topic,
                    schema: Schema::bytes(),
                    shape: if self.draw.chance(4) { self.shape() } else { SHAPE },
                    slot,
                    lane: self.draw.chance(3).then(|| self.draw.any()),
                    origin: self.draw.chance(3).then(|| Origin {
                        host: self.draw.text(),
                        node: self.draw.text(),
                        base_name: self.draw.text(),
                        publication: link.publication,
                        epoch: self.draw.any(),
                    }),
                    line,
                    tag,
                    reliable,
                };
                Said::with(ToNode::EnterLink(enter), [self.log()])
            }
            11 => {
                let granted = ToNode::LogGranted { publication: link.publication, shape: self.shape(), slot };
                Said::with(granted, [self.log()])
            }
            12 => {
                let expected = vec![Expected { link, node: self.draw.text(), late: reliable }];
                Said::new(ToNode::Advertised { publication: link.publication, expected, mismatched: Vec::new() })
            }
            13 => Said::new(ToNode::Subscribed {
                subscription: link.subscription,
                expected: Vec::new(),
                mismatched: vec![self.mismatch(link)],
            }),
            14..=15 => Said::new(ToNode::LinkReady { link }),
            16 => Said::new(ToNode::Demote { link }),
            17 => Said::new(ToNode::RemoveLink { link, died: false }),
            18 => {
                let reason = if reliable { EndReason::Died } else { EndReason::Withdrawn };
                Said::new(ToNode::LinkEnded { link, reason })
            }
            19 => Said::new(ToNode::ForgetPeer { node, died: reliable }),
            20 => self.peer(node.0),
            21 => {
                let about = [
                    About::Replace,
                    About::Link(link),
                    About::Publication(link.publication),
                    About::Subscription(link.subscription),
                ][self.draw.below(4)];
                Said::new(ToNode::Refused { about, code: RefusalCode::Damaged, text: self.draw.text() })
            }
            22 => Said::new(ToNode::Renamed { name: self.draw.text() }),
            23 => Said::new(ToNode::Mismatch(self.mismatch(link))),
            24 => {
                let (topic, text) = (self.draw.text(), self.draw.text());
                Said::new(ToNode::Denied { subscription: link.subscription, topic, text })
            }
            _ => self.end_of_session(),
        }
    }

    fn end_of_session(&mut self) -> Said {
        let by = NameHolder { name: self.draw.text(), pid: self.draw.number(), uid: 0, seconds: self.draw.any() };
        Said::new(match self.draw.below(6) {
            0 => ToNode::Leaving,
            1 => ToNode::Replaced(by),
            2 => ToNode::NameTaken(by),
            3 => ToNode::Refused { about: About::Session, code: RefusalCode::Protocol, text: self.draw.text() },
            4 => ToNode::ListingEnd,
            _ => ToNode::LinkLate { link: self.link() },
        })
    }

    fn link(&mut self) -> LinkId {
        let Heard { publications, subscriptions, links } = &mut self.heard;
        // Mostly one of the last few: their messages meet.
        if !links.is_empty() && !self.draw.chance(4) {
            let last = links.len().min(4);
            return links[links.len() - 1 - self.draw.below(last)];
        }
        let mut link = LinkId {
            publication: PublicationId(self.draw.any()),
            epoch: self.draw.any(),
            subscription: SubscriptionId(self.draw.any()),
        };
        // One end of it is the node's own.
        if self.draw.chance(2) && !publications.is_empty() {
            (link.publication, link.epoch) = publications[self.draw.below(publications.len())];
        } else if !subscriptions.is_empty() {
            link.subscription = subscriptions[self.draw.below(subscriptions.len())];
        }
        links.push(link);
        link
    }

    fn mismatch(&mut self, link: LinkId) -> Mismatch {
        let LinkId { publication, subscription, .. } = link;
        let (topic, node, difference) = (self.draw.text(), self.draw.text(), self.draw.text());
        Mismatch { publication, subscription, topic, node, difference }
    }

    fn shape(&mut self) -> LogShape {
        LogShape { block_len: 1 << self.draw.below(32), blocks: self.draw.number() }
    }

    /// Memory that has the size, the seals and the first words of a log.
    fn log(&mut self) -> OwnedFd {
        let log = Segment::create("log", segment_len(SHAPE)).unwrap();
        let words = SharedWords::mapped(log.map_writable().unwrap());
        for _ in 0..self.draw.below(400) {
            words.store(8 * self.draw.below(words.len() / 8), self.draw.any() >> self.draw.below(64));
        }
        let first = u64::from_le_bytes(*b"NSETLOG\x01");
        for (at, word) in [(0, first), (0x10, SHAPE.block_len.into()), (0x18, SHAPE.blocks.into())] {
            words.store(at, word);
        }
        if !self.draw.chance(8) {
            log.seal_for_one_writer().unwrap();
        }
        log.into()
    }

    fn descriptor(&mut self) -> OwnedFd {
        match self.draw.below(8) {
            0 => std::fs::File::open("/dev/null").unwrap().into(),
            1 => std::fs::File::open("/").unwrap().into(),
            2 => rustix::pipe::pipe().unwrap().0,
            3 => self.listener.try_clone().unwrap(),
            4 => bell(),
            5 => signal_page(),
            6 => Segment::create("short", 1).unwrap().into(),
            _ => self.log(),
        }
    }
}

fn bell() -> OwnedFd {
    Bell::new().unwrap().fd().try_clone_to_owned().unwrap()
}

fn signal_page() -> OwnedFd {
    Segment::create_shared("signal", SIGNAL_PAGE_LEN).unwrap().into()
}

/// A record and what goes with it.
struct Said {
    bytes: Vec<u8>,
    with: Vec<OwnedFd>,
}

impl Said {
    fn new(message: ToNode) -> Said {
        Said::with(message, [])
    }

    fn with<const N: usize>(message: ToNode, descriptors: [OwnedFd; N]) -> Said {
        Said { bytes: record::encode(&message).unwrap().to_vec(), with: descriptors.into() }
    }
}

struct Session {
    socket: OwnedFd,
    receiver: Receiver,
}

impl Session {
    /// Says it; whether the node still listens does not matter.
    fn say(&mut self, said: &Said) {
        let descriptors: Vec<_> = said.with.iter().map(AsFd::as_fd).collect();
        while let Err(error) = record::send_bytes(self.socket.as_fd(), &said.bytes, &descriptors) {
            match error {
                SendError::WouldBlock => wait(self.socket.as_fd(), PollFlags::OUT),
                SendError::Closed => return,
                other => panic!("{other}"),
            }
        }
    }

    /// What the node says next; `None` once it hung up.
    fn hear(&mut self) -> Option<ToDispatcher> {
        loop {
            match self.receiver.receive(self.socket.as_fd()) {
                Ok(Some(received)) => return Some(received.message),
                Ok(None) => wait(self.socket.as_fd(), PollFlags::IN),
                Err(record::RecordError::Closed) => return None,
                Err(other) => panic!("a node speaks the protocol, whatever it hears: {other}"),
            }
        }
    }
}

#[test]
fn a_node_outlives_a_dispatcher_that_says_anything() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("d.sock");
    let keeper = Node::builder("keeper").socket(&path).embedded().connect().unwrap();
    let victim = Node::builder("victim").socket(&path).connect().unwrap();
    let (sender, events) = channel();
    victim.on_event(move |event| drop(sender.send(event.clone())));
    let mut publisher = victim.publisher::<[u8]>("out").create().unwrap();
    let mut subscriber = victim.subscriber::<[u8]>("in").reliable().create().unwrap();
    drop(keeper);
    // It removes its socket when it leaves in order; if not, this one takes its place.
    let _ = std::fs::remove_file(&path);

    let mut dispatcher = FalseDispatcher::bind(&path);
    for _ in 0..SESSIONS {
        victim.reconnect_now();
        dispatcher.session();
        // What was linked meanwhile is used: an error is all that may come of it.
        let _ = publisher.try_publish(&[0; 300]);
        let _ = subscriber.receive_timeout(Duration::ZERO);
    }
    drop(dispatcher);
    std::fs::remove_file(&path).unwrap();
    let events: Vec<_> = events.try_iter().collect();
    let linked = |as_publisher: bool| {
        let so = |event: &NodeEvent| matches!(event, NodeEvent::Linked { peer_subscribes, .. } if *peer_subscribes == as_publisher);
        events.iter().filter(|event| so(event)).count()
    };
    println!("{} links as publisher, {} as subscriber", linked(true), linked(false));
    assert!(linked(true) > 0 && linked(false) > 0, "some of it goes as far as a link");

    let keeper = Node::builder("keeper").socket(&path).embedded().connect().unwrap();
    victim.reconnect_now();
    let mut to_victim = keeper.publisher::<[u8]>("in").create().unwrap();
    let mut from_victim = keeper.subscriber::<[u8]>("out").reliable().create().unwrap();
    to_victim.wait_for_subscribers(1, DEADLINE).unwrap();
    publisher.wait_for_subscribers(1, DEADLINE).unwrap();
    to_victim.publish(b"to the victim").unwrap();
    let until = Instant::now() + DEADLINE;
    // What false publishers left in its logs may come first, and errors.
    while !subscriber.receive_timeout(DEADLINE).is_ok_and(|it| it.is_some_and(|it| *it == *b"to the victim")) {
        assert!(Instant::now() < until, "the message of a good publisher does not arrive");
    }
    publisher.publish(b"from the victim").unwrap();
    assert_eq!(*from_victim.receive_timeout(DEADLINE).unwrap().unwrap(), *b"from the victim");
}
