//! The loop around the registry: waits for the kernel, gives the registry what happened, and does what it wants.
//!
//! Edge-triggered, so whoever may have more to read stays on a list until it says that nothing is there. The work of a turn
//! is bounded ([`READS_A_TURN`], [`ACCEPTS_A_TURN`]), so that nobody who talks much keeps others waiting; events that turn
//! out to mean nothing are fine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nodeset_bus::protocol::record::{self, Receiver, RecordError, SendError};
use nodeset_bus::protocol::{About, NodeId, RefusalCode, ToDispatcher, ToNode};
use nodeset_bus::sys::{peer_credentials, peer_groups, peer_pidfd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tracing::{debug, error, info, warn};

use crate::allocate::{Descriptor, Store, chain, system_failure};
use crate::board::Keeper;
#[cfg(feature = "bridge")]
use crate::bridge::{self, Bridge, BridgeError, config::BridgeConfig};
use crate::health::Health;
use crate::heartbeats::Heartbeats;
use crate::policy::Policy;
use crate::registry::{Action, Failure, Handle, Identity, Input, Kind, News, Registry, SessionId, Settings, Task};
use crate::session::{Failed, Flushed, Session};
use crate::shutdown::Command;
use crate::socket::Listening;
use crate::{Config, Endpoint, RunError, Shutdown};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Sessions, pidfds and life-lines have the tokens from here on; none is used twice.
const FIRST_TOKEN: usize = 2;
/// Records that are read from one session before others have their turn.
const READS_A_TURN: usize = 64;
/// Connections that are accepted before others have their turn.
const ACCEPTS_A_TURN: usize = 64;
/// Rows of a listing that are made before others have their turn.
const ROWS_A_TURN: usize = 256;
const EVENTS_A_TURN: usize = 1024;
/// When the kernel refuses without saying when it would not: try again after this.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// How a dispatcher ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// Another dispatcher has its socket now.
    Replaced,
}

/// A dispatcher that has its socket.
#[derive(Debug)]
pub struct Dispatcher {
    config: Config,
    listening: Listening,
}

impl Dispatcher {
    /// Takes the socket: connections are accepted by the kernel from now on, and served once it [runs](Self::run).
    ///
    /// # Errors
    ///
    /// Somebody else has the socket, or it cannot be made.
    pub fn bind(config: Config) -> Result<Dispatcher, RunError> {
        let listening = Listening::take(&config.endpoint, config.replace, config.access)?;
        Ok(Dispatcher { config, listening })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.config.endpoint
    }

    /// Serves until `shutdown` is requested, or a successor has the socket.
    ///
    /// # Errors
    ///
    /// The kernel refuses what the loop cannot do without.
    pub fn run(self, shutdown: Shutdown) -> Result<Ended, RunError> {
        let path = self.listening.path().to_owned();
        let mut event_loop = EventLoop::new(self, shutdown)?;
        #[cfg(feature = "bridge")]
        event_loop.start_bridge()?;
        info!(event = "serving", socket = %path.display(), pid = std::process::id());
        let ended = event_loop.serve()?;
        event_loop.end(ended);
        info!(event = "ended", ?ended);
        Ok(ended)
    }
}

struct EventLoop {
    config: Config,
    listening: Listening,
    shutdown: Shutdown,
    poll: Poll,
    registry: Registry,
    sessions: BTreeMap<SessionId, Session>,
    /// Sessions that may have more to read.
    readable: BTreeSet<SessionId>,
    /// Sessions whose socket said that it takes more.
    writable: BTreeSet<SessionId>,
    /// Sessions to which the kernel takes nothing for now, without saying when it will.
    stalled: BTreeSet<SessionId>,
    /// When those are tried again.
    retry_at: Option<Instant>,
    /// Sessions that are sent a listing.
    listings: BTreeSet<SessionId>,
    store: Store,
    health: Health,
    heartbeats: Heartbeats,
    board: Option<Keeper>,
    receiver: Receiver,
    /// Connections may wait to be accepted.
    acceptable: bool,
    /// No connection is accepted before this time.
    accept_after: Option<Instant>,
    /// Given up for a moment when there are no more descriptors, so that whoever connects can be told.
    spare: Option<File>,
    next_token: usize,
    ended: Option<Ended>,
    #[cfg(feature = "bridge")]
    bridge: Option<Bridge>,
}

