//! Being attached to a dispatcher: the first time, and again whenever one went.
//!
//! ```text
//! Detached --connect, Hello--> Greeting --Welcome--> Attached --hang-up, Leaving, refusal--> Detached
//! Greeting, Attached --another node has the name--> Away --reconnect_now--> Detached
//! ```
//!
//! Where nobody listens, a node that may do so starts a dispatcher on a thread of its own process: at once if the last one
//! was of that kind, after a standby time if it was a standalone one, which somebody will rather start again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};
use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::{NODE_PAGE_LEN, NodePage};
use nodeset_bus::protocol::endpoint::Endpoint;
use nodeset_bus::protocol::record::Received;
use nodeset_bus::protocol::{About, Claim, Hello, NameHolder, NodeId, ToDispatcher, ToNode, Welcome};
use nodeset_bus::sys::Bell;
use nodeset_bus::topic::check_node_name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use tracing::{debug, warn};

use super::connection::{Attached as AttachedDescriptor, Connection, Outbox};
use super::{Command, Core, Info, attached};
use crate::error::ConnectError;
use crate::random;
use crate::wait::{Waiter, after};

/// After a first failure it is tried again after about this time.
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
/// A dispatcher that was there for less is not looked for at once when it has gone: it may welcome and hang up for ever.
const STEADY: Duration = Duration::from_millis(100);
/// How long a dispatcher may take to answer a node that comes back.
const GREETING: Duration = Duration::from_secs(5);

/// What a node was told about its dispatcher.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    /// The one that it asks for.
    pub(crate) name: String,
    pub(crate) claim: Claim,
    /// This node may run a dispatcher.
    pub(crate) embedded: bool,
    pub(crate) connect_timeout: Duration,
    /// How long a standalone dispatcher's place is left empty.
    pub(crate) standby: Duration,
    /// The longest time between two attempts.
    pub(crate) backoff_limit: Duration,
}

/// A node that has just been attached for the first time.
pub(crate) struct First {
    pub(crate) core: Arc<Core>,
    pub(crate) commands: Receiver<Command>,
    pub(crate) attachment: Attachment,
}

/// See the module.
pub(crate) struct Attachment {
    settings: Settings,
    state: State,
    backoff: Duration,
    /// When it was welcomed last.
    welcomed_at: Instant,
    /// The last dispatcher ran in some node's process.
    was_embedded: bool,
    stand_in: StandIn,
}

enum State {
    Attached(Connection),
    Greeting {
        connection: Connection,
        until: Instant,
    },
    Detached {
        since: Instant,
        retry_at: Instant,
    },
    /// Another node has its name: it comes back only when it is told to.
    Away,
}

/// Attaches a new node.
///
/// # Errors
///
/// See [`ConnectError`].
pub(crate) fn attach_first(settings: Settings) -> Result<First, ConnectError> {
    check_node_name(&settings.name).map_err(|source| ConnectError::Name { name: settings.name.clone(), source })?;
    let deadline = after(Instant::now(), settings.connect_timeout);
    let mut stand_in = StandIn::default();
    let mut connection = connect(&settings, &mut stand_in, deadline)?;
    let (lifeline, lifeline_end) = pipe_with(PipeFlags::CLOEXEC).map_err(ConnectError::system("making a pipe"))?;
    let lifeline = Arc::new(lifeline);
    let id = NodeId(random());
    let hello = Hello { claim: settings.claim, ..Hello::new(id, &settings.name) };
    let mut outbox = Outbox::new();
    outbox.push_back((ToDispatcher::Hello(hello), vec![AttachedDescriptor::Descriptor(Arc::clone(&lifeline))]));
    connection.flush(&mut outbox)?;
    let (welcome, segment) = await_welcome(&mut connection, &settings, deadline)?;
    let (segment, page) = open_page(segment)?;
    let page = Arc::new(page);
    outbox.push_back((ToDispatcher::PageReady, Vec::new()));
    connection.flush(&mut outbox)?;
    let system = |doing| move |source| ConnectError::System { doing, source };
    let waiter = Waiter::new(Arc::clone(&page)).map_err(system("making what a node waits on"))?;
    let alert = Bell::new().map_err(system("making an eventfd"))?;
    let (sender, commands) = unbounded();
    let core = Core {
        id,
        endpoint: settings.endpoint.clone(),
        page,
        page_segment: Arc::new(segment),
        lifeline,
        _lifeline_end: lifeline_end,
        waiter: Arc::new(waiter),
        info: Mutex::new(Info { name: "".into(), host: "".into(), uid: 0, attached: false }),
        handler: Mutex::new(None),
        commands: sender,
        alert,
    };
    attached(&core, &welcome);
    let attachment = Attachment {
        settings,
        state: State::Attached(connection),
        backoff: FIRST_BACKOFF,
        welcomed_at: Instant::now(),
        was_embedded: welcome.embedded,
        stand_in,
    };
    Ok(First { core: Arc::new(core), commands, attachment })
}

