//! The bridge's connections over real sockets: who is let in, who is not, and that bytes arrive as they were sent.

#![cfg(feature = "bridge")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nodeset_dispatcher::bridge::config::{BridgeConfig, PeerConfig};
use nodeset_dispatcher::bridge::transport::admission::Strangers;
use nodeset_dispatcher::bridge::transport::connection::{Received, Written};
use nodeset_dispatcher::bridge::transport::keys::KeyPair;
use nodeset_dispatcher::bridge::transport::network::{Conduct, ConnectionId, Event, Network};
use nodeset_dispatcher::bridge::transport::progress::Progress;

/// No test waits for a time to pass; this is only how long one that fails takes.
const DEADLINE: Duration = Duration::from_secs(60);
const FIRST: Token = Token(10);

/// A network with its loop; what it receives is kept.
struct Host {
    poll: Poll,
    network: Network,
    happened: Vec<Event>,
    received: BTreeMap<ConnectionId, Vec<u8>>,
    /// The other side said that nothing more comes.
    ended: Vec<ConnectionId>,
}

impl Host {
    fn start(config: BridgeConfig) -> Host {
        Host::with(config, Conduct::default())
    }

    fn with(config: BridgeConfig, conduct: Conduct) -> Host {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let network = Network::start(registry, FIRST, config, conduct, Instant::now()).unwrap();
        Host { poll, network, happened: Vec::new(), received: BTreeMap::new(), ended: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.network.addresses().next().unwrap()
    }

    /// One turn of the loop, which waits at most a moment.
    fn turn(&mut self) {
        let mut events = Events::with_capacity(64);
        let wait = self.network.poll_timeout().map(|due| due.saturating_duration_since(Instant::now()));
        let wait = wait.unwrap_or(DEADLINE).min(Duration::from_millis(2));
        self.poll.poll(&mut events, Some(wait)).unwrap();
        let now = Instant::now();
        for event in &events {
            assert!(self.network.owns(event.token()));
            self.network.handle(now, event.token());
        }
        if self.network.poll_timeout().is_some_and(|due| due <= now) {
            self.network.handle_timeout(now);
        }
        while let Some(event) = self.network.poll_event() {
            if let Event::Opened { id, .. } | Event::Ready { id } = event {
                self.read(id);
            }
            if !matches!(event, Event::Ready { .. }) {
                self.happened.push(event);
            }
        }
    }

    fn read(&mut self, id: ConnectionId) {
        let mut buffer = vec![0; 100_000];
        while let Some(connection) = self.network.connection(id) {
            match connection.read(&mut buffer) {
                Ok(Received::Bytes(count)) => self.received.entry(id).or_default().extend_from_slice(&buffer[..count]),
                Ok(Received::Nothing) => return,
                Ok(Received::End) => {
                    self.ended.push(id);
                    return;
                }
                Err(error) => self.network.lose(Instant::now(), id, &error.to_string()),
            }
        }
    }

    /// Writes what the socket takes now; true when all is written.
    fn write(&mut self, id: ConnectionId, pairs: &[(&[u8], &[u8])], progress: &mut Progress) -> bool {
        self.network.connection(id).unwrap().write(pairs, progress).unwrap() == Written::All
    }

    fn opened(&self) -> Vec<ConnectionId> {
        let opened = |event: &Event| if let Event::Opened { id, .. } = event { Some(*id) } else { None };
        self.happened.iter().filter_map(opened).collect()
    }

    fn hosts(&self) -> Vec<&str> {
        let host = |event| if let &Event::Opened { host: Some(ref host), .. } = event { Some(&**host) } else { None };
        let mut hosts: Vec<_> = self.happened.iter().filter_map(host).collect();
        hosts.sort_unstable();
        hosts
    }

    fn losses(&self) -> usize {
        self.happened.iter().filter(|event| matches!(event, Event::Lost { .. })).count()
    }
}

/// Turns all loops until `done`.
fn until(hosts: &mut [&mut Host], mut done: impl FnMut(&mut [&mut Host]) -> bool) {
    let began = Instant::now();
    while !done(hosts) {
        assert!(began.elapsed() < DEADLINE, "{:?}", hosts.iter().map(|host| &host.happened).collect::<Vec<_>>());
        hosts.iter_mut().for_each(|host| host.turn());
    }
}

fn here() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn listening(name: &str, peers: &[(&str, PeerConfig)], key: Option<&KeyPair>) -> BridgeConfig {
    let mut config = BridgeConfig::none(name);
    config.listen.insert(here());
    config.peers = peers.iter().map(|(name, peer)| (Arc::from(*name), *peer)).collect();
    config.key = key.cloned();
    config
}

fn dialling(name: &str, peers: &[(&str, PeerConfig)], key: Option<&KeyPair>) -> BridgeConfig {
    BridgeConfig { listen: Default::default(), ..listening(name, peers, key) }
}

fn peer(address: Option<SocketAddr>, key: Option<&KeyPair>) -> PeerConfig {
    PeerConfig { address, key: key.map(KeyPair::public) }
}

fn keys<const N: usize>() -> [KeyPair; N] {
    std::array::from_fn(|_| KeyPair::generate().unwrap())
}

/// Two hosts with one open connection, `a` being dialled.
fn pair(encrypted: bool) -> (Host, ConnectionId, Host, ConnectionId) {
    let [a_key, b_key] = keys();
    let given = |key| encrypted.then_some(key);
    let mut a = Host::start(listening("a", &[("b", peer(None, given(&b_key)))], given(&a_key)));
    let to = peer(Some(a.address()), given(&a_key));
    let mut b = Host::start(dialling("b", &[("a", to)], given(&b_key)));
    until(&mut [&mut a, &mut b], |hosts| hosts.iter().all(|host| !host.opened().is_empty()));
    if encrypted {
        assert_eq!((a.hosts(), b.hosts()), (vec!["b"], vec!["a"]));
    } else {
        assert!(a.network.identified(Instant::now(), a.opened()[0], "b"));
        assert!(b.network.identified(Instant::now(), b.opened()[0], "a"));
    }
    let (at_a, at_b) = (a.opened()[0], b.opened()[0]);
    (a, at_a, b, at_b)
}

/// Pairs of many sizes, of which those of the larger ones fill a socket several times.
fn parts() -> Vec<(Vec<u8>, Vec<u8>)> {
    let sizes = [0, 1, 63, 64, 1_000, 16_384, 16_385, 70_000, 1 << 20, 5];
    let part = |(index, size): (usize, usize)| {
        let payload = (0..size).map(|at| (at * 31 + index) as u8).collect();
        (format!("header {index}").into_bytes(), payload)
    };
    sizes.into_iter().cycle().take(300).enumerate().map(part).collect()
}

#[test]
fn bytes_arrive_as_they_were_sent_whatever_the_socket_takes() {
    for encrypted in [false, true] {
        let (mut a, at_a, mut b, at_b) = pair(encrypted);
        let parts = parts();
        let expected = parts.iter().flat_map(|(header, payload)| [&header[..], payload]).collect::<Vec<_>>().concat();
        let pairs: Vec<(&[u8], &[u8])> = parts.iter().map(|(header, payload)| (&header[..], &payload[..])).collect();
        // Both ways at once.
        let (mut to_a, mut to_b, mut blocked) = (Progress::default(), Progress::default(), 0);
        until(&mut [&mut a, &mut b], |hosts| {
            let [a, b] = hosts else { unreachable!() };
            let done = b.write(at_b, &pairs, &mut to_a) & a.write(at_a, &pairs, &mut to_b);
            blocked += usize::from(!done);
            let received = |host: &Host, id| host.received.get(&id).map_or(0, Vec::len);
            done && received(a, at_a) >= expected.len() && received(b, at_b) >= expected.len()
        });
        assert!(blocked > 0, "the socket took everything at once, so nothing was tested");
        assert!(a.received[&at_a] == expected && b.received[&at_b] == expected, "encrypted: {encrypted}");
        let traffic = (a.network.connection(at_a).unwrap().traffic(), b.network.connection(at_b).unwrap().traffic());
        assert_eq!((traffic.0.sent, traffic.0.received), (traffic.1.received, traffic.1.sent));
        let overhead = traffic.0.sent as i64 - expected.len() as i64;
        assert!(if encrypted { overhead > 0 } else { overhead == 0 }, "{overhead}");
    }
}

#[test]
fn what_was_taken_before_closing_arrives_and_the_end_is_seen() {
    for encrypted in [false, true] {
        let (mut a, at_a, mut b, at_b) = pair(encrypted);
        assert!(b.write(at_b, &[(b"good", b"bye")], &mut Progress::default()));
        b.network.close(Instant::now(), at_b);
        assert!(b.network.connection(at_b).is_none());
        until(&mut [&mut a, &mut b], |hosts| hosts[0].ended.contains(&at_a));
        assert_eq!(a.received[&at_a], b"goodbye");
        a.network.close(Instant::now(), at_a);
        // b, which still has its peer, dials again.
        until(&mut [&mut a, &mut b], |hosts| hosts[0].opened().len() == 2 && hosts[1].opened().len() == 2);
        assert_eq!((a.losses(), b.losses()), (0, 0));
    }
}

#[test]
fn a_cut_is_no_goodbye() {
    let (mut a, at_a, b, _) = pair(true);
    drop(b);
    until(&mut [&mut a], |hosts| hosts[0].losses() == 1);
    assert!(!a.ended.contains(&at_a));
}

#[test]
fn a_key_that_is_not_known_is_refused_on_either_side() {
    let [a_key, b_key, other] = keys();
    for (known_to_a, known_to_b) in [(&other, &a_key), (&b_key, &other)] {
        let mut a = Host::start(listening("a", &[("b", peer(None, Some(known_to_a)))], Some(&a_key)));
        let to = peer(Some(a.address()), Some(known_to_b));
        let mut b = Host::start(dialling("b", &[("a", to)], Some(&b_key)));
        // It was tried, more than once, and all attempts ended.
        let mut most = 0;
        until(&mut [&mut a, &mut b], |hosts| {
            let tried = hosts[0].network.accepted();
            most = most.max(tried);
            most >= 3 && hosts[0].network.is_empty()
        });
        assert_eq!(a.opened(), []);
        // The side whose own handshake was done may hear of the refusal a moment later.
        until(&mut [&mut a, &mut b], |hosts| hosts[1].losses() == hosts[1].opened().len());
    }
}

#[test]
fn who_has_no_key_does_not_get_in() {
    let [a_key, b_key] = keys();
    let mut a = Host::start(listening("a", &[("b", peer(None, Some(&b_key)))], Some(&a_key)));
    let mut plain = Host::start(dialling("b", &[("a", peer(Some(a.address()), None))], None));
    until(&mut [&mut a, &mut plain], |hosts| {
        let [_, plain] = hosts else { unreachable!() };
        for id in plain.opened() {
            if let Some(connection) = plain.network.connection(id) {
                // Refused or not, it is heard by the loss.
                let _ = connection.write(&[(b"let me in", b"please")], &mut Progress::default());
            }
        }
        plain.losses() + plain.ended.len() >= 1
    });
    assert_eq!(a.opened(), []);
}

#[test]
fn a_dispatcher_with_a_key_does_not_speak_to_one_without() {
    let [a_key, b_key] = keys();
    let mut plain = Host::start(listening("a", &[("b", peer(None, None))], None));
    let to = peer(Some(plain.address()), Some(&a_key));
    let mut b = Host::start(dialling("b", &[("a", to)], Some(&b_key)));
    until(&mut [&mut plain, &mut b], |hosts| {
        let [plain, _] = hosts else { unreachable!() };
        // What a dispatcher without keys would say first.
        for id in plain.opened() {
            if let Some(connection) = plain.network.connection(id) {
                let _ = connection.write(&[(b"hello", b"this is plain text")], &mut Progress::default());
            }
        }
        plain.losses() + plain.ended.len() >= 1
    });
    assert_eq!(b.opened(), []);
}

#[test]
fn garbage_and_a_connection_cut_in_the_handshake_harm_nobody() {
    let [a_key, b_key] = keys();
    let mut a = Host::start(listening("a", &[("b", peer(None, Some(&b_key)))], Some(&a_key)));
    let to = a.address();
    for garbage in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0x40, 0],
        &[0x16, 3, 3, 0, 4, 1, 0xff, 0xff, 0xff],
        &[0; 70_000],
    ] {
        let before = a.network.accepted();
        let mut socket = TcpStream::connect(to).unwrap();
        // It may have been refused before all of it was written.
        let _ = socket.write_all(garbage);
        drop(socket);
        until(&mut [&mut a], |hosts| hosts[0].network.accepted() > before && hosts[0].network.is_empty());
    }
    let mut b = Host::start(dialling("b", &[("a", peer(Some(to), Some(&a_key)))], Some(&b_key)));
    until(&mut [&mut a, &mut b], |hosts| hosts.iter().all(|host| !host.opened().is_empty()));
    assert_eq!(a.hosts(), ["b"]);
}