impl EventLoop {
    fn new(dispatcher: Dispatcher, shutdown: Shutdown) -> Result<EventLoop, RunError> {
        let Dispatcher { config, listening } = dispatcher;
        let failed = |doing| move |source| RunError::System { doing, source };
        let poll = Poll::new().map_err(failed("making an epoll descriptor"))?;
        let listener = listening.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&listener), LISTENER, Interest::READABLE)
            .map_err(failed("watching the socket"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(failed("making a waker"))?;
        shutdown.attach(waker).map_err(failed("attaching the shutdown"))?;
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| failed("drawing a random number")(error.into()))?;
        let registry = Registry::new(Settings {
            host: config.host.clone(),
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            embedded: config.embedded,
            started: Instant::now(),
            grace: config.grace,
            limits: config.limits,
            quotas: config.quotas,
            policy: config.policy.clone(),
            seed: u64::from_ne_bytes(seed),
        });
        let patience = config.patience;
        let board = Keeper::start(&config);
        Ok(EventLoop {
            board,
            config,
            listening,
            shutdown,
            poll,
            registry,
            sessions: BTreeMap::new(),
            readable: BTreeSet::new(),
            writable: BTreeSet::new(),
            stalled: BTreeSet::new(),
            retry_at: None,
            listings: BTreeSet::new(),
            store: Store::default(),
            health: Health::default(),
            heartbeats: Heartbeats::new(patience),
            receiver: Receiver::new(),
            // Whoever connected before the socket was handed to us is waiting already.
            acceptable: true,
            accept_after: None,
            spare: spare(),
            next_token: FIRST_TOKEN,
            ended: None,
            #[cfg(feature = "bridge")]
            bridge: None,
        })
    }

    fn serve(&mut self) -> Result<Ended, RunError> {
        let mut events = Events::with_capacity(EVENTS_A_TURN);
        loop {
            while let Some(command) = self.shutdown.next() {
                match command {
                    Command::Stop => return Ok(Ended::Stopped),
                    Command::Policy(policy) => self.set_policy(*policy),
                    #[cfg(feature = "bridge")]
                    Command::Bridge(config) => self.set_bridge(*config),
                }
            }
            match self.poll.poll(&mut events, self.wait_at_most()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(RunError::System { doing: "waiting for events", source }),
            }
            let mut suspects = BTreeSet::new();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.acceptable = true,
                    token => match self.health.node_of(token) {
                        Some(node) => {
                            suspects.insert(node);
                        }
                        None => {
                            self.note_session(token, event.is_readable() || event.is_read_closed(), event.is_writable())
                        }
                    },
                }
            }
            self.turn(suspects);
            if let Some(ended) = self.ended {
                return Ok(ended);
            }
        }
    }

    fn set_policy(&mut self, policy: Policy) {
        info!(event = "policy", path = policy.path().map(|it| it.display().to_string()), rules = policy.len());
        #[cfg(feature = "bridge")]
        if let Some(bridge) = &self.bridge {
            bridge.command(bridge::Command::Policy(Box::new(policy.clone())));
        }
        self.config.policy = policy.clone();
        self.registry.set_policy(policy);
    }

    fn note_session(&mut self, token: Token, readable: bool, writable: bool) {
        let session = SessionId(token.0 as u64);
        // One that ended in this very turn is no longer there.
        if self.sessions.contains_key(&session) {
            if readable {
                self.readable.insert(session);
            }
            // A send that the kernel refuses makes the socket writable again: whoever followed that would never rest.
            if writable && !self.stalled.contains(&session) {
                self.writable.insert(session);
            }
        }
    }

    /// One bounded piece of work.
    fn turn(&mut self, suspects: BTreeSet<NodeId>) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            self.writable.append(&mut self.stalled);
        }
        for session in std::mem::take(&mut self.writable) {
            self.flush(session);
        }
        for session in std::mem::take(&mut self.readable) {
            self.read(session);
        }
        // After what they said last.
        for node in suspects {
            if self.health.is_dead(node) {
                self.handle(Input::Died { node });
            }
        }
        self.accept();
        let now = Instant::now();
        if self.registry.poll_timeout().is_some_and(|due| due <= now) {
            self.registry.handle_timeout(now);
            self.carry_out();
        }
        let changed = self.heartbeats.look(now, |node| self.registry.attached_process(node));
        for (node, health) in changed {
            self.handle(Input::Health { node, health });
        }
        if let Some(board) = &mut self.board {
            #[cfg(feature = "bridge")]
            let peers = || self.bridge.as_ref().map(Bridge::peers).unwrap_or_default();
            #[cfg(not(feature = "bridge"))]
            let peers = Vec::new;
            board.look(now, &self.registry, &self.store, peers);
        }
        for session in std::mem::take(&mut self.listings) {
            self.list(session);
        }
    }

    fn wait_at_most(&self) -> Option<Duration> {
        let now = Instant::now();
        let lists = || self.listings.iter().any(|it| self.sessions.get(it).is_some_and(Session::has_room_for_listing));
        if !self.readable.is_empty() || lists() || (self.acceptable && self.accept_after.is_none_or(|at| at <= now)) {
            return Some(Duration::ZERO);
        }
        let accept = self.accept_after.filter(|_| self.acceptable);
        let board = self.board.as_ref().and_then(|board| board.due(now, &self.registry));
        let due = [self.registry.poll_timeout(), self.heartbeats.due(), board, accept, self.retry_at];
        let due = due.into_iter().flatten().min();
        due.map(|due| due.saturating_duration_since(now))
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token - 1)
    }

    fn accept(&mut self) {
        if !self.acceptable || self.accept_after.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.accept_after = None;
        for _ in 0..ACCEPTS_A_TURN {
            match accept_with(self.listening.as_fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.open(socket),
                Err(Errno::AGAIN) => {
                    self.acceptable = false;
                    return;
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                    if !self.turn_away(error) {
                        self.accept_after = Some(Instant::now() + TRY_AGAIN);
                        return;
                    }
                }
                Err(error) => {
                    warn!(event = "accept_failed", %error);
                    self.accept_after = Some(Instant::now() + TRY_AGAIN);
                    return;
                }
            }
        }
    }

    /// There are no more descriptors: the spare one is given up, so that whoever connects hears why not. False when that
    /// did not help either.
    fn turn_away(&mut self, error: Errno) -> bool {
        self.spare = None;
        let outcome = accept_with(self.listening.as_fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let turned_away = match outcome {
            Ok(socket) => {
                refuse(&socket, system_failure("accepting a connection", &error.into()));
                true
            }
            Err(_) => false,
        };
        self.spare = spare();
        turned_away
    }

    fn open(&mut self, socket: OwnedFd) {
        let opened = peer_credentials(socket.as_fd())
            .and_then(|who| Ok((who, peer_groups(socket.as_fd())?, peer_pidfd(socket.as_fd())?)));
        let (who, mut groups, pidfd) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // It died meanwhile, or there are no more descriptors.
                refuse(&socket, system_failure("finding out who connects", &error));
                debug!(event = "connection_dropped", %error);
                return;
            }
        };
        let token = self.token();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, interest) {
            refuse(&socket, system_failure("watching a connection", &error));
            return;
        }
        let session = SessionId(token.0 as u64);
        debug!(event = "session_opened", %session, pid = who.pid, uid = who.uid);
        self.sessions.insert(session, Session::new(socket, pidfd));
        self.readable.insert(session);
        groups.push(who.gid);
        self.handle(Input::Opened { session, identity: Identity { pid: who.pid, uid: who.uid }, groups });
    }

    fn read(&mut self, session: SessionId) {
        for _ in 0..READS_A_TURN {
            let Some(open) = self.sessions.get(&session) else { return };
            match self.receiver.receive::<ToDispatcher>(open.as_fd()) {
                Ok(Some(received)) => {
                    let descriptors = received.descriptors.len();
                    if let Some(open) = self.sessions.get_mut(&session) {
                        open.arrived = received.descriptors.into_iter().map(Some).collect();
                    }
                    self.handle(Input::Message { session, message: received.message, descriptors });
                    if let Some(open) = self.sessions.get_mut(&session) {
                        open.arrived.clear();
                    }
                }
                Ok(None) => {
                    // It said all it had to say, and hears nothing.
                    if self.sessions.get(&session).is_some_and(Session::is_deaf) {
                        debug!(event = "session_deaf", %session);
                        self.drop_session(session);
                    }
                    return;
                }
                Err(RecordError::Closed) => {
                    debug!(event = "session_hung_up", %session);
                    self.drop_session(session);
                    return;
                }
                Err(error) => {
                    self.refuse_session(session, &error);
                    return;
                }
            }
        }
        self.readable.insert(session);
    }

    /// What came cannot be understood: the session is over.
    fn refuse_session(&mut self, session: SessionId, error: &RecordError) {
        let code = match error {
            RecordError::Version { .. } => RefusalCode::Version,
            RecordError::DescriptorsLost => RefusalCode::Limit,
            _ => RefusalCode::Protocol,
        };
        let text = chain(error);
        warn!(event = "session_refused", %session, ?code, text);
        let refused = ToNode::Refused { about: About::Session, code, text };
        if let Some(open) = self.sessions.get_mut(&session) {
            if let Err(error) = open.send(&refused, Vec::new(), self.config.queue_bytes) {
                debug!(event = "refusal_not_sent", %session, %error);
            }
        }
        self.drop_session(session);
    }

    /// Closes a session and tells the registry, if that did not close it itself.
    fn drop_session(&mut self, session: SessionId) {
        if self.close(session) {
            self.handle(Input::Closed { session });
        }
    }

    fn close(&mut self, session: SessionId) -> bool {
        let Some(closed) = self.sessions.remove(&session) else { return false };
        self.readable.remove(&session);
        self.writable.remove(&session);
        self.stalled.remove(&session);
        self.listings.remove(&session);
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&closed.as_fd().as_raw_fd())) {
            debug!(event = "deregister_failed", %session, %error);
        }
        closed.discard_unread(READS_A_TURN);
        true
    }

    fn flush(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get_mut(&session) else { return };
        let outcome = open.flush();
        self.after_sending(session, outcome);
    }

    fn after_sending(&mut self, session: SessionId, outcome: Result<Flushed, Failed>) {
        match outcome {
            Ok(Flushed::All | Flushed::WhenWritable) => {}
            Ok(Flushed::Later { still }) => {
                if !still {
                    warn!(event = "session_stalled", %session, why = %SendError::TooManyReferences);
                }
                self.stalled.insert(session);
                self.retry_at.get_or_insert_with(|| Instant::now() + TRY_AGAIN);
            }
            // Its hang-up is in the socket as well, behind what it said last; that is read first.
            Err(Failed::Closed) => {
                self.readable.insert(session);
            }
            Err(failed) => {
                warn!(event = "session_ended", %session, why = chain(&failed));
                self.drop_session(session);
            }
        }
    }

    /// Gives the registry an input, and does what it wants then.
    fn handle(&mut self, input: Input) {
        self.registry.handle(Instant::now(), input);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.registry.poll_action() {
            match action {
                Action::Send { session, message, descriptors } => self.send(session, &message, &descriptors),
                Action::Watch { session, node } => self.watch(session, node),
                Action::Create { handle, kind } => {
                    let result = self.store.create(handle, kind);
                    self.done(Task::Create(handle), result);
                }
                Action::Adopt { session, descriptor, handle, kind } => self.adopt(session, descriptor, handle, kind),
                Action::Check { handle, kind } => {
                    let result = self.store.check(handle, kind);
                    self.done(Task::Check(handle), result);
                }
                Action::Forget { handle } => {
                    match handle {
                        Handle::PidfdOf(node) => self.health.forget(self.poll.registry(), node),
                        Handle::PageOf(node) => self.heartbeats.forget(node),
                        _ => {}
                    }
                    self.store.forget(handle);
                }
                Action::Close { session } => {
                    self.close(session);
                }
                Action::List { session } => {
                    if let Some(open) = self.sessions.get_mut(&session) {
                        open.start_listing();
                        self.listings.insert(session);
                    }
                }
                Action::Tell(news) => self.tell_bridge(news),
                Action::Leave { session } => self.leave_to(session),
            }
        }
    }

    fn tell_bridge(&self, news: News) {
        #[cfg(feature = "bridge")]
        if let Some(bridge) = &self.bridge {
            bridge.command(bridge::Command::News(news));
        }
        #[cfg(not(feature = "bridge"))]
        drop(news);
    }

    /// Starts a bridge, if the configuration wants one.
    #[cfg(feature = "bridge")]
    fn start_bridge(&mut self) -> Result<(), BridgeError> {
        let Config { bridge, policy, endpoint, .. } = &self.config;
        if bridge.is_wanted() {
            self.bridge = Some(Bridge::start(bridge.clone(), policy.clone(), endpoint)?);
            self.registry.set_bridged(true);
            self.carry_out();
        }
        Ok(())
    }

    #[cfg(feature = "bridge")]
    fn set_bridge(&mut self, config: BridgeConfig) {
        self.config.bridge = config;
        match &self.bridge {
            Some(bridge) => bridge.command(bridge::Command::Config(Box::new(self.config.bridge.clone()))),
            None => {
                if let Err(error) = self.start_bridge() {
                    error!(event = "bridge_not_started", why = chain(&error));
                }
            }
        }
    }

    fn done(&mut self, task: Task, result: Result<(), Failure>) {
        if let (Task::Check(Handle::PageOf(node)) | Task::Adopt(Handle::PageOf(node)), Ok(())) = (task, &result) {
            if let Some(Descriptor::Segment(page)) = self.store.look_up(Handle::PageOf(node)).as_deref() {
                self.heartbeats.add(Instant::now(), node, page);
            }
        }
        if let Err(failure) = &result {
            warn!(event = "task_failed", ?task, code = ?failure.code, why = failure.text);
        }
        self.registry.handle(Instant::now(), Input::Done { task, result });
    }

    fn send(&mut self, session: SessionId, message: &ToNode, handles: &[Handle]) {
        let descriptors: Option<Vec<Arc<Descriptor>>> = handles.iter().map(|&it| self.store.look_up(it)).collect();
        let Some(descriptors) = descriptors else {
            error!(event = "descriptor_missing", %session, ?handles);
            return;
        };
        let Some(open) = self.sessions.get_mut(&session) else { return };
        let outcome = open.send(message, descriptors, self.config.queue_bytes);
        match outcome {
            Ok(_) | Err(Failed::Closed) => self.after_sending(session, outcome),
            Err(failed) => {
                warn!(event = "session_ended", %session, why = chain(&failed));
                if self.close(session) {
                    // Not through `handle`: the actions that follow are carried out by the caller, in their order.
                    self.registry.handle(Instant::now(), Input::Closed { session });
                }
            }
        }
    }

    fn watch(&mut self, session: SessionId, node: NodeId) {
        let tokens = [self.token(), self.token()];
        let result = match self.sessions.get_mut(&session) {
            Some(open) => match open.arrived.first_mut().and_then(Option::take) {
                Some(life_line) => {
                    let pidfd = open.pidfd.clone();
                    self.store.keep(Handle::PidfdOf(node), pidfd.clone());
                    self.health.watch(self.poll.registry(), node, pidfd, life_line, tokens)
                }
                None => Err(Failure::new(RefusalCode::Protocol, "the life-line is missing")),
            },
            None => Err(Failure::new(RefusalCode::Protocol, "the session is over")),
        };
        self.done(Task::Watch(node), result);
    }

    fn adopt(&mut self, session: SessionId, descriptor: usize, handle: Handle, kind: Kind) {
        let arrived = self.sessions.get_mut(&session).and_then(|it| it.arrived.get_mut(descriptor)?.take());
        let result = match arrived {
            Some(fd) => self.store.adopt(fd, handle, kind),
            None => Err(Failure::new(RefusalCode::Protocol, "a descriptor is missing")),
        };
        self.done(Task::Adopt(handle), result);
    }

    /// Sends rows of the table, as far as the session reads them.
    fn list(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get_mut(&session) else { return };
        let mut outcome = Ok(Flushed::All);
        for _ in 0..ROWS_A_TURN {
            let Some(cursor) = open.listing() else { break };
            let row = cursor.next_row(&self.registry);
            let ended = row.is_none();
            let message = row.map_or(ToNode::ListingEnd, ToNode::Listing);
            outcome = open.send(&message, Vec::new(), self.config.queue_bytes);
            if ended || outcome.is_err() {
                open.end_listing();
                break;
            }
        }
        if open.is_listing() {
            self.listings.insert(session);
        }
        self.after_sending(session, outcome);
    }

    /// Gives the socket to the successor; serves on if that one is gone already.
    fn leave_to(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get(&session) else { return };
        match record::send(open.as_fd(), &ToNode::Leaving, &[self.listening.as_fd()]) {
            Ok(()) => self.ended = Some(Ended::Replaced),
            Err(error) => warn!(event = "not_replaced", %session, %error),
        }
    }

    /// Tells all sessions and lets them go. Their nodes connect again, to whoever is there then.
    fn end(&mut self, ended: Ended) {
        #[cfg(feature = "bridge")]
        drop(self.bridge.take());
        let board = self.board.take();
        match ended {
            Ended::Stopped => self.listening.remove_file(),
            Ended::Replaced => {
                if let Some(board) = board {
                    board.leave();
                }
            }
        }
        for (_, mut session) in std::mem::take(&mut self.sessions) {
            if let Err(error) = session.send(&ToNode::Leaving, Vec::new(), self.config.queue_bytes) {
                debug!(event = "leaving_not_said", %error);
            }
            session.discard_unread(READS_A_TURN);
        }
    }
}

/// Says why not on a socket that does not become a session.
fn refuse(socket: &OwnedFd, failure: Failure) {
    let Failure { code, text } = failure;
    warn!(event = "connection_refused", ?code, text);
    let refused = ToNode::Refused { about: About::Session, code, text };
    if let Err(error) = record::send(socket.as_fd(), &refused, &[]) {
        debug!(event = "refusal_not_sent", %error);
    }
}

/// Any descriptor.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
