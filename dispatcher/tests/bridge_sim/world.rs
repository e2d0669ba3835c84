//! The network, the clock, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::PublicationId;
use nodeset_bus::topic::{Selector, Topic};
use nodeset_dispatcher::bridge::codec::{Quality, Record};
use nodeset_dispatcher::bridge::peer::{
    Action, ConnectionId, Greeting, Input, InterestId, LogKey, MirrorEnd, Publication, Reason, Role, Want, greeting,
};

use super::host::{Host, Side, change_log, is_wanted, settings};
use super::log::{LONGEST, Link, LocalLog, SHORTEST_WAIT, frame_len};
use super::mirror::Mirror;
use super::random::Random;

const TOPICS: [&str; 3] = ["a", "b/c", "b/d"];
const SELECTORS: [&str; 8] = ["a", "b/*", "**", "b/c", "*@h1/**", "p@*/b/d", "*@local/a", "*@h0/a"];
/// bytes that a connection holds on its way
const IN_FLIGHT: usize = 64 * 1024;

/// What happened in a history.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    steps: u64,
    delivered: u64,
    lost: u64,
    resent: u64,
    cuts: u64,
    partitions: u64,
    restarts: u64,
    duplicates: u64,
    silences: u64,
    demotions: u64,
    /// Publishers that waited for a peer for long enough.
    given_up: u64,
    waits: u64,
    ends: u64,
    finished: u64,
    vanished: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Summary) {
        let Summary { steps, delivered, lost, resent, cuts, partitions, restarts, duplicates, .. } = other;
        let Summary { silences, demotions, given_up, waits, ends, finished, vanished, .. } = other;
        self.steps += steps;
        self.delivered += delivered;
        self.lost += lost;
        self.resent += resent;
        self.cuts += cuts;
        self.partitions += partitions;
        self.restarts += restarts;
        self.duplicates += duplicates;
        self.silences += silences;
        self.demotions += demotions;
        self.given_up += given_up;
        self.waits += waits;
        self.ends += ends;
        self.finished += finished;
        self.vanished += vanished;
    }

    /// Everything happened that is there to be tested.
    pub(crate) fn is_rich(&self) -> bool {
        let Summary { delivered, lost, resent, cuts, partitions, restarts, duplicates, .. } = *self;
        let Summary { silences, demotions, given_up, waits, ends, finished, vanished, .. } = *self;
        let all = [delivered, lost, resent, cuts, partitions, restarts, duplicates, silences, demotions, waits, ends];
        all.iter().all(|&count| count > 0) && finished > 0 && vanished > 0 && given_up > 0
    }
}

#[derive(Debug, Clone)]
enum Event {
    Publish { host: usize, log: LogKey },
    Read { host: usize },
    Deliver { wire: u64, from: usize },
    Timer { host: usize, peer: usize, life: u32 },
    Dial { host: usize, peer: usize, life: u32 },
    Linked { host: usize, peer: usize, life: u32, log: LogKey },
    Opened { host: usize, peer: usize, life: u32, log: LogKey },
    Appear { host: usize, life: u32, log: LogKey },
    Release { host: usize, life: u32 },
    Return { host: usize, life: u32 },
    Fault,
}

/// A connection between two hosts.
struct Wire {
    /// The one that dialled, the one that was dialled.
    ends: [usize; 2],
    /// On their way, from either end.
    bytes: [Vec<u8>; 2],
    delivering: [bool; 2],
    /// This end has closed it.
    closed: [bool; 2],
    /// It takes nothing any more.
    is_cut: bool,
    /// milliseconds; the longest time that bytes take
    lag: u64,
}

pub(crate) struct World {
    random: Random,
    loud: bool,
    start: Instant,
    now: Instant,
    calm_from: Instant,
    hosts: Vec<Host>,
    wires: BTreeMap<u64, Wire>,
    last_wire: u64,
    events: BTreeMap<(Instant, u64), Event>,
    last_event: u64,
    /// Until when nothing passes between two hosts.
    parted: BTreeMap<(usize, usize), Instant>,
    /// How far each publication ever was.
    truth: BTreeMap<LogKey, u64>,
    summary: Summary,
}

