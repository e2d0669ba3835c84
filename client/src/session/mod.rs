//! The session: the one thread of a node that speaks to the dispatcher.
//!
//! It holds the socket and the table of what the node publishes, subscribes and is linked to (`table`, `links`); hands all of
//! it back when it has to connect again (`hand_back`); watches the processes at the other ends of links (`peers`); tells of
//! the other nodes of the host (`nodes`). The user's threads reach it by commands and are answered through channels; messages
//! never pass it.

mod attach;
mod connection;
mod hand_back;
mod lanes;
mod links;
mod nodes;
mod peers;
mod publications;
mod subscriptions;
mod table;

use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::{HEARTBEAT_EVERY, NodePage};
use nodeset_bus::protocol::endpoint::Endpoint;
use nodeset_bus::protocol::record::RecordError;
use nodeset_bus::protocol::{
    LinkId, NameHolder, NodeId, PublicationId, RefusalCode, SubscriptionId, ToDispatcher, ToNode, Welcome,
};
use nodeset_bus::sys::Bell;
use nodeset_bus::topic::check_node_name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{debug, error, info, warn};

pub(crate) use attach::{Attachment, Settings, ask_for_table, attach_first};
pub(crate) use lanes::{DirectRequest, DirectShared, LaneNews, OpenedLane};
pub(crate) use publications::{AdvertiseRequest, PublicationShared};
pub(crate) use subscriptions::{
    Arrival, Origin, Port, Publisher as PublisherInfo, SubscribeRequest, SubscriptionShared,
};

use crate::error::ConnectError;
use crate::event::{Handler, NodeChange, NodeEvent, NodeHandler};
use crate::wait::Waiter;
use connection::{Connection, Outbox};
use nodes::Nodes;
use table::Table;

/// Messages taken in one turn, so that commands are not kept waiting.
const MESSAGES_A_TURN: usize = 256;
/// How long leaving in order may take.
const LEAVE_DEADLINE: Duration = Duration::from_secs(2);

/// What the threads of a node share.
pub(crate) struct Core {
    pub(crate) id: NodeId,
    /// Where its dispatchers listen.
    pub(crate) endpoint: Endpoint,
    pub(crate) page: Arc<NodePage<SharedWords>>,
    /// The page's memory, to hand it back.
    pub(crate) page_segment: Arc<Segment>,
    /// Hangs up when this process is gone or executes another program: the end that the dispatcher gets.
    pub(crate) lifeline: Arc<OwnedFd>,
    /// The end that hangs up.
    pub(crate) _lifeline_end: OwnedFd,
    pub(crate) waiter: Arc<Waiter>,
    pub(crate) info: Mutex<Info>,
    pub(crate) handler: Mutex<Option<Handler>>,
    commands: Sender<Command>,
    alert: Bell,
}

/// What the dispatcher said last.
#[derive(Debug, Clone)]
pub(crate) struct Info {
    pub(crate) name: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) uid: u32,
    pub(crate) attached: bool,
}

/// What the user's threads ask the session thread.
pub(crate) enum Command {
    Advertise(AdvertiseRequest),
    /// The publication ends.
    Withdraw(PublicationId),
    AdvertiseDirect(DirectRequest),
    /// A lane's publisher knows that its reader is gone, and sends nothing more; sequence after its last message.
    LaneClosed(PublicationId, u64),
    /// A direct publication ends.
    WithdrawDirect(PublicationId),
    Subscribe(SubscribeRequest),
    /// The subscriber is gone; its samples may not be.
    CloseSubscription(SubscriptionId),
    /// A publisher of this node gave up that link.
    Evicted(LinkId),
    /// A subscriber of this node learned that it was given up.
    GivenUp(LinkId),
    /// An inlet and all its pins are gone.
    Released(LinkId, u16),
    /// Tell of the other nodes of this host.
    WatchNodes(NodeHandler),
    ReconnectNow,
    Leave,
}

/// A link that is on its way.
struct Awaited {
    /// The node at its other end.
    node: Arc<str>,
    /// That is slow or stopped: nobody waits for it.
    late: bool,
}