/// Connects, or starts a dispatcher and connects to that.
fn connect(settings: &Settings, stand_in: &mut StandIn, deadline: Instant) -> Result<Connection, ConnectError> {
    loop {
        match Connection::open(&settings.endpoint) {
            Err(ConnectError::Nobody { path }) => {
                if !settings.embedded || !StandIn::POSSIBLE {
                    return Err(ConnectError::Nobody { path });
                }
                // Somebody else may have been faster: then connect to that one.
                stand_in.start(&settings.endpoint)?;
                if Instant::now() >= deadline {
                    return Err(ConnectError::TimedOut { path, waited: settings.connect_timeout });
                }
            }
            other => return other,
        }
    }
}

fn await_welcome(
    connection: &mut Connection,
    settings: &Settings,
    deadline: Instant,
) -> Result<(Welcome, Segment), ConnectError> {
    let Settings { endpoint, connect_timeout, .. } = settings;
    loop {
        let received = next_message(connection, endpoint, deadline, *connect_timeout)?;
        if let ToNode::Welcome(welcome) = received.message {
            let mut descriptors = received.descriptors.into_iter();
            let (Some(page), None) = (descriptors.next(), descriptors.next()) else {
                return Err(ConnectError::Protocol("`Welcome` came without the node's page"));
            };
            if check_node_name(&welcome.name).is_err() {
                return Err(ConnectError::Protocol("`Welcome` names the node by what is no name"));
            }
            return Ok((welcome, Segment::from_fd(page)?));
        }
    }
}

/// Asks for the table, without a node; `row` takes what comes and says whether more is wanted.
pub(crate) fn ask_for_table(
    endpoint: &Endpoint,
    deadline: Instant,
    timeout: Duration,
    mut row: impl FnMut(ToNode) -> bool,
) -> Result<(), ConnectError> {
    let mut connection = Connection::open(endpoint)?;
    let hello = Hello::tool(NodeId(random()), "list");
    let mut outbox = Outbox::from([(ToDispatcher::Hello(hello), Vec::new()), (ToDispatcher::List, Vec::new())]);
    connection.flush(&mut outbox)?;
    while row(next_message(&mut connection, endpoint, deadline, timeout)?.message) {}
    Ok(())
}