#[test]
fn strangers_are_few_slow_ones_are_dropped_and_hosts_still_get_in() {
    let [a_key, b_key] = keys();
    let strangers = Strangers { most: 4, patience: Duration::from_millis(300), ..Strangers::default() };
    let conduct = Conduct { strangers, ..Conduct::default() };
    let mut a = Host::with(listening("a", &[("b", peer(None, Some(&b_key)))], Some(&a_key)), conduct);
    let to = a.address();
    // Each says a little, then nothing.
    let mut slow: Vec<_> = (0..12).map(|_| TcpStream::connect(to).unwrap()).collect();
    for socket in &mut slow {
        let _ = socket.write_all(&[0x16]);
    }
    until(&mut [&mut a], |hosts| {
        assert!(hosts[0].network.len() <= 4);
        hosts[0].network.accepted() == 12
    });
    let mut b = Host::start(dialling("b", &[("a", peer(Some(to), Some(&a_key)))], Some(&b_key)));
    until(&mut [&mut a, &mut b], |hosts| hosts.iter().all(|host| !host.opened().is_empty()));
    assert_eq!(a.hosts(), ["b"]);
    // Those that remained are dropped when their time is over; the host stays.
    until(&mut [&mut a, &mut b], |hosts| hosts[0].network.len() == 1);
    for mut socket in slow {
        assert!(matches!(socket.read(&mut [0; 100]), Ok(0) | Err(_)));
    }
    assert_eq!(a.losses(), 0);
}

