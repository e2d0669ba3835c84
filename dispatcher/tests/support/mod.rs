//! A raw client of the control protocol, and a dispatcher to talk to.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nodeset_bus::log;
use nodeset_bus::memory::{Mapping, Segment};
use nodeset_bus::message::Schema;
use nodeset_bus::protocol::record::{self, Receiver, RecordError, SendError};
use nodeset_bus::protocol::*;
use nodeset_dispatcher::registry::Limits;
use nodeset_dispatcher::{Config, Dispatcher, Ended, Endpoint, Patience, Shutdown};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// No test waits for a time to pass; this is only how long one that fails takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const SHAPE: LogShape = LogShape { block_len: 4096, blocks: 4 };

/// A dispatcher on a thread of this process, at a path of its own.
pub(crate) struct Running {
    pub(crate) path: PathBuf,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Ended>>,
}

impl Running {
    pub(crate) fn start(directory: &Path) -> Running {
        Running::start_with(config(directory))
    }

    pub(crate) fn start_with(config: Config) -> Running {
        let path = config.endpoint.path().to_owned();
        let dispatcher = Dispatcher::bind(config).unwrap();
        let shutdown = Shutdown::new();
        let of_thread = shutdown.clone();
        let thread = std::thread::spawn(move || dispatcher.run(of_thread).unwrap());
        Running { path, shutdown, thread: Some(thread) }
    }

    pub(crate) fn stop(mut self) -> Ended {
        self.shutdown.request();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn config(directory: &Path) -> Config {
    let endpoint = Endpoint::resolve("test", Some(&directory.join("d.sock"))).unwrap();
    let config = Config::at(endpoint);
    // Nodes made by hand have no thread whose heart could beat.
    let patience = Patience { slow_after: Duration::from_secs(3600), stopped_after: Duration::from_secs(3600) };
    Config { limits: Limits { log_bytes: 1 << 30, ..config.limits }, patience, ..config }
}

/// The program.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) path: PathBuf,
    log: Option<JoinHandle<String>>,
}

impl Program {
    pub(crate) fn command(path: &Path) -> Command {
        let mut command = Program::bare();
        command.arg("--socket").arg(path).args(["--slow-after", "3600", "--stopped-after", "3600"]);
        command
    }

    /// Without a word about where its socket is.
    pub(crate) fn bare() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset-dispatcher"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it; when this returns, it can be connected to.
    pub(crate) fn start(path: &Path) -> Program {
        Program::start_with(Program::command(path), path)
    }

    pub(crate) fn start_with(mut command: Command, path: &Path) -> Program {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        for line in lines.by_ref().map(|line| line.unwrap()) {
            log += &line;
            log.push('\n');
            if line.contains("serving") {
                // Somebody must read what it logs from now on.
                let rest = std::thread::spawn(move || {
                    lines.for_each(|line| {
                        log += &line.unwrap();
                        log.push('\n');
                    });
                    log
                });
                return Program { child, path: path.to_owned(), log: Some(rest) };
            }
        }
        panic!("it ended before it served: {:?}, {log}", child.wait());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end; gives how it ended, and all that it logged.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        wait_for_end(&self.child);
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }

    /// As if the power went for it alone.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        self.ended();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait_for_end(child: &Child) {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    assert!(poll(&mut fds, Some(&timeout)).unwrap() > 0, "it did not end within {DEADLINE:?}");
}

/// Looks again and again until it is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < until, "never saw {what}");
        std::thread::yield_now();
    }
}

/// One session.
pub(crate) struct Raw {
    pub(crate) socket: OwnedFd,
    receiver: Receiver,
    waiting: VecDeque<(ToNode, Vec<OwnedFd>)>,
}

impl Raw {
    pub(crate) fn connect(path: &Path) -> Raw {
        Raw::try_connect(path).unwrap()
    }