impl Core {
    /// Asks the session thread; false when it is gone.
    pub(crate) fn command(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.alert.ring();
        sent
    }

    pub(crate) fn info(&self) -> Info {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the user's handler. Holds no lock meanwhile.
    pub(crate) fn tell(&self, event: &NodeEvent) {
        let handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(handler) = handler {
            if catch_unwind(AssertUnwindSafe(|| handler(event))).is_err() {
                error!(event = "handler_panicked", on = ?event);
            }
        }
    }
}

/// Keeps the session thread: the last one to go ends it.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    /// Starts the session thread.
    pub(crate) fn start(first: attach::First) -> Result<Arc<Handle>, ConnectError> {
        let attach::First { core, commands, attachment } = first;
        let mut started = Err(ConnectError::Protocol("unreachable"));
        let handle = Arc::new_cyclic(|handle: &Weak<Handle>| {
            let table = Table::new(Arc::clone(&core), handle.clone());
            let of_thread = Arc::clone(&core);
            let thread = std::thread::Builder::new().name("nodeset-session".to_owned()).spawn(move || match table {
                Ok(table) => Session::new(of_thread, commands, table, attachment).run(),
                Err(errno) => error!(event = "session_failed", %errno),
            });
            let thread = match thread {
                Ok(thread) => {
                    started = Ok(());
                    Some(thread)
                }
                Err(source) => {
                    started = Err(ConnectError::System { doing: "starting a thread", source });
                    None
                }
            };
            Handle { core, thread: Mutex::new(thread) }
        });
        started.map(|()| handle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.command(Command::Leave);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let own: ThreadId = std::thread::current().id();
        // The last one may go on the session thread itself (in a handler, or with a sample that it released).
        if thread.thread().id() != own && thread.join().is_err() {
            error!(event = "session_panicked");
        }
    }
}

struct Session {
    core: Arc<Core>,
    commands: Receiver<Command>,
    table: Table,
    attachment: Attachment,
    outbox: Outbox,
    nodes: Nodes,
    /// Who wants to hear of them.
    node_handler: Option<NodeHandler>,
}

impl Session {
    fn new(core: Arc<Core>, commands: Receiver<Command>, table: Table, attachment: Attachment) -> Session {
        Session {
            core,
            commands,
            table,
            attachment,
            outbox: Outbox::new(),
            nodes: Nodes::default(),
            node_handler: None,
        }
    }

    fn run(mut self) {
        let mut heartbeat = 0;
        loop {
            heartbeat += 1;
            self.core.page.beat(heartbeat);
            if self.take_commands() {
                self.leave();
                return;
            }
            let more = self.take_messages();
            self.table.bury_dead(&mut self.outbox);
            self.attachment.step(&self.core, Instant::now());
            self.flush();
            self.wait(more);
        }
    }