impl World {
    pub(crate) fn new(seed: u64, loud: bool) -> World {
        let mut random = Random(seed);
        let start = Instant::now();
        let calm_from = start + random.millis(1000, 2500);
        let count = (3 + random.below(5) * random.below(2) / 2) as usize;
        let hosts = (0..count).map(|host| Host {
            name: format!("h{host}"),
            life: 1,
            sides: BTreeMap::new(),
            logs: BTreeMap::new(),
            wants: BTreeMap::new(),
            last_interest: 0,
        });
        let hosts = hosts.collect();
        let mut world = World {
            random,
            loud,
            start,
            now: start,
            calm_from,
            hosts,
            wires: BTreeMap::new(),
            last_wire: 0,
            events: BTreeMap::new(),
            last_event: 0,
            parted: BTreeMap::new(),
            truth: BTreeMap::new(),
            summary: Summary::default(),
        };
        world.furnish();
        world
    }

    fn furnish(&mut self) {
        let count = self.hosts.len();
        for host in 0..count {
            for _ in 0..self.random.within(1, 3) {
                let want = self.some_want();
                let host = &mut self.hosts[host];
                host.last_interest += 1;
                host.wants.insert(host.last_interest, want);
            }
        }
        for one in 0..count {
            for other in one + 1..count {
                // Only one of them knows the other's address, or both do.
                let who = self.random.below(3);
                self.make_side(one, other, who != 1);
                self.make_side(other, one, who != 0);
            }
        }
        for host in 0..count {
            for _ in 0..self.random.within(1, 2) {
                let id = PublicationId(self.random.next());
                self.add_publisher(host, LogKey { publication: id, epoch: 1 }, None, 0);
            }
            self.after(Duration::from_millis(1), Event::Read { host });
        }
        self.after(Duration::from_millis(50), Event::Fault);
    }

    fn some_want(&mut self) -> Want {
        let selector = SELECTORS[self.random.below(SELECTORS.len() as u64) as usize];
        let quality = match self.random.below(4) {
            0 => Quality::Lossy,
            1 => Quality::AcrossHosts,
            _ => Quality::Reliable,
        };
        let history = self.random.below(2) * self.random.below(20);
        let deadline = match quality {
            Quality::AcrossHosts => self.random.millis(SHORTEST_WAIT.as_millis() as u64, 1_500),
            _ => Duration::ZERO,
        };
        Want { selector: Selector::new(selector).expect("it is one"), quality, deadline, history }
    }

    fn make_side(&mut self, host: usize, peer: usize, dials: bool) {
        let instance = self.random.next();
        let settings = settings(&self.hosts[host].name, &self.hosts[peer].name, instance);
        let kept = self.hosts[host].sides.remove(&peer);
        let mut side = Side::new(settings, dials);
        side.mirrors = kept.map(|side| side.mirrors).unwrap_or_default();
        let now = self.now;
        let host_state = &mut self.hosts[host];
        host_state.sides.insert(peer, side);
        let life = host_state.life;
        if life == 1 {
            host_state.tell_wants(now, peer);
        }
        let delay = self.random.millis(0, 20);
        self.after(delay, Event::Dial { host, peer, life });
    }

    fn add_publisher(&mut self, host: usize, log: LogKey, topic: Option<Topic>, first: u64) {
        let topic = topic
            .unwrap_or_else(|| Topic::new(TOPICS[self.random.below(TOPICS.len() as u64) as usize]).expect("it is one"));
        let node = if self.random.one_in(2) { "p-2" } else { "q" };
        let publication = Publication {
            log,
            topic,
            schema: Arc::new(Schema::bytes()),
            node: node.to_owned(),
            base_name: node.trim_end_matches("-2").to_owned(),
        };
        self.truth.insert(log, first);
        self.hosts[host].logs.insert(log, LocalLog::new(publication, first));
        let life = self.hosts[host].life;
        self.appear(host, life, log);
        let delay = self.random.millis(1, 50);
        self.after(delay, Event::Publish { host, log });
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.last_event += 1;
        self.events.insert((self.now + delay, self.last_event), event);
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.loud {
            println!("{:9.3} ms  {}", (self.now - self.start).as_secs_f64() * 1e3, what());
        }
    }

    fn is_calm(&self) -> bool {
        self.now >= self.calm_from
    }

