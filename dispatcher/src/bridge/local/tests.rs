//! Two such nodes on one bus, with a real dispatcher between them.

use std::path::Path;
use std::thread::JoinHandle;

use mio::{Events, Poll};
use nodeset_bus::inlet::InletFault;
use nodeset_bus::log::Reach;

use super::*;
use crate::{Config, Dispatcher, Ended, Shutdown};

const DEADLINE: Duration = Duration::from_secs(60);
const TOKENS: std::ops::Range<usize> = 5..10_000;

struct Bus {
    endpoint: Endpoint,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Ended>>,
}

impl Bus {
    fn start(directory: &Path) -> Bus {
        let endpoint = Endpoint::resolve("test", Some(&directory.join("d.sock"))).unwrap();
        let mut config = Config::at(endpoint.clone());
        config.limits.log_bytes = 1 << 24;
        let dispatcher = Dispatcher::bind(config).unwrap();
        let shutdown = Shutdown::new();
        let of_thread = shutdown.clone();
        let thread = Some(std::thread::spawn(move || dispatcher.run(of_thread).unwrap()));
        Bus { endpoint, shutdown, thread }
    }

    fn node(&self, name: &str) -> Node {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let local = LocalNode::connect(&self.endpoint, name, registry, TOKENS, Instant::now()).unwrap();
        let mut node = Node { poll, local, happened: VecDeque::new() };
        node.until("attached", |event| matches!(event, Event::Attached).then_some(()));
        node
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.shutdown.request();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(Ended::Stopped))), "{ended:?}");
    }
}

struct Node {
    poll: Poll,
    local: LocalNode,
    happened: VecDeque<Event>,
}

impl Node {
    fn turn(&mut self) {
        let mut events = Events::with_capacity(16);
        let more = self.local.turn().unwrap();
        self.local.flush().unwrap();
        let wait = if more { Duration::ZERO } else { Duration::from_millis(2) };
        self.poll.poll(&mut events, Some(wait)).unwrap();
        for event in &events {
            assert!(self.local.owns(event.token()));
            self.local.handle(event.token()).unwrap();
        }
        self.local.beat(Instant::now());
        self.happened.extend(std::iter::from_fn(|| self.local.poll_event()));
    }

    /// The first event that is wanted, here or still to come; those before it are dropped.
    fn until<T>(&mut self, what: &str, wanted: impl Fn(Event) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            while let Some(event) = self.happened.pop_front() {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
            assert!(began.elapsed() < DEADLINE, "never {what}");
            self.turn();
        }
    }

    fn publish(&mut self, topic: &Topic) -> (PublicationId, Box<Outlet>) {
        let shape = LogShape { block_len: 4096, blocks: 16 };
        let id = self.local.publish(topic, Schema::bytes(), shape, origin()).unwrap();
        let outlet = self.until("published", |event| match event {
            Event::Publishing { publication, outlet, .. } if publication == id => Some(outlet),
            Event::NotPublishing { text, .. } => panic!("{text}"),
            _ => None,
        });
        (id, outlet)
    }
}

fn origin() -> Origin {
    let (host, node) = ("far".to_owned(), "camera".to_owned());
    Origin { host, base_name: node.clone(), node, publication: PublicationId(1), epoch: 1 }
}

fn put(outlet: &mut Outlet, bytes: &[u8]) {
    let mut frame = outlet.try_open(bytes.len(), Reach::Limit).unwrap();
    frame.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    frame.commit(bytes.len());
}

#[test]
fn one_publication_of_a_topic_is_read_to_its_end_and_no_other() {
    let place = tempfile::tempdir().unwrap();
    let bus = Bus::start(place.path());
    let (mut a, mut b) = (bus.node("a"), bus.node("b"));
    let topic = Topic::new("some/topic").unwrap();
    let (_other, mut other) = a.publish(&topic);
    let (publication, mut outlet) = a.publish(&topic);
    let subscription = b.local.read(&topic, (publication, 1), true, 0).unwrap();
    let mut inlet = None;
    let began = Instant::now();
    while inlet.is_none() {
        assert!(began.elapsed() < DEADLINE, "never linked");
        a.turn();
        b.turn();
        for event in std::mem::take(&mut b.happened) {
            match event {
                Event::Reading { subscription: it, inlet: link, .. } if it == subscription => inlet = Some(link),
                Event::NotReading { text, .. } => panic!("{text}"),
                _ => {}
            }
        }
    }
    let mut inlet = inlet.unwrap();
    put(&mut other, b"not wanted");
    put(&mut outlet, b"wanted");
    outlet.skip(2, Reach::Limit).unwrap();
    outlet.lose(3);
    put(&mut outlet, b"after a gap");
    assert_eq!(inlet.poll().unwrap().unwrap().sequence, 0);
    assert_eq!(inlet.payload(), b"wanted");
    let frame = inlet.poll().unwrap().unwrap();
    assert_eq!((frame.sequence, frame.missed_before, inlet.payload()), (6, 3, &b"after a gap"[..]));
    assert_eq!(inlet.poll(), Ok(None));

    // A sleeper is woken.
    assert!(b.local.wish([inlet.wish()]).is_none_or(|at_most| at_most == LOOK_AGAIN));
    assert!(!inlet.is_ready());
    b.happened.clear();
    put(&mut outlet, b"wake up");
    b.until("rung", |event| matches!(event, Event::Rung).then_some(()));
    b.local.awake();
    inlet.poll().unwrap().unwrap();

    outlet.finish();
    a.local.withdraw(publication);
    a.turn();
    assert!(!b.until("ended", |event| if let Event::Ended { died, .. } = event { Some(died) } else { None }));
    assert_eq!(inlet.poll().unwrap_err(), InletFault::Ended { missed: 0 });
    drop(inlet);
    b.local.leave(subscription);
    b.turn();
    b.turn();
    assert!(b.local.reading.is_empty());
}

#[test]
fn what_has_ended_is_not_read() {
    let place = tempfile::tempdir().unwrap();
    let bus = Bus::start(place.path());
    let mut b = bus.node("b");
    let topic = Topic::new("topic").unwrap();
    let subscription = b.local.read(&topic, (PublicationId(7), 1), true, 0).unwrap();
    let not = b.until("an answer", |event| match event {
        Event::NotReading { subscription, .. } => Some(subscription),
        _ => None,
    });
    assert_eq!(not, subscription);
}