#[test]
fn a_stranger_that_says_too_much_in_plain_text_is_dropped() {
    let strangers = Strangers { bytes: 1_000, ..Strangers::default() };
    let mut a =
        Host::with(listening("a", &[("b", peer(None, None))], None), Conduct { strangers, ..Conduct::default() });
    let mut socket = TcpStream::connect(a.address()).unwrap();
    until(&mut [&mut a], |hosts| {
        // It is refused at some point.
        let _ = socket.write(&[7; 500]);
        hosts[0].losses() == 1
    });
}

#[test]
fn twenty_hosts_dial_one_in_any_order() {
    let a_key = KeyPair::generate().unwrap();
    let others: Vec<(String, KeyPair)> =
        (0..20).map(|number| (format!("host-{number:02}"), KeyPair::generate().unwrap())).collect();
    // A port that nobody listens at yet.
    let address = TcpListener::bind(here()).unwrap().local_addr().unwrap();
    let mut hosts: Vec<Host> = others
        .iter()
        .map(|(name, key)| Host::start(dialling(name, &[("a", peer(Some(address), Some(&a_key)))], Some(key))))
        .collect();
    // All were refused at least once.
    hosts.iter_mut().for_each(|host| until(&mut [host], |hosts| hosts[0].network.is_empty()));
    let peers: Vec<_> = others.iter().map(|(name, key)| (&**name, peer(None, Some(key)))).collect();
    let mut config = listening("a", &peers, Some(&a_key));
    config.listen = [address].into();
    let mut a = Host::start(config);
    let mut all: Vec<&mut Host> = std::iter::once(&mut a).chain(&mut hosts).collect();
    until(&mut all, |hosts| hosts[0].opened().len() == 20);
    let names: Vec<&str> = others.iter().map(|(name, _)| &**name).collect();
    assert_eq!(a.hosts(), names);
}