/// Waits for the next message; a refusal of the session is an error.
fn next_message(
    connection: &mut Connection,
    endpoint: &Endpoint,
    deadline: Instant,
    timeout: Duration,
) -> Result<Received<ToNode>, ConnectError> {
    loop {
        // Also one who says something all the time, but never what is waited for, has no longer than that.
        if Instant::now() >= deadline {
            return Err(ConnectError::TimedOut { path: endpoint.path().to_owned(), waited: timeout });
        }
        if let Some(received) = connection.receive()? {
            return match received.message {
                ToNode::Refused { about: About::Session, code, text } => Err(ConnectError::Refused { code, text }),
                ToNode::NameTaken(NameHolder { name, pid, uid, seconds }) => {
                    Err(ConnectError::NameTaken { name, pid, uid, held_for: Duration::from_secs(seconds) })
                }
                message => Ok(Received { message, descriptors: received.descriptors }),
            };
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        let until = Timespec { tv_sec: remaining.as_secs() as i64, tv_nsec: remaining.subsec_nanos().into() };
        let mut fds = [PollFd::new(&*connection, PollFlags::IN)];
        match poll(&mut fds, Some(&until)) {
            Ok(0) => {
                return Err(ConnectError::TimedOut { path: endpoint.path().to_owned(), waited: timeout });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(ConnectError::system("waiting for the dispatcher")(errno)),
        }
    }
}

fn open_page(segment: Segment) -> Result<(Segment, NodePage<SharedWords>), ConnectError> {
    if segment.len() < NODE_PAGE_LEN {
        return Err(ConnectError::Protocol("the node's page is too short"));
    }
    let mapping = segment.map_writable()?;
    segment.seal_for_one_writer()?;
    Ok((segment, NodePage::create(SharedWords::mapped(mapping))))
}

impl Attachment {
    /// The connection, also while the dispatcher has not answered.
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Attached(connection) | State::Greeting { connection, .. } => Some(connection),
            State::Detached { .. } | State::Away => None,
        }
    }

    /// The connection, once the dispatcher has answered.
    pub(super) fn attached(&mut self) -> Option<&mut Connection> {
        match &mut self.state {
            State::Attached(connection) => Some(connection),
            _ => None,
        }
    }

    /// When [`step`](Self::step) has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Attached(_) | State::Away => None,
            State::Greeting { until, .. } => Some(until),
            State::Detached { retry_at, .. } => Some(retry_at),
        }
    }

    /// Tries again at once.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        match &mut self.state {
            State::Detached { retry_at, .. } => *retry_at = now,
            State::Away => self.state = State::Detached { since: now, retry_at: now },
            State::Attached(_) | State::Greeting { .. } => {}
        }
    }

    /// No longer attached, nor trying to be.
    pub(super) fn stay_away(&mut self) {
        self.state = State::Away;
    }

    pub(super) fn detach(&mut self, now: Instant) {
        let since = match self.state {
            State::Attached(_) => now,
            State::Greeting { .. } => now.checked_sub(self.backoff).unwrap_or(now),
            State::Detached { since, .. } => since,
            State::Away => now,
        };
        // At once the first time: a successor may be there. One that welcomes and hangs up is not asked again and again.
        let steady = now.saturating_duration_since(self.welcomed_at) >= STEADY;
        let wait = if matches!(self.state, State::Attached(_)) && steady {
            self.backoff = FIRST_BACKOFF;
            Duration::ZERO
        } else {
            self.next_backoff()
        };
        self.state = State::Detached { since, retry_at: now + wait };
    }

    /// Says whether a welcome was due.
    pub(super) fn welcomed(&mut self, welcome: &Welcome) -> bool {
        let before =
            std::mem::replace(&mut self.state, State::Detached { since: Instant::now(), retry_at: Instant::now() });
        match before {
            State::Greeting { connection, .. } => {
                self.state = State::Attached(connection);
                self.was_embedded = welcome.embedded;
                self.welcomed_at = Instant::now();
                true
            }
            other => {
                self.state = other;
                false
            }
        }
    }

    /// Does what is due.
    pub(super) fn step(&mut self, core: &Core, now: Instant) {
        match self.state {
            State::Greeting { until, .. } if until <= now => {
                warn!(event = "dispatcher_silent", path = ?self.settings.endpoint.path());
                self.detach(now);
            }
            State::Detached { since, retry_at } if retry_at <= now => self.try_again(core, since, now),
            _ => {}
        }
    }

    fn try_again(&mut self, core: &Core, since: Instant, now: Instant) {
        self.stand_in.tidy();
        let opened = match Connection::open(&self.settings.endpoint) {
            Err(ConnectError::Nobody { .. }) if self.may_stand_in(since, now) => {
                self.stand_in.start(&self.settings.endpoint).and_then(|()| Connection::open(&self.settings.endpoint))
            }
            other => other,
        };
        let said = opened.and_then(|connection| {
            // It takes a name over once, when it is new.
            let claim = if self.settings.claim.is_exact() { Claim::Unique } else { Claim::Suffix };
            let name = self.settings.name.clone();
            let hello = Hello { name, claim, ..Hello::back(core.id, &*core.info().name) };
            let attached = vec![
                AttachedDescriptor::Descriptor(Arc::clone(&core.lifeline)),
                AttachedDescriptor::Segment(Arc::clone(&core.page_segment)),
            ];
            // A fresh connection takes one record.
            connection.flush(&mut Outbox::from([(ToDispatcher::Hello(hello), attached)]))?;
            Ok(connection)
        });
        match said {
            Ok(connection) => self.state = State::Greeting { connection, until: now + GREETING },
            Err(error) => {
                debug!(event = "connect_failed", %error);
                let wait = self.next_backoff();
                self.state = State::Detached { since, retry_at: now + wait };
            }
        }
    }

    fn may_stand_in(&self, since: Instant, now: Instant) -> bool {
        StandIn::POSSIBLE
            && self.settings.embedded
            && (self.was_embedded || now.saturating_duration_since(since) >= self.settings.standby)
    }

    /// Exponential, with jitter of a half, so that nodes that lost the same dispatcher do not come all at once.
    fn next_backoff(&mut self) -> Duration {
        let whole = self.backoff;
        self.backoff = (whole * 2).min(self.settings.backoff_limit);
        let part = (random() % 1024) as u32;
        whole / 2 + whole * part / 1024
    }
}

/// The dispatcher in this process, if there is one.
#[derive(Default)]
struct StandIn {
    #[cfg(feature = "embedded")]
    running: Option<nodeset_dispatcher::Embedded>,
}

#[cfg(feature = "embedded")]
impl StandIn {
    const POSSIBLE: bool = true;

    /// Starts one, unless somebody else was faster.
    fn start(&mut self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        use nodeset_dispatcher::{Config, Dispatcher, RunError, TakeError};
        self.running = None;
        match Dispatcher::start_embedded(Config::at(endpoint.clone())) {
            Ok(running) => {
                self.running = Some(running);
                Ok(())
            }
            Err(RunError::Take(TakeError::Held { .. })) => Ok(()),
            Err(error) => Err(ConnectError::Embedded(Box::new(error))),
        }
    }

    /// Forgets one that a standalone dispatcher has taken over from.
    fn tidy(&mut self) {
        self.running = self.running.take().filter(nodeset_dispatcher::Embedded::is_running);
    }
}

#[cfg(not(feature = "embedded"))]
impl StandIn {
    const POSSIBLE: bool = false;

    fn start(&mut self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        Err(ConnectError::Nobody { path: endpoint.path().to_owned() })
    }

    fn tidy(&mut self) {}
}
