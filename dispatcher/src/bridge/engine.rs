//! The bridge's loop: joins sockets, the bridge's node on the bus, and the peers that decide.
//!
//! Level by level: what the dispatcher says, what the bus says, what the network says, then each host in turn, a bounded piece of
//! work each. It sleeps only when nothing of this has anything to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use mio::{Events, Poll};
use nodeset_bus::board::BoardPeer;
use nodeset_bus::protocol::SubscriptionId;
use tracing::{debug, info, warn};

use super::codec::{HEADER_LEN, MAX_BODY, Quality, Record};
use super::config::BridgeConfig;
use super::host::{Host, Wish};
use super::local::{self, LocalError, LocalNode};
use super::peer::{self, Greeting, Input, InterestId, LogKey, Reason, Role, Want, greeting};
use super::transport::connection::Received;
use super::transport::network::{self, ConnectionId, Network};
use super::{Command, WAKER};
use crate::allocate::chain;
use crate::policy::Policy;
use crate::registry::News;

/// bytes; for a greeting, which is the first that is read
const GREETING: usize = 2 << 10;
/// bytes; for records: more than one, so that a system call brings many
const RECORDS: usize = 4 * (HEADER_LEN + MAX_BODY);
/// How long a connection whose key is known may take to greet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Commands before others have their turn.
const COMMANDS_A_TURN: usize = 1024;
const EVENTS_A_TURN: usize = 1024;
/// How often people see how the hosts are, while there is something to do. Otherwise heartbeats wake the loop.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Engine {
    poll: Poll,
    commands: Receiver<Command>,
    local: LocalNode,
    /// The bus knows our node: it can be used.
    attached: bool,
    network: Network,
    hosts: BTreeMap<Arc<str>, Host>,
    lines: BTreeMap<ConnectionId, Line>,
    /// Connections that may have more to read.
    readable: BTreeSet<ConnectionId>,
    policy: Policy,
    /// Of this run of the bridge.
    instance: u64,
    /// What is published on this host, by others than us.
    published: BTreeMap<LogKey, peer::Publication>,
    /// What is wanted on this host, by others than us.
    wanted: BTreeMap<SubscriptionId, (InterestId, Want)>,
    last_interest: u32,
    /// For the board.
    shown: Arc<Mutex<Vec<BoardPeer>>>,
    /// When it was written there last, and how many hosts were known and connected.
    shown_at: Option<(Instant, [usize; 2])>,
}

/// One open connection.
struct Line {
    dialled: Option<Arc<str>>,
    /// Who its key says that it is.
    known: Option<Arc<str>>,
    /// Whose it is, once it greeted.
    host: Option<Arc<str>>,
    /// It has to have greeted by then.
    until: Instant,
    buffer: Vec<u8>,
    /// bytes at the front of `buffer`: what is no whole record yet
    filled: usize,
}

impl Engine {
    pub(super) fn new(
        poll: Poll,
        commands: Receiver<Command>,
        local: LocalNode,
        network: Network,
        policy: Policy,
        instance: u64,
        shown: Arc<Mutex<Vec<BoardPeer>>>,
    ) -> Engine {
        let mut engine = Engine {
            poll,
            commands,
            local,
            attached: false,
            network,
            hosts: BTreeMap::new(),
            lines: BTreeMap::new(),
            readable: BTreeSet::new(),
            policy,
            instance,
            published: BTreeMap::new(),
            wanted: BTreeMap::new(),
            last_interest: 0,
            shown,
            shown_at: None,
        };
        let config = engine.network.config().clone();
        engine.add_hosts(Instant::now(), &config);
        engine
    }

    /// Runs until it is told to stop, or the dispatcher goes.
    pub(super) fn run(mut self) -> Result<(), LocalError> {
        let mut events = Events::with_capacity(EVENTS_A_TURN);
        loop {
            let mut busy = self.local.turn()?;
            let now = Instant::now();
            self.local.beat(now);
            self.take_local_events(now);
            if self.attached {
                let Some(more) = self.take_commands(now) else {
                    self.stop(now);
                    return Ok(());
                };
                busy |= more;
                self.network.handle_timeout(now);
                self.take_network_events(now);
                busy |= self.read_connections(now);
                self.give_up_silent(now);
                busy |= self.turn_hosts(now)?;
                self.show(now);
            }
            self.sleep(&mut events, busy)?;
        }
    }

    /// Writes down how the hosts are: now and then, and when one came or went.
    fn show(&mut self, now: Instant) {
        let counts = [self.hosts.len(), self.hosts.values().filter(|host| host.is_connected()).count()];
        let is_new = |(at, shown)| shown != counts || now.saturating_duration_since(at) >= SHOWN_EVERY;
        if self.shown_at.is_none_or(is_new) {
            self.shown_at = Some((now, counts));
            let peers = self.hosts.values().map(Host::on_board).collect();
            // Whoever panicked while it had the lock left a whole list.
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = peers;
        }
    }