    /// Says whether the node leaves.
    fn take_commands(&mut self) -> bool {
        self.core.alert.drain();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Advertise(request) => self.table.advertise(request, &mut self.outbox),
                Command::Withdraw(publication) => self.table.withdraw(publication, &mut self.outbox),
                Command::AdvertiseDirect(request) => self.table.advertise_direct(request, &mut self.outbox),
                Command::LaneClosed(lane, end) => self.table.lane_closed(lane, end, &mut self.outbox),
                Command::WithdrawDirect(id) => self.table.withdraw_direct(id, &mut self.outbox),
                Command::Subscribe(request) => self.table.subscribe(request, &mut self.outbox),
                Command::CloseSubscription(subscription) => self.table.close(subscription, &mut self.outbox),
                Command::Evicted(link) => self.table.evicted(link),
                Command::GivenUp(link) => self.table.given_up(link),
                Command::Released(link, tag) => self.table.released(link, tag, &mut self.outbox),
                Command::WatchNodes(handler) => self.watch_nodes(handler),
                Command::ReconnectNow => self.attachment.hurry(),
                Command::Leave => return true,
            }
        }
        false
    }

    /// Says whether there may be more.
    fn take_messages(&mut self) -> bool {
        for _ in 0..MESSAGES_A_TURN {
            let Some(connection) = self.attachment.connection() else { return false };
            match connection.receive() {
                Ok(Some(received)) => self.on_message(received.message, received.descriptors),
                Ok(None) => return false,
                Err(error) => {
                    if matches!(error, ConnectError::Record(RecordError::DescriptorsLost)) {
                        // Asked again they would be lost again.
                        self.table.refuse_waiting(RefusalCode::Limit, &error.to_string(), &mut self.outbox);
                    }
                    self.detach(&error.to_string());
                    return false;
                }
            }
        }
        true
    }

    fn on_message(&mut self, message: ToNode, descriptors: Vec<OwnedFd>) {
        match message {
            ToNode::Welcome(welcome) => self.on_welcome(welcome),
            ToNode::Leaving => self.detach("the dispatcher leaves"),
            ToNode::Refused { about: nodeset_bus::protocol::About::Session, text, .. } => {
                self.core.tell(&NodeEvent::Refused { reason: text.clone() });
                self.detach(&text);
            }
            ToNode::Replaced(by) | ToNode::NameTaken(by) => self.replaced(by),
            ToNode::Renamed { name } => self.renamed(name.into()),
            ToNode::NodeIs(state) if state.node == self.core.id => {}
            ToNode::NodeIs(state) => {
                let changes = self.nodes.is(state);
                self.tell_changes(changes);
            }
            ToNode::NodeGone { node, died } => {
                let changes = self.nodes.gone(node, died);
                self.tell_changes(changes);
            }
            ToNode::NodesComplete => {
                let changes = self.nodes.complete();
                self.tell_changes(changes);
            }
            other => self.table.on_message(other, descriptors, &mut self.outbox),
        }
    }

    fn on_welcome(&mut self, welcome: Welcome) {
        if check_node_name(&welcome.name).is_err() {
            self.detach("the dispatcher welcomed this node under a name that is none");
            return;
        }
        if !self.attachment.welcomed(&welcome) {
            self.detach("the dispatcher welcomed this node twice");
            return;
        }
        self.outbox.push_back((ToDispatcher::PageReady, Vec::new()));
        self.table.hand_back(&mut self.outbox);
        if self.node_handler.is_some() {
            self.outbox.push_back((ToDispatcher::WatchNodes, Vec::new()));
        }
        attached(&self.core, &welcome);
        // After it is known that there is one: links that were read on without it are given up now.
        self.table.touch_subscriptions();
    }

    fn watch_nodes(&mut self, handler: NodeHandler) {
        if self.node_handler.replace(handler).is_none() {
            self.outbox.push_back((ToDispatcher::WatchNodes, Vec::new()));
        } else {
            let present = self.nodes.present();
            self.tell_changes(present);
        }
    }

    fn tell_changes(&self, changes: impl IntoIterator<Item = NodeChange>) {
        let Some(handler) = &self.node_handler else { return };
        for change in changes {
            if catch_unwind(AssertUnwindSafe(|| handler(&change))).is_err() {
                error!(event = "handler_panicked", on = ?change);
            }
        }
    }

    fn renamed(&mut self, name: Arc<str>) {
        // It is the one under which the node comes back: no dispatcher would take it.
        if let Err(error) = check_node_name(&name) {
            warn!(event = "not_renamed", %error);
            return;
        }
        let mut info = self.core.info.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut info.name, Arc::clone(&name));
        drop(info);
        info!(event = "renamed", from = &*before, to = &*name);
        self.core.tell(&NodeEvent::Renamed { name });
    }

    /// Another node has the name: this one stays away until it is told to come.
    fn replaced(&mut self, by: NameHolder) {
        self.outbox.clear();
        self.nodes.doubt();
        self.attachment.stay_away();
        self.set_detached();
        let NameHolder { name, pid, uid, .. } = by;
        info!(event = "replaced", name, by_pid = pid, by_uid = uid);
        self.core.tell(&NodeEvent::Replaced { name: name.into(), pid, uid });
    }

    /// Says whether it was attached.
    fn set_detached(&self) -> bool {
        std::mem::replace(&mut self.core.info.lock().unwrap_or_else(PoisonError::into_inner).attached, false)
    }

    fn detach(&mut self, reason: &str) {
        self.outbox.clear();
        self.nodes.doubt();
        self.attachment.detach(Instant::now());
        if self.set_detached() {
            info!(event = "detached", reason);
            self.core.tell(&NodeEvent::Detached { reason: reason.to_owned() });
        } else {
            debug!(event = "not_attached", reason);
        }
    }

    fn flush(&mut self) {
        let Some(connection) = self.attachment.attached() else {
            // What is not said is in the table, and is handed back.
            self.outbox.clear();
            return;
        };
        if let Err(error) = connection.flush(&mut self.outbox) {
            // Its last words first, they say why.
            while let Some(connection) = self.attachment.connection() {
                match connection.receive() {
                    Ok(Some(received)) => self.on_message(received.message, received.descriptors),
                    _ => break,
                }
            }
            if self.attachment.attached().is_some() {
                self.detach(&error.to_string());
            }
        }
    }

    fn wait(&mut self, more: bool) {
        let now = Instant::now();
        let timeout = if more {
            Some(Duration::ZERO)
        } else if self.attachment.attached().is_some() {
            // The dispatcher looks whether the heart beats.
            Some(HEARTBEAT_EVERY)
        } else {
            self.attachment.wake_at().map(|at| at.saturating_duration_since(now))
        };
        let timeout = timeout.map(|it| Timespec { tv_sec: it.as_secs() as i64, tv_nsec: it.subsec_nanos().into() });
        let mut fds = vec![
            PollFd::new(&self.core.alert, PollFlags::IN),
            PollFd::from_borrowed_fd(self.table.peers_fd(), PollFlags::IN),
        ];
        if let Some(connection) = self.attachment.connection() {
            let flags = if self.outbox.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            fds.push(PollFd::from_borrowed_fd(Connection::as_fd(connection), flags));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                warn!(event = "poll_failed", %errno);
                std::thread::yield_now();
            }
        }
    }

    /// Says goodbye, so that peers learn at once; gives an embedded dispatcher time to hand its socket on.
    fn leave(mut self) {
        self.table.abandon();
        let deadline = Instant::now() + LEAVE_DEADLINE;
        if let Some(connection) = self.attachment.attached() {
            self.outbox.push_back((ToDispatcher::Goodbye, Vec::new()));
            say_all(connection, &mut self.outbox, deadline);
        }
        debug!(event = "left");
    }
}