#[test]
fn a_new_configuration_changes_what_is_different_and_nothing_else() {
    let [a_key, b_key, c_key, d_key] = keys();
    let mut a =
        Host::start(listening("a", &[("b", peer(None, Some(&b_key))), ("c", peer(None, Some(&c_key)))], Some(&a_key)));
    let to = peer(Some(a.address()), Some(&a_key));
    let mut b = Host::start(dialling("b", &[("a", to)], Some(&b_key)));
    let mut c = Host::start(dialling("c", &[("a", to)], Some(&c_key)));
    let mut d = Host::start(dialling("d", &[("a", to)], Some(&d_key)));
    until(&mut [&mut a, &mut b, &mut c, &mut d], |hosts| hosts[0].opened().len() == 2);
    assert_eq!(a.hosts(), ["b", "c"]);

    let next = listening("a", &[("b", peer(None, Some(&b_key))), ("d", peer(None, Some(&d_key)))], Some(&a_key));
    let changes = a.network.reconfigure(Instant::now(), next.clone()).unwrap();
    assert_eq!((changes.added.len(), changes.removed.len(), changes.changed.len()), (1, 1, 0));
    until(&mut [&mut a, &mut b, &mut c, &mut d], |hosts| hosts[0].opened().len() == 3 && hosts[2].losses() > 0);
    assert_eq!((a.hosts(), a.losses(), b.losses()), (vec!["b", "c", "d"], 1, 0));

    // The other way round: whoever is dialled no more is lost, and nothing listens any more.
    assert!(a.network.reconfigure(Instant::now(), next).unwrap().is_empty());
    let address = a.address();
    a.network.reconfigure(Instant::now(), dialling("a", &[], Some(&a_key))).unwrap();
    assert_eq!((a.network.addresses().count(), a.network.len()), (0, 0));
    until(&mut [&mut a, &mut b], |hosts| hosts[1].losses() == 1);
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn a_port_that_is_taken_is_said() {
    let taken = TcpListener::bind(here()).unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = BridgeConfig::none("a");
    config.listen.insert(address);
    let registry = Poll::new().unwrap().registry().try_clone().unwrap();
    let error = Network::start(registry, FIRST, config, Conduct::default(), Instant::now()).unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
}