    /// The whole history; panics where something does not hold.
    pub(crate) fn run(mut self) -> Summary {
        let end = self.calm_from + Duration::from_millis(3500);
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            self.summary.steps += 1;
            self.step(event);
        }
        self.check_end();
        self.summary
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Publish { host, log } => self.publish(host, log),
            Event::Read { host } => self.read(host),
            Event::Deliver { wire, from } => self.deliver(wire, from),
            Event::Fault => self.fault(),
            Event::Timer { host, peer, life } if self.hosts[host].life == life => {
                let now = self.now;
                let side = self.side(host, peer);
                side.timer_at = None;
                side.peer.handle_timeout(now);
                self.settle(host, peer);
            }
            Event::Dial { host, peer, life } if self.hosts[host].life == life => self.dial(host, peer),
            Event::Linked { host, peer, life, log } if self.hosts[host].life == life => self.linked(host, peer, log),
            Event::Opened { host, peer, life, log } if self.hosts[host].life == life => self.opened(host, peer, log),
            Event::Appear { host, life, log } => self.appear(host, life, log),
            Event::Release { host, life } if self.hosts[host].life == life => self.release(host),
            Event::Return { host, life } if self.hosts[host].life == life => self.come_back(host),
            // Of a dispatcher that is no more.
            _ => {}
        }
    }

    fn side(&mut self, host: usize, peer: usize) -> &mut Side {
        self.hosts[host].sides.get_mut(&peer).expect("there is a side for each peer")
    }

    fn peers(&self, host: usize) -> Vec<usize> {
        self.hosts[host].sides.keys().copied().collect()
    }

    fn tell(&mut self, host: usize, peer: usize, input: Input) {
        let now = self.now;
        self.side(host, peer).peer.handle(now, input);
        self.settle(host, peer);
    }

    fn tell_all(&mut self, host: usize, input: Input) {
        for peer in self.peers(host) {
            self.tell(host, peer, input.clone());
        }
    }

    // Nodes.

    fn appear(&mut self, host: usize, life: u32, log: LogKey) {
        if self.hosts[host].life != life {
            return;
        }
        let Some(state) = self.hosts[host].logs.get(&log) else { return };
        let (publication, ended) = (state.publication.clone(), state.ended.then_some(state.next));
        self.tell_all(host, Input::Appeared(publication));
        if let Some(next) = ended {
            self.tell_all(host, Input::Went { log, next });
        }
    }

    fn publish(&mut self, host: usize, log: LogKey) {
        if self.is_calm() {
            return;
        }
        let burst = if self.random.one_in(6) { self.random.within(10, 60) } else { self.random.within(1, 6) };
        for _ in 0..burst {
            if !self.publish_one(host, log) {
                break;
            }
        }
        for peer in self.peers(host) {
            self.settle(host, peer);
        }
        let delay = self.random.millis(1, 80);
        self.after(delay, Event::Publish { host, log });
    }

    fn publish_one(&mut self, host: usize, log: LogKey) -> bool {
        let Host { logs, sides, .. } = &mut self.hosts[host];
        let Some(state) = logs.get_mut(&log).filter(|state| !state.ended) else { return false };
        if !state.publish() {
            self.summary.waits += 1;
            let may_wait = |(peer, link): (&usize, &Link)| {
                link.quality == Quality::AcrossHosts && !link.demoted || sides[peer].linking.contains(&log)
            };
            assert!(
                state.links.iter().any(may_wait),
                "a publisher waits although nobody asked for it: {:?}",
                state.links
            );
            let now = self.now;
            let stalled: Vec<usize> = state.wait(now).collect();
            for peer in stalled {
                self.side(host, peer).peer.handle(now, Input::Stalled { log });
            }
            return false;
        }
        *self.truth.get_mut(&log).expect("it is there") += 1;
        let (next, position) = (state.next, state.position);
        let linked: Vec<usize> = state.links.keys().copied().collect();
        for peer in linked {
            let now = self.now;
            self.side(host, peer).peer.handle(now, Input::Available { log, next, position });
            self.act(host, peer);
        }
        true
    }

    fn end_publisher(&mut self, host: usize) {
        let logs: Vec<_> =
            self.hosts[host].logs.values().filter(|log| !log.ended).map(|log| log.publication.log).collect();
        if logs.is_empty() {
            return;
        }
        let log = logs[self.random.below(logs.len() as u64) as usize];
        let state = self.hosts[host].logs.get_mut(&log).expect("it was found there");
        state.ended = true;
        let (next, topic) = (state.next, state.publication.topic.clone());
        self.say(|| format!("h{host}: {log:?} ends at {next}"));
        self.summary.ends += 1;
        self.tell_all(host, Input::Went { log, next });
        self.hosts[host].drop_ended();
        if self.random.one_in(2) {
            // It goes on with a fresh log.
            let fresh = LogKey { publication: log.publication, epoch: log.epoch + 1 };
            self.add_publisher(host, fresh, Some(topic), next);
        } else {
            let fresh = LogKey { publication: PublicationId(self.random.next()), epoch: 1 };
            self.add_publisher(host, fresh, None, 0);
        }
    }

    fn change_want(&mut self, host: usize) {
        let now = self.now;
        let old = self.hosts[host].wants.keys().next().copied();
        let keeps = self.random.one_in(3);
        if self.random.one_in(2) || keeps {
            let want = self.some_want();
            self.hosts[host].last_interest += 1;
            let interest = self.hosts[host].last_interest;
            self.say(|| format!("h{host} wants {want:?}"));
            self.hosts[host].wants.insert(interest, want.clone());
            for peer in self.peers(host) {
                let input = Input::Wanted { interest: InterestId(interest), want: want.clone() };
                self.side(host, peer).peer.handle(now, input);
            }
        }
        if let Some(old) = old.filter(|_| !keeps) {
            self.say(|| format!("h{host} no longer wants {old}"));
            self.hosts[host].wants.remove(&old);
            for peer in self.peers(host) {
                self.side(host, peer).peer.handle(now, Input::Unwanted { interest: InterestId(old) });
            }
            self.drop_unread(host);
        }
        for peer in self.peers(host) {
            self.settle(host, peer);
        }
    }

    /// Logs from before a restart end with their last subscriber.
    fn drop_unread(&mut self, host: usize) {
        for peer in self.peers(host) {
            let name = self.hosts[peer].name.clone();
            let Host { sides, wants, .. } = &mut self.hosts[host];
            let Side { mirrors, opening, .. } = sides.get_mut(&peer).expect("there is a side for each peer");
            mirrors.retain(|log, mirror| {
                mirror.is_open || opening.contains(log) || is_wanted(wants, &mirror.publication, &name)
            });
        }
    }

    fn read(&mut self, host: usize) {
        let is_calm = self.is_calm();
        for peer in self.peers(host) {
            let now = self.now;
            let random = &mut self.random;
            let side = self.hosts[host].sides.get_mut(&peer).expect("there is a side for each peer");
            for (&log, mirror) in &mut side.mirrors {
                let most = if is_calm || !mirror.is_slow { u64::MAX } else { random.below(3) };
                let mut freed = 0;
                for _ in 0..most {
                    let Some(len) = mirror.unread.pop_front() else { break };
                    freed += len;
                }
                mirror.held -= freed;
                if freed > 0 && mirror.is_open {
                    side.peer.handle(now, Input::Room { log, freed });
                }
            }
            self.settle(host, peer);
        }
        let delay = self.random.millis(5, 45);
        self.after(delay, Event::Read { host });
    }

    // Dispatchers.

    fn restart(&mut self, host: usize) {
        self.say(|| format!("h{host} is restarted"));
        self.summary.restarts += 1;
        let wires: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.ends.contains(&host)).map(|(&id, _)| id).collect();
        wires.into_iter().for_each(|wire| self.cut(wire));
        let state = &mut self.hosts[host];
        state.life += 1;
        state.forget_links();
        for side in state.sides.values_mut() {
            for mirror in side.mirrors.values_mut() {
                mirror.abandon();
                mirror.is_open = false;
            }
        }
        // The subscribers of some mirrors are gone as well.
        let random = &mut self.random;
        for side in state.sides.values_mut() {
            side.mirrors.retain(|_, _| !random.one_in(6));
        }
        let life = state.life;
        let logs: Vec<_> = state.logs.keys().copied().collect();
        for peer in self.peers(host) {
            let dials = self.hosts[host].sides[&peer].dials;
            self.make_side(host, peer, dials);
        }
        for log in logs {
            let delay = self.random.millis(0, 40);
            self.after(delay, Event::Appear { host, life, log });
        }
        self.after(Duration::from_millis(100), Event::Release { host, life });
        // Its nodes come back when the dispatcher is connected to its peers already, or before.
        let delay = self.random.millis(0, 700);
        self.after(delay, Event::Return { host, life });
    }

    /// The nodes of a host say again what they want.
    fn come_back(&mut self, host: usize) {
        let now = self.now;
        for peer in self.peers(host) {
            self.hosts[host].tell_wants(now, peer);
            self.settle(host, peer);
        }
    }

    /// Links of the dispatcher before this one, which nobody wants any more.
    fn release(&mut self, host: usize) {
        let mut waits = false;
        for peer in self.peers(host) {
            let Host { logs, name, .. } = &self.hosts[host];
            let wanted: Vec<bool> =
                logs.values().map(|log| is_wanted(&self.hosts[peer].wants, &log.publication, name)).collect();
            let connected = self.hosts[host].sides[&peer].peer.is_connected();
            let linking = self.hosts[host].sides[&peer].linking.clone();
            let linked = self.hosts[host].sides[&peer].linked.clone();
            for (log, wanted) in self.hosts[host].logs.values_mut().zip(wanted) {
                let key = log.publication.log;
                if linking.contains(&key) || linked.contains(&key) || !log.links.contains_key(&peer) {
                    continue;
                }
                if !wanted || (connected && log.links[&peer].quality != Quality::AcrossHosts) || log.ended {
                    log.links.remove(&peer);
                } else {
                    waits = true;
                }
            }
        }
        self.hosts[host].drop_ended();
        if waits {
            let life = self.hosts[host].life;
            self.after(Duration::from_millis(100), Event::Release { host, life });
        }
    }

    fn dial(&mut self, host: usize, peer: usize) {
        let side = self.side(host, peer);
        if !side.dials || side.peer.is_connected() || side.dialling.is_some() {
            return;
        }
        if self.is_parted(host, peer).is_some() {
            return self.dial_later(host, peer);
        }
        let hello = self.side(host, peer).peer.dial();
        self.last_wire += 1;
        let wire = self.last_wire;
        let lag = self.random.within(0, 15);
        let state = Wire {
            ends: [host, peer],
            bytes: Default::default(),
            delivering: [false; 2],
            closed: [false; 2],
            is_cut: false,
            lag,
        };
        self.wires.insert(wire, state);
        let side = self.side(host, peer);
        side.dialling = Some(wire);
        side.wires.insert(wire, (false, Vec::new()));
        self.side(peer, host).wires.insert(wire, (false, Vec::new()));
        let mut bytes = Vec::new();
        Record::Hello(hello).encode(&mut bytes);
        self.send(wire, 0, &bytes);
    }

    fn dial_later(&mut self, host: usize, peer: usize) {
        let life = self.hosts[host].life;
        let delay = self.random.millis(2, 40);
        self.after(delay, Event::Dial { host, peer, life });
    }

    fn linked(&mut self, host: usize, peer: usize, log: LogKey) {
        if !self.side(host, peer).linking.remove(&log) {
            return;
        }
        let Some(state) = self.hosts[host].logs.get_mut(&log) else { return };
        let (base, next, position) = (state.base, state.next, state.position);
        let Some(link) = state.links.get_mut(&peer) else { return };
        link.from = link.from.max(base);
        let first = link.from;
        let begins = state.position_of(first);
        self.side(host, peer).linked.insert(log);
        self.tell(host, peer, Input::Linked { log, first, start: first, position: begins });
        self.tell(host, peer, Input::Available { log, next, position });
    }

    fn opened(&mut self, host: usize, peer: usize, log: LogKey) {
        let fails = self.random.one_in(50) && !self.is_calm();
        let side = self.side(host, peer);
        if !side.opening.remove(&log) {
            return;
        }
        if fails {
            side.mirrors.remove(&log);
            return self.tell(host, peer, Input::MirrorFailed { log, text: "no memory".to_owned() });
        }
        let mirror = side.mirrors.get_mut(&log).expect("it is there while it is opening");
        mirror.is_open = true;
        let (next, room) = (mirror.next, mirror.room - mirror.held);
        self.tell(host, peer, Input::MirrorOpened { log, next, room, longest: LONGEST as u32 });
    }

    /// Carries out what a peer wants, and writes what it has.
    fn settle(&mut self, host: usize, peer: usize) {
        self.act(host, peer);
        let now = self.now;
        while let Some(wire) = self.hosts[host].sides[&peer].active {
            let from = self.end_of(wire, host);
            if self.wires[&wire].bytes[from].len() >= IN_FLIGHT {
                break;
            }
            let Host { logs, sides, .. } = &mut self.hosts[host];
            let side = sides.get_mut(&peer).expect("there is a side for each peer");
            let bytes = side.write(now, logs, peer);
            self.act(host, peer);
            if bytes.is_empty() {
                break;
            }
            self.send(wire, from, &bytes);
        }
        let side = self.side(host, peer);
        assert!(side.peer.owed() < 500, "it owes more and more");
        let at = side.peer.poll_timeout();
        if let Some(at) = at.filter(|&at| side.timer_at.is_none_or(|armed| at < armed)) {
            side.timer_at = Some(at);
            let life = self.hosts[host].life;
            let delay = at.saturating_duration_since(now);
            self.after(delay.max(Duration::from_micros(100)), Event::Timer { host, peer, life });
        }
    }

    fn act(&mut self, host: usize, peer: usize) {
        while let Some(action) = self.side(host, peer).peer.poll_action() {
            self.carry_out(host, peer, action);
        }
    }

    fn carry_out(&mut self, host: usize, peer: usize, action: Action) {
        self.say(|| format!("h{host} about h{peer}: {action:?}"));
        match action {
            Action::Close { connection, goodbye, reason } => {
                let broke = matches!(reason, Reason::Violation(_) | Reason::WrongHost { .. } | Reason::Flood)
                    || matches!(reason, Reason::Theirs { code: 2 | 3 | 4 | 6, .. });
                assert!(!broke, "nobody breaks a rule here: {reason}");
                self.summary.duplicates += u64::from(reason == Reason::Duplicate);
                self.summary.silences += u64::from(reason == Reason::Silent);
                let end = self.end_of(connection.0, host);
                self.send(connection.0, end, &goodbye);
                self.close(connection.0, host);
            }
            Action::Established { connection, .. } => self.side(host, peer).active = Some(connection.0),
            Action::Link { log, quality, history, .. } => self.link(host, peer, log, quality, history),
            Action::Unlink { log } => {
                let side = self.side(host, peer);
                side.linking.remove(&log);
                side.linked.remove(&log);
                if let Some(state) = self.hosts[host].logs.get_mut(&log) {
                    state.links.remove(&peer);
                }
                self.hosts[host].drop_ended();
            }
            Action::Retain { log, .. } | Action::Demote { log } | Action::Restore { log, .. } => {
                self.summary.demotions += u64::from(matches!(action, Action::Demote { .. }));
                let now = self.now;
                let state = self.hosts[host].logs.get_mut(&log).expect("what is linked is there");
                self.summary.given_up += u64::from(change_log(now, state, peer, &action));
            }
            Action::OpenMirror { publication, first, .. } => {
                let log = publication.log;
                let room = frame_len(LONGEST) + self.random.below(100_000);
                let is_slow = self.random.one_in(4);
                let side = self.side(host, peer);
                // Its subscribers may hold one from before the dispatcher was restarted.
                side.mirrors.entry(log).or_insert_with(|| Mirror::new(publication, first, room, is_slow));
                side.opening.insert(log);
                let life = self.hosts[host].life;
                let delay = self.random.millis(0, 10);
                self.after(delay, Event::Opened { host, peer, life, log });
            }
            Action::EndMirror { log, end } => {
                self.summary.finished += u64::from(end == MirrorEnd::Finished);
                self.summary.vanished += u64::from(end == MirrorEnd::Vanished);
                assert!(!matches!(end, MirrorEnd::Damaged(_)), "nobody damages anything here");
                let side = self.side(host, peer);
                side.opening.remove(&log);
                side.mirrors.remove(&log).expect("it ends a mirror that is not");
            }
            Action::AbandonLoan { log } => {
                let mirror = self.side(host, peer).mirrors.get_mut(&log).expect("it is there");
                assert!(mirror.abandon(), "there was no loan");
            }
        }
    }

    fn link(&mut self, host: usize, peer: usize, log: LogKey, quality: Quality, history: u64) {
        let is_new = !self.side(host, peer).linked.contains(&log) && !self.side(host, peer).linking.contains(&log);
        let was_restarted = self.hosts[host].life > 1 && quality != Quality::AcrossHosts;
        let state = self.hosts[host].logs.get_mut(&log).expect("what is to be linked is there");
        let (base, next) = (state.base, state.next);
        let from = next.saturating_sub(history).max(base);
        // What was kept before a restart is lost, unless publishers waited for it.
        let link = state.links.entry(peer).or_insert(Link {
            quality,
            from,
            demoted: false,
            stalled: None,
            excused: was_restarted,
        });
        if link.quality == Quality::Lossy && quality != Quality::Lossy {
            (link.from, link.excused) = (next, true);
        }
        link.quality = quality;
        if is_new {
            // What an earlier dispatcher's link kept is where this one begins.
            link.demoted = false;
            self.side(host, peer).linking.insert(log);
            let life = self.hosts[host].life;
            let delay = self.random.millis(0, 8);
            self.after(delay, Event::Linked { host, peer, life, log });
        }
    }

    // The network.

    fn end_of(&self, wire: u64, host: usize) -> usize {
        usize::from(self.wires[&wire].ends[1] == host)
    }

    fn is_parted(&self, one: usize, other: usize) -> Option<Instant> {
        self.parted.get(&(one.min(other), one.max(other))).copied().filter(|&until| until > self.now)
    }

    fn send(&mut self, wire: u64, from: usize, bytes: &[u8]) {
        let Some(state) = self.wires.get_mut(&wire) else { return };
        if !state.closed[from] && !state.is_cut {
            state.bytes[from].extend_from_slice(bytes);
            self.deliver_later(wire, from);
        }
    }

    fn deliver_later(&mut self, wire: u64, from: usize) {
        let Some(state) = self.wires.get_mut(&wire) else { return };
        if !state.delivering[from] {
            state.delivering[from] = true;
            let lag = state.lag;
            let delay = self.random.millis(0, lag) + Duration::from_micros(20);
            self.after(delay, Event::Deliver { wire, from });
        }
    }

    fn deliver(&mut self, wire: u64, from: usize) {
        let Some(state) = self.wires.get(&wire) else { return };
        let [one, other] = state.ends;
        if let Some(until) = self.is_parted(one, other) {
            return self.after(until - self.now, Event::Deliver { wire, from });
        }
        let whole = self.random.one_in(2);
        let Some(state) = self.wires.get_mut(&wire) else { return };
        state.delivering[from] = false;
        let len = state.bytes[from].len();
        let (is_closed, reader) = (state.closed[from], state.ends[1 - from]);
        let reads = !state.closed[1 - from];
        let len = if whole || len == 0 { len } else { self.random.within(1, len as u64) as usize };
        let Some(state) = self.wires.get_mut(&wire) else { return };
        let bytes: Vec<u8> = state.bytes[from].drain(..len).collect();
        let is_over = is_closed && state.bytes[from].is_empty();
        if !state.bytes[from].is_empty() || (is_closed && !is_over) {
            self.deliver_later(wire, from);
        }
        let writer = [one, other][from];
        if reads && !bytes.is_empty() {
            self.arrive(wire, reader, writer, &bytes);
        }
        if is_over && self.wires.get(&wire).is_some_and(|state| !state.closed[1 - from]) {
            self.broke(wire, reader, writer);
        }
        // There is room to write again.
        self.settle(writer, reader);
    }

    fn arrive(&mut self, wire: u64, host: usize, peer: usize, bytes: &[u8]) {
        let now = self.now;
        let is_accepted = self.wires[&wire].ends[1] == host;
        let Some((greeted, buffer)) = self.side(host, peer).wires.get_mut(&wire) else { return };
        buffer.extend_from_slice(bytes);
        if !*greeted {
            match greeting(buffer) {
                Ok(Greeting::Incomplete) => return,
                Ok(Greeting::Hello { hello, len }) => {
                    buffer.drain(..len);
                    *greeted = true;
                    let side = self.side(host, peer);
                    if side.dialling == Some(wire) {
                        side.dialling = None;
                    }
                    let role = if is_accepted { Role::Accepted } else { Role::Dialled };
                    self.tell(host, peer, Input::Connected { connection: ConnectionId(wire), role, hello });
                }
                Err(reason) => {
                    let is_duplicate = matches!(reason, Reason::Theirs { code: 1, .. });
                    assert!(is_duplicate, "nobody greets wrongly here: {reason}");
                    return self.broke(wire, host, peer);
                }
            }
        }
        if self.hosts[host].sides[&peer].active != Some(wire) {
            return;
        }
        let side = self.hosts[host].sides.get_mut(&peer).expect("there is a side for each peer");
        self.summary.delivered += side.feed(now, wire, &self.truth, &mut self.random);
        self.look_at_gaps(host, peer);
        self.settle(host, peer);
    }

    /// A gap is told only where something may be lost.
    fn look_at_gaps(&mut self, host: usize, peer: usize) {
        let mut lost = 0;
        let gaps = self
            .side(host, peer)
            .mirrors
            .iter_mut()
            .flat_map(|(&log, mirror)| std::mem::take(&mut mirror.gaps).into_iter().map(move |gap| (log, gap)));
        let gaps: Vec<_> = gaps.collect();
        for (log, (first, count)) in gaps {
            self.say(|| format!("h{host}: {count} messages of {log:?} from {first} on are lost"));
            lost += count;
            let link = self.hosts[peer].logs.get(&log).and_then(|log| log.links.get(&host));
            if let Some(link) = link.filter(|link| !link.excused) {
                assert_eq!(link.quality, Quality::Lossy, "{count} messages of {log:?} from {first} on were lost");
            }
        }
        self.summary.lost += lost;
    }

    /// A host sees that a connection is over.
    fn broke(&mut self, wire: u64, host: usize, peer: usize) {
        self.close(wire, host);
        self.tell(host, peer, Input::Disconnected { connection: ConnectionId(wire) });
    }

    /// A host closes its end; the other one hears of it in time.
    fn close(&mut self, wire: u64, host: usize) {
        let end = self.end_of(wire, host);
        let state = self.wires.get_mut(&wire).expect("wires are never forgotten");
        if std::mem::replace(&mut state.closed[end], true) {
            return;
        }
        let peer = state.ends[1 - end];
        state.bytes[1 - end].clear();
        let side = self.side(host, peer);
        side.wires.remove(&wire);
        if side.dialling == Some(wire) {
            side.dialling = None;
        }
        if side.active == Some(wire) {
            side.active = None;
        }
        self.deliver_later(wire, end);
        self.dial_later(host, peer);
    }

    /// What is on its way is lost from some byte on, and both ends see it.
    fn cut(&mut self, wire: u64) {
        let state = &self.wires[&wire];
        if state.closed == [true, true] {
            return;
        }
        let ends = state.ends;
        self.wires.get_mut(&wire).expect("wires are never forgotten").is_cut = true;
        for from in 0..2 {
            let len = self.wires[&wire].bytes[from].len() as u64;
            let left = self.random.within(0, len) as usize;
            let state = self.wires.get_mut(&wire).expect("wires are never forgotten");
            state.bytes[from].truncate(left);
        }
        // What is left arrives before the end does.
        for (from, host) in ends.into_iter().enumerate() {
            let bytes: Vec<u8> = self.wires.get_mut(&wire).expect("it is there").bytes[from].drain(..).collect();
            let reader = ends[1 - from];
            if !bytes.is_empty() && !self.wires[&wire].closed[1 - from] {
                self.arrive(wire, reader, host, &bytes);
            }
        }
        for (at, host) in ends.into_iter().enumerate() {
            if !self.wires[&wire].closed[at] {
                self.broke(wire, host, ends[1 - at]);
            }
        }
    }

    fn fault(&mut self) {
        if self.is_calm() {
            return;
        }
        let host = self.random.below(self.hosts.len() as u64) as usize;
        match self.random.below(12) {
            0..=4 => {
                let open: Vec<u64> =
                    self.wires.iter().filter(|(_, wire)| wire.closed != [true, true]).map(|(&id, _)| id).collect();
                if !open.is_empty() {
                    let wire = open[self.random.below(open.len() as u64) as usize];
                    self.say(|| format!("connection {wire} is cut"));
                    self.summary.cuts += 1;
                    self.cut(wire);
                }
            }
            5 | 6 => {
                let other = (host + 1 + self.random.below(self.hosts.len() as u64 - 1) as usize) % self.hosts.len();
                let until = self.now + self.random.millis(5, 1800);
                // In the end the network is whole.
                let until = until.min(self.calm_from);
                self.say(|| format!("h{host} and h{other} are parted"));
                self.summary.partitions += 1;
                self.parted.insert((host.min(other), host.max(other)), until);
            }
            7 => self.restart(host),
            8 | 9 => self.change_want(host),
            _ => self.end_publisher(host),
        }
        let delay = self.random.millis(10, 250);
        self.after(delay, Event::Fault);
    }

    // The end.

    fn check_end(&mut self) {
        for host in 0..self.hosts.len() {
            for peer in self.peers(host) {
                self.check_pair(host, peer);
                self.summary.resent += self.hosts[host].sides[&peer].peer.status().resent;
            }
        }
    }

    /// What `host` has of `peer`.
    fn check_pair(&self, host: usize, peer: usize) {
        let (ours, theirs) = (&self.hosts[host], &self.hosts[peer]);
        let (side, other) = (&ours.sides[&peer], &theirs.sides[&host]);
        assert!(side.peer.is_connected(), "h{host} is not connected to h{peer}: {:?}", side.peer.status());
        assert_eq!(side.active, other.active, "h{host} and h{peer} use two connections");
        let open = self.wires.values().filter(|wire| wire.ends == [host, peer] || wire.ends == [peer, host]);
        assert_eq!(open.filter(|wire| wire.closed != [true, true]).count(), 1, "one connection stays");
        for (log, state) in &theirs.logs {
            let wanted = !state.ended && is_wanted(&ours.wants, &state.publication, &theirs.name);
            let mirror = side.mirrors.get(log).filter(|mirror| mirror.is_open);
            assert_eq!(wanted, mirror.is_some(), "h{host}, of h{peer}: {log:?} {}", state.publication.topic.as_str());
            assert_eq!(wanted, state.links.contains_key(&host), "h{peer} keeps {log:?} for h{host}");
            if let Some(mirror) = mirror {
                assert_eq!(mirror.next, state.next, "h{host} has not everything of {log:?} of h{peer}");
                let link = &state.links[&host];
                assert!(
                    link.quality == Quality::Lossy || link.from == state.next,
                    "{log:?} keeps what is acknowledged"
                );
            }
        }
        let unknown = side.mirrors.iter().filter(|(log, mirror)| mirror.is_open && !theirs.logs.contains_key(log));
        assert_eq!(unknown.count(), 0, "h{host} mirrors what h{peer} has no longer");
    }
}