/// The node is attached: tells everybody.
fn attached(core: &Core, welcome: &Welcome) {
    let name: Arc<str> = welcome.name.as_str().into();
    {
        let mut info = core.info.lock().unwrap_or_else(PoisonError::into_inner);
        *info = Info { name: Arc::clone(&name), host: welcome.host.as_str().into(), uid: welcome.uid, attached: true };
    }
    let Welcome { dispatcher_pid, embedded, .. } = *welcome;
    info!(event = "attached", name = &*name, dispatcher_pid, embedded);
    core.tell(&NodeEvent::Attached { name, dispatcher_pid, embedded });
}

/// Says what is to be said, waiting for the socket.
fn say_all(connection: &mut Connection, outbox: &mut Outbox, deadline: Instant) {
    while let Ok(false) = connection.flush(outbox) {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return;
        }
        // A dispatcher that waits for us to read would never read itself.
        while Instant::now() < deadline && matches!(connection.receive(), Ok(Some(_))) {}
        let timeout = Timespec { tv_sec: remaining.as_secs() as i64, tv_nsec: remaining.subsec_nanos().into() };
        let mut fds = [PollFd::new(&*connection, PollFlags::OUT)];
        if poll(&mut fds, Some(&timeout)).is_err() {
            return;
        }
    }
}
