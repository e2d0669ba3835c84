//! The bridge without descriptors: connections are turned away, and taken again as soon as there are some. In a program of
//! its own, since the limit is its whole process'.

#![cfg(feature = "bridge")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nodeset_dispatcher::bridge::config::BridgeConfig;
use nodeset_dispatcher::bridge::transport::network::{Conduct, Network};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const DEADLINE: Duration = Duration::from_secs(60);

fn until(poll: &mut Poll, network: &mut Network, mut done: impl FnMut(&mut Network) -> bool) {
    let began = Instant::now();
    while !done(network) {
        assert!(began.elapsed() < DEADLINE, "{network:?}");
        let mut events = Events::with_capacity(16);
        poll.poll(&mut events, Some(Duration::from_millis(2))).unwrap();
        let now = Instant::now();
        events.iter().for_each(|event| network.handle(now, event.token()));
        network.handle_timeout(now);
    }
}

#[test]
fn without_descriptors_hosts_are_turned_away_and_taken_again_later() {
    let mut poll = Poll::new().unwrap();
    let mut config = BridgeConfig::none("a");
    config.listen.insert(SocketAddr::from(([127, 0, 0, 1], 0)));
    let registry = poll.registry().try_clone().unwrap();
    let mut network = Network::start(registry, Token(1), config, Conduct::default(), Instant::now()).unwrap();
    let to = network.addresses().next().unwrap();

    // Those that connect, made while there are descriptors; then no more can be made.
    let _early = TcpStream::connect(to).unwrap();
    until(&mut poll, &mut network, |network| network.accepted() == 1);
    let mut late = TcpStream::connect(to).unwrap();
    late.set_nonblocking(true).unwrap();
    let before = getrlimit(Resource::Nofile);
    let next = File::open("/dev/null").unwrap().as_raw_fd() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(next), ..before }).unwrap();
    File::open("/dev/null").unwrap_err();

    until(&mut poll, &mut network, |_| match late.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    });
    assert_eq!((network.accepted(), network.len()), (1, 1), "the one from before stays");

    setrlimit(Resource::Nofile, before).unwrap();
    let _again = TcpStream::connect(to).unwrap();
    until(&mut poll, &mut network, |network| network.accepted() == 2);
}