    fn sleep(&mut self, events: &mut Events, busy: bool) -> Result<(), LocalError> {
        // What was asked for in this turn would wait for the next one.
        self.local.flush()?;
        let mut wait = if busy { Some(Duration::ZERO) } else { self.wait_at_most() };
        if !busy {
            let hosts = &self.hosts;
            let at_most = self.local.wish(hosts.values().flat_map(|host| host.sources().wishes()));
            if hosts.values().any(|host| host.sources().is_ready()) {
                wait = Some(Duration::ZERO);
            } else if let Some(at_most) = at_most {
                wait = Some(wait.map_or(at_most, |wait| wait.min(at_most)));
            }
        }
        let polled = self.poll.poll(events, wait);
        self.local.awake();
        match polled {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(LocalError::System { doing: "waiting for events", source: error });
            }
            _ => {}
        }
        let now = Instant::now();
        for token in events.iter().map(|event| event.token()).filter(|&token| token != WAKER) {
            if self.network.owns(token) {
                self.network.handle(now, token);
            } else if self.local.owns(token) {
                self.local.handle(token)?;
            }
        }
        Ok(())
    }

    fn wait_at_most(&mut self) -> Option<Duration> {
        let hosts = self.hosts.values_mut().filter_map(|host| host.peer().poll_timeout()).min();
        let greetings = self.lines.values().filter(|line| line.host.is_none()).map(|line| line.until).min();
        let due =
            [self.network.poll_timeout(), Some(self.local.beats_at()), hosts, greetings].into_iter().flatten().min();
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    // What the dispatcher says.

    /// `None`: to stop. True: there may be more.
    fn take_commands(&mut self, now: Instant) -> Option<bool> {
        for _ in 0..COMMANDS_A_TURN {
            match self.commands.try_recv() {
                Ok(Command::News(news)) => self.take_news(now, news),
                Ok(Command::Config(config)) => self.reconfigure(now, *config),
                Ok(Command::Policy(policy)) => self.policy = *policy,
                Ok(Command::Stop) => return None,
                Err(error) => return (!error.is_disconnected()).then_some(false),
            }
        }
        Some(true)
    }

    fn take_news(&mut self, now: Instant, news: News) {
        match news {
            // What came over a bridge is not bridged on.
            News::Published(published) if published.node == self.local.id() => {}
            News::Published(published) => {
                let publication = peer::Publication {
                    log: LogKey { publication: published.publication, epoch: published.epoch },
                    topic: published.topic,
                    schema: published.schema,
                    node: published.name,
                    base_name: published.base_name,
                };
                self.published.insert(publication.log, publication.clone());
                self.hosts.values_mut().for_each(|host| host.handle(now, Input::Appeared(publication.clone())));
            }
            News::Withdrawn { publication, epoch } => {
                let log = LogKey { publication, epoch };
                if self.published.remove(&log).is_some() {
                    self.hosts.values_mut().for_each(|host| host.withdrawn(now, log));
                }
            }
            News::Wanted { node, .. } if node == self.local.id() => {}
            News::Wanted { subscription, selector, reliable, across_ms, .. } => {
                let quality = match across_ms {
                    Some(_) => Quality::AcrossHosts,
                    None if reliable => Quality::Reliable,
                    None => Quality::Lossy,
                };
                let deadline = Duration::from_millis(across_ms.unwrap_or(0).into());
                let want = Want { selector, quality, deadline, history: 0 };
                self.last_interest = self.last_interest.wrapping_add(1);
                let interest = InterestId(self.last_interest);
                self.wanted.insert(subscription, (interest, want.clone()));
                for host in self.hosts.values_mut() {
                    host.handle(now, Input::Wanted { interest, want: want.clone() });
                }
            }
            News::Unwanted { subscription } => {
                if let Some((interest, _)) = self.wanted.remove(&subscription) {
                    self.hosts.values_mut().for_each(|host| host.handle(now, Input::Unwanted { interest }));
                }
            }
        }
    }

    fn reconfigure(&mut self, now: Instant, config: BridgeConfig) {
        let before = self.network.config().clone();
        match self.network.reconfigure(now, config.clone()) {
            Ok(_) => info!(event = "bridge_reloaded", peers = config.peers.len()),
            Err(error) => warn!(event = "bridge_reload_failed", why = chain(&error)),
        }
        let changes = before.changes_to(&config);
        for name in changes.removed.iter().chain(&changes.changed) {
            if let Some(mut host) = self.hosts.remove(name) {
                host.end(&mut self.local);
            }
        }
        if changes.identity {
            std::mem::take(&mut self.hosts).values_mut().for_each(|host| host.end(&mut self.local));
        }
        self.add_hosts(now, &config);
    }

    fn add_hosts(&mut self, now: Instant, config: &BridgeConfig) {
        for name in config.peers.keys() {
            if self.hosts.contains_key(name) {
                continue;
            }
            let mut host = Host::new(&config.host, name, self.instance);
            for (interest, want) in self.wanted.values().cloned() {
                host.handle(now, Input::Wanted { interest, want });
            }
            for publication in self.published.values().cloned() {
                host.handle(now, Input::Appeared(publication));
            }
            self.hosts.insert(name.clone(), host);
        }
    }

    /// Says goodbye to all.
    fn stop(&mut self, now: Instant) {
        for host in self.hosts.values_mut() {
            host.handle(now, Input::Leave { reason: Reason::Stopping });
            let wishes = host.carry_out(now, &mut self.local, &self.policy);
            for wish in wishes.into_iter().flatten() {
                self.network.carry_out_wish(now, wish);
            }
        }
    }

    // What the bus says.

    fn take_local_events(&mut self, now: Instant) {
        while let Some(event) = self.local.poll_event() {
            match event {
                local::Event::Attached => self.attached = true,
                local::Event::Publishing { publication, outlet, shape } => {
                    let mut outlet = Some(outlet);
                    for host in self.hosts.values_mut() {
                        outlet = outlet.and_then(|outlet| host.publishing(now, publication, outlet, shape));
                    }
                    if outlet.is_some() {
                        // Its host was removed meanwhile.
                        self.local.withdraw(publication);
                    }
                }
                local::Event::NotPublishing { publication, text } => {
                    warn!(event = "mirror_failed", text);
                    self.hosts.values_mut().for_each(|host| host.not_publishing(now, publication, &text));
                }
                local::Event::Reading { subscription, inlet, foreign } => {
                    let mut link = Some((inlet, foreign));
                    for host in self.hosts.values_mut() {
                        link = link.and_then(|(inlet, foreign)| host.reading(now, subscription, inlet, foreign));
                    }
                }
                local::Event::NotReading { subscription, text } => {
                    debug!(event = "log_not_read", ?subscription, text);
                    self.hosts.values_mut().for_each(|host| host.not_reading(now, subscription));
                }
                local::Event::Ended { subscription, died: true } => {
                    self.hosts.values_mut().for_each(|host| host.publisher_gone(subscription));
                }
                // It is read to the end that its publisher wrote.
                local::Event::Ended { died: false, .. } | local::Event::Rung => {}
            }
        }
    }

    // What the network says.

    fn take_network_events(&mut self, now: Instant) {
        while let Some(event) = self.network.poll_event() {
            match event {
                network::Event::Opened { id, host, dialled } => self.opened(now, id, host, dialled),
                network::Event::Ready { id } => {
                    self.readable.insert(id);
                }
                network::Event::Lost { id, .. } => self.lost(now, id),
            }
        }
    }

    fn opened(&mut self, now: Instant, id: ConnectionId, known: Option<Arc<str>>, dialled: Option<Arc<str>>) {
        if let Some(host) = dialled.as_ref().and_then(|name| self.hosts.get_mut(name)) {
            if host.peer().is_connected() {
                return self.network.close(now, id);
            }
            let mut hello = Vec::new();
            Record::Hello(host.peer().dial()).encode(&mut hello);
            if !self.network.say(id, &hello) {
                return self.network.lose(now, id, "it does not take a greeting");
            }
        }
        let (until, buffer) = (now + PATIENCE, vec![0; GREETING]);
        self.lines.insert(id, Line { dialled, known, host: None, until, buffer, filled: 0 });
        self.readable.insert(id);
    }

    fn lost(&mut self, now: Instant, id: ConnectionId) {
        let Some(line) = self.lines.remove(&id) else { return };
        self.readable.remove(&id);
        if let Some(host) = line.host.or(line.dialled).and_then(|name| self.hosts.get_mut(&name)) {
            host.handle(now, Input::Disconnected { connection: peer::ConnectionId(id.number()) });
        }
    }

    fn give_up_silent(&mut self, now: Instant) {
        let silent = |line: &Line| line.host.is_none() && line.until <= now;
        let silent: Vec<_> = self.lines.iter().filter(|(_, line)| silent(line)).map(|(&id, _)| id).collect();
        for id in silent {
            self.network.lose(now, id, "it did not greet in time");
        }
        self.take_network_events(now);
    }

    /// True: there may be more.
    fn read_connections(&mut self, now: Instant) -> bool {
        for id in std::mem::take(&mut self.readable) {
            self.read(now, id);
        }
        self.take_network_events(now);
        !self.readable.is_empty()
    }

    fn read(&mut self, now: Instant, id: ConnectionId) {
        let (Some(line), Some(connection)) = (self.lines.get_mut(&id), self.network.connection(id)) else { return };
        let host = line.host.as_ref().and_then(|name| self.hosts.get_mut(name));
        let outcome = match host.filter(|host| host.active() == Some(id)) {
            Some(host) => host.receive(now, connection, &mut line.buffer, &mut line.filled),
            None if line.host.is_some() || line.filled == line.buffer.len() => return,
            None => connection.read(&mut line.buffer[line.filled..]).inspect(|received| {
                if let Received::Bytes(count) = received {
                    line.filled += count;
                }
            }),
        };
        match outcome {
            Ok(Received::Bytes(_)) => {
                self.readable.insert(id);
                if self.lines.get(&id).is_some_and(|line| line.host.is_none()) {
                    self.greet(now, id);
                }
            }
            Ok(Received::Nothing) => {}
            Ok(Received::End) => self.network.lose(now, id, "the other side ended it"),
            Err(error) => self.network.lose(now, id, &chain(&error)),
        }
    }

    /// Looks whether the other side has said who it is.
    fn greet(&mut self, now: Instant, id: ConnectionId) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let (hello, len) = match greeting(&line.buffer[..line.filled]) {
            Ok(Greeting::Incomplete) => return,
            Ok(Greeting::Hello { hello, len }) => (hello, len),
            Err(reason) => return self.turn_away(now, id, &reason),
        };
        // Whoever it says that it is: it has to be the one whose key it has, or who was dialled.
        let expected = line.known.clone().or_else(|| line.dialled.clone());
        let name = expected.unwrap_or_else(|| Arc::from(&*hello.host));
        let Some(host) = self.hosts.get_mut(&name).filter(|_| self.network.identified(now, id, &name)) else {
            return self.turn_away(now, id, &Reason::Removed);
        };
        let role = if line.dialled.is_some() { Role::Dialled } else { Role::Accepted };
        line.host = Some(name);
        line.buffer.copy_within(len..line.filled, 0);
        line.filled -= len;
        line.buffer.resize(RECORDS, 0);
        host.handle(now, Input::Connected { connection: peer::ConnectionId(id.number()), role, hello });
    }

    fn turn_away(&mut self, now: Instant, id: ConnectionId, reason: &Reason) {
        info!(event = "host_refused", why = %reason);
        self.network.say(id, &reason.goodbye());
        self.network.close(now, id);
        self.lost(now, id);
    }

    // Hosts.

    /// A bounded piece of work for each; true: there is more.
    fn turn_hosts(&mut self, now: Instant) -> Result<bool, LocalError> {
        let mut more = false;
        let names: Vec<_> = self.hosts.keys().cloned().collect();
        for name in names {
            more |= self.turn_host(now, &name)?;
        }
        self.take_network_events(now);
        Ok(more)
    }

    fn turn_host(&mut self, now: Instant, name: &Arc<str>) -> Result<bool, LocalError> {
        let Some(host) = self.hosts.get_mut(name) else { return Ok(false) };
        let before = host.active();
        let mut more = host.read_logs(now);
        if host.peer().poll_timeout().is_some_and(|due| due <= now) {
            host.peer().handle_timeout(now);
        }
        for wish in host.carry_out(now, &mut self.local, &self.policy)? {
            self.lines.remove(&wish.connection());
            self.network.carry_out_wish(now, wish);
        }
        host.settle(now, &mut self.local);
        let Some(id) = host.active() else { return Ok(more) };
        if before != Some(id) {
            // What came with its greeting is taken, and what follows.
            if let Some(line) = self.lines.get_mut(&id) {
                let taken = host.take(now, &line.buffer[..line.filled]);
                line.buffer.copy_within(taken..line.filled, 0);
                line.filled -= taken;
            }
            self.readable.insert(id);
            more = true;
        }
        let Some(connection) = self.network.connection(id) else { return Ok(more) };
        match host.transmit(now, connection) {
            Ok(again) => more |= again,
            Err(error) => self.network.lose(now, id, &chain(&error)),
        }
        Ok(more)
    }
}

impl Wish {
    fn connection(&self) -> ConnectionId {
        let Wish::Close(id, ..) = self;
        *id
    }
}

impl Network {
    /// Says something on a connection that has room for it; false: it has not, or is lost.
    fn say(&mut self, id: ConnectionId, bytes: &[u8]) -> bool {
        use super::transport::connection::Written;
        use super::transport::progress::Progress;
        let Some(connection) = self.connection(id) else { return false };
        matches!(connection.write(&[(bytes, &[])], &mut Progress::default()), Ok(Written::All))
    }

    fn carry_out_wish(&mut self, now: Instant, wish: Wish) {
        let Wish::Close(id, goodbye, reason) = wish;
        debug!(event = "connection_closed", why = %reason);
        // Whoever does not take it learns from the end.
        self.say(id, &goodbye);
        self.close(now, id);
    }
}