    pub(crate) fn try_connect(path: &Path) -> rustix::io::Result<Raw> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Raw { socket, receiver: Receiver::new(), waiting: VecDeque::new() })
    }

    pub(crate) fn send(&self, message: &ToDispatcher, descriptors: &[BorrowedFd<'_>]) {
        loop {
            match record::send(self.socket.as_fd(), message, descriptors) {
                Ok(()) => return,
                Err(SendError::WouldBlock) => self.wait(PollFlags::OUT),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Sends, waiting for room; false when the dispatcher hung up.
    pub(crate) fn try_send(&self, message: &ToDispatcher) -> bool {
        loop {
            match record::send(self.socket.as_fd(), message, &[]) {
                Ok(()) => return true,
                Err(SendError::WouldBlock) => self.wait(PollFlags::OUT),
                Err(SendError::Closed) => return false,
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// As many descriptors as the kernel takes.
    pub(crate) fn send_many(&self, record: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&[]).size() + 4 * 253];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        sendmsg(&self.socket, &[IoSlice::new(record)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    /// Says no more, and listens.
    pub(crate) fn hang_up_after_words(&self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).unwrap();
    }

    fn wait(&self, flags: PollFlags) {
        let mut fds = [PollFd::new(&self.socket, flags)];
        let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        assert!(poll(&mut fds, Some(&timeout)).unwrap() > 0, "nothing came within {DEADLINE:?}");
    }

    /// The next message; `None` when the dispatcher hung up.
    pub(crate) fn next(&mut self) -> Option<(ToNode, Vec<OwnedFd>)> {
        if let Some(waiting) = self.waiting.pop_front() {
            return Some(waiting);
        }
        loop {
            match self.receiver.receive::<ToNode>(self.socket.as_fd()) {
                Ok(Some(received)) => return Some((received.message, received.descriptors)),
                Ok(None) => self.wait(PollFlags::IN),
                Err(RecordError::Closed) => return None,
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The first message that `wanted` takes; those before it are kept for later, in order.
    pub(crate) fn expect<T>(&mut self, what: &str, wanted: impl Fn(&ToNode) -> Option<T>) -> (T, Vec<OwnedFd>) {
        let mut passed = VecDeque::new();
        loop {
            let Some((message, descriptors)) = self.next() else { panic!("hung up before {what}; passed: {passed:?}") };
            if let Some(found) = wanted(&message) {
                passed.append(&mut self.waiting);
                self.waiting = passed;
                return (found, descriptors);
            }
            passed.push_back((message, descriptors));
        }
    }

    pub(crate) fn expect_refused(&mut self, about: About) -> (RefusalCode, String) {
        self.expect("Refused", |message| match message {
            ToNode::Refused { about: said, code, text } if *said == about => Some((*code, text.clone())),
            _ => None,
        })
        .0
    }

    /// What was passed over and is wanted now, without waiting for more.
    pub(crate) fn passed<T>(&mut self, wanted: impl Fn(&ToNode) -> Option<T>) -> Vec<(T, Vec<OwnedFd>)> {
        let (mut found, mut rest) = (Vec::new(), VecDeque::new());
        for (message, descriptors) in self.waiting.drain(..) {
            match wanted(&message) {
                Some(it) => found.push((it, descriptors)),
                None => rest.push_back((message, descriptors)),
            }
        }
        self.waiting = rest;
        found
    }

    /// Ends the session, as if the connection alone had been cut.
    pub(crate) fn hang_up(&mut self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
    }

    /// Reads until the dispatcher hangs up; what came before is given.
    pub(crate) fn until_closed(&mut self) -> Vec<ToNode> {
        std::iter::from_fn(|| self.next()).map(|(message, _)| message).collect()
    }

    pub(crate) fn list(&mut self) -> Vec<Listing> {
        self.send(&ToDispatcher::List, &[]);
        let mut rows = Vec::new();
        loop {
            match self.next().expect("the listing goes on").0 {
                ToNode::Listing(row) => rows.push(row),
                ToNode::ListingEnd => return rows,
                _ => {}
            }
        }
    }
}

/// A tool's session.
pub(crate) fn tool(path: &Path) -> Raw {
    let mut raw = Raw::connect(path);
    let hello = Hello::tool(NodeId(random()), "tool");
    raw.send(&ToDispatcher::Hello(hello), &[]);
    raw.expect("Welcome", |message| matches!(message, ToNode::Welcome(_)).then_some(()));
    raw
}

/// Looks at the table until it is as wanted.
pub(crate) fn wait_for_rows(path: &Path, what: &str, wanted: impl Fn(&[Listing]) -> bool) {
    let mut tool = tool(path);
    wait_until(what, || wanted(&tool.list()));
}

/// A node.
pub(crate) struct RawNode {
    pub(crate) raw: Raw,
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) page: Segment,
    pub(crate) page_mapping: Mapping,
    pub(crate) life_line: OwnedFd,
    /// What the dispatcher watches; the same one for all sessions, since cutting one is dying.
    life_line_end: OwnedFd,
    pub(crate) logs: Vec<(Segment, Mapping)>,
    /// Each with its slot.
    published: Vec<(Advertise, u32)>,
    subscribed: Vec<Subscribe>,
    links: Vec<HeldLink>,
    bells: Vec<(u32, OwnedFd)>,
    signals: Vec<(u32, OwnedFd)>,
}

impl RawNode {
    pub(crate) fn attach(path: &Path, name: &str) -> RawNode {
        let mut raw = Raw::connect(path);
        let (life_line_end, life_line) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let id = NodeId(random());
        let hello = Hello::new(id, name);
        raw.send(&ToDispatcher::Hello(hello), &[life_line_end.as_fd()]);
        let (name, mut descriptors) = raw.expect("Welcome", |message| match message {
            ToNode::Welcome(welcome) => Some(welcome.name.clone()),
            _ => None,
        });
        assert_eq!(descriptors.len(), 1);
        let page = Segment::from_fd(descriptors.remove(0)).unwrap();
        let page_mapping = page.map_writable().unwrap();
        page.seal_for_one_writer().unwrap();
        raw.send(&ToDispatcher::PageReady, &[]);
        RawNode {
            raw,
            id,
            name,
            page,
            page_mapping,
            life_line,
            life_line_end,
            logs: Vec::new(),
            published: Vec::new(),
            subscribed: Vec::new(),
            links: Vec::new(),
            bells: Vec::new(),
            signals: Vec::new(),
        }
    }

    /// Comes back, to the same dispatcher or another one, with all that it holds.
    pub(crate) fn hand_back(&mut self, path: &Path) {
        let own_bell = |message: &ToNode| if let ToNode::OwnBell { uid } = message { Some(*uid) } else { None };
        for (uid, mut descriptors) in self.raw.passed(own_bell) {
            self.bells.push((uid, descriptors.remove(0)));
        }
        let own_signal = |message: &ToNode| if let ToNode::OwnSignal { uid } = message { Some(*uid) } else { None };
        for (uid, mut descriptors) in self.raw.passed(own_signal) {
            self.signals.push((uid, descriptors.remove(0)));
        }
        self.reattach(path);
        for (uid, bell) in &self.bells {
            self.raw.send(&ToDispatcher::Bell { uid: *uid }, &[bell.as_fd()]);
        }
        for (uid, signal) in &self.signals {
            self.raw.send(&ToDispatcher::Signal { uid: *uid }, &[signal.as_fd()]);
        }
        for ((advertise, slot), (log, _)) in self.published.iter().zip(&self.logs) {
            let advertise = Advertise { slot: Some(*slot), ..advertise.clone() };
            self.raw.send(&ToDispatcher::Advertise(advertise), &[log.fd()]);
        }
        for subscribe in &self.subscribed {
            self.raw.send(&ToDispatcher::Subscribe(subscribe.clone()), &[]);
        }
        for link in &self.links {
            self.raw.send(&ToDispatcher::HeldLink(*link), &[]);
        }
        self.has_handed_back();
    }

    /// Attaches to a successor with the same page.
    pub(crate) fn reattach(&mut self, path: &Path) {
        self.raw = Raw::connect(path);
        let hello = Hello::back(self.id, self.name.clone());
        self.raw.send(&ToDispatcher::Hello(hello), &[self.life_line_end.as_fd(), self.page.fd()]);
        let (name, descriptors) = self.raw.expect("Welcome", |message| match message {
            ToNode::Welcome(welcome) => Some(welcome.name.clone()),
            _ => None,
        });
        assert!(descriptors.is_empty());
        assert_eq!(name, self.name);
    }

    /// Makes a publication; gives what `Advertised` said.
    pub(crate) fn publish(&mut self, topic: &str, schema: Schema) -> (Advertise, u32, Vec<Expected>, Vec<Mismatch>) {
        let publication = PublicationId(random());
        let advertise = Advertise {
            publication,
            epoch: 1,
            topic: topic.to_owned(),
            schema,
            shape: SHAPE,
            slot: None,
            lane: None,
            origin: None,
        };
        self.raw.send(&ToDispatcher::Advertise(advertise.clone()), &[]);
        let (slot, mut descriptors) = self.raw.expect("LogGranted", |message| match message {
            ToNode::LogGranted { publication: granted, shape, slot } if *granted == publication => {
                assert_eq!(*shape, SHAPE);
                Some(*slot)
            }
            _ => None,
        });
        let log = Segment::from_fd(descriptors.remove(0)).unwrap();
        assert_eq!(log.len(), log::segment_len(SHAPE));
        let mapping = log.map_writable().unwrap();
        log.seal_for_one_writer().unwrap();
        self.logs.push((log, mapping));
        self.raw.send(&ToDispatcher::LogReady { publication }, &[]);
        let ((expected, mismatched), _) = self.raw.expect("Advertised", |message| match message {
            ToNode::Advertised { publication: live, expected, mismatched } if *live == publication => {
                Some((expected.clone(), mismatched.clone()))
            }
            _ => None,
        });
        self.published.push((advertise.clone(), slot));
        (advertise, slot, expected, mismatched)
    }

    /// Makes a subscription; gives what `Subscribed` said.
    pub(crate) fn subscribe(
        &mut self,
        topic: &str,
        schema: Option<Schema>,
    ) -> (Subscribe, Vec<Expected>, Vec<Mismatch>) {
        let subscription = SubscriptionId(random());
        let subscribe =
            Subscribe { subscription, topic: topic.to_owned(), schema, reliable: true, weight: 1, across_ms: None };
        self.raw.send(&ToDispatcher::Subscribe(subscribe.clone()), &[]);
        let ((expected, mismatched), _) = self.raw.expect("Subscribed", |message| match message {
            ToNode::Subscribed { subscription: live, expected, mismatched } if *live == subscription => {
                Some((expected.clone(), mismatched.clone()))
            }
            _ => None,
        });
        self.subscribed.push(subscribe.clone());
        (subscribe, expected, mismatched)
    }

    pub(crate) fn expect_list_link(&mut self) -> ListLink {
        self.raw.expect("ListLink", |message| if let ToNode::ListLink(it) = message { Some(*it) } else { None }).0
    }

    pub(crate) fn expect_enter_link(&mut self) -> (EnterLink, Segment) {
        let (enter, mut descriptors) = self
            .raw
            .expect("EnterLink", |message| if let ToNode::EnterLink(it) = message { Some(it.clone()) } else { None });
        (enter, Segment::from_fd(descriptors.remove(0)).unwrap())
    }

    pub(crate) fn expect_message(&mut self, wanted: ToNode) {
        let what = format!("{wanted:?}");
        self.raw.expect(&what, |message| (*message == wanted).then_some(()));
    }

    /// To be handed back as a link that this node entered.
    pub(crate) fn hold(&mut self, entered: &EnterLink) {
        let EnterLink { link, publisher: peer, line, tag, reliable, .. } = *entered;
        self.links.push(HeldLink { link, peer, end: End::Subscriber, line, tag, reliable, demoted: false });
    }

    /// Another node is gone, and this one has let go of its links.
    pub(crate) fn forget_links_with(&mut self, other: &RawNode) {
        self.links.retain(|link| link.peer != other.id);
    }

    pub(crate) fn has_handed_back(&mut self) {
        self.raw.send(&ToDispatcher::HandedBack, &[]);
    }
}

/// Goes through the making of a link between two nodes of this process.
pub(crate) fn link(publisher: &mut RawNode, subscriber: &mut RawNode) -> (ListLink, EnterLink) {
    let listed = publisher.expect_list_link();
    publisher.raw.send(&ToDispatcher::LinkListed { link: listed.link }, &[]);
    let (entered, log) = subscriber.expect_enter_link();
    assert_eq!((listed.link, listed.line, listed.tag), (entered.link, entered.line, entered.tag));
    assert!(publisher.logs.iter().any(|(own, _)| own.is_same_memory(&log)));
    subscriber.raw.send(&ToDispatcher::LinkEntered { link: entered.link }, &[]);
    publisher.expect_message(ToNode::LinkReady { link: listed.link });
    let ListLink { link, line, tag, reliable, .. } = listed;
    let held = |peer, end| HeldLink { link, peer, end, line, tag, reliable, demoted: false };
    publisher.links.push(held(subscriber.id, End::Publisher));
    subscriber.links.push(held(publisher.id, End::Subscriber));
    (listed, entered)
}

pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u64::from_ne_bytes(bytes)
}
