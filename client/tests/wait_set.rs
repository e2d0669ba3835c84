//! Wait sets: many topics, timers and descriptors on one thread.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nodeset::wait_set::{Key, Ready};
use nodeset::{Descriptor, Publisher, Subscriber, Timer, WaitSet};
use rustix::thread::gettid;
use support::{DEADLINE, Place};

/// What is ready within the deadline.
fn wait(set: &mut WaitSet) -> Ready {
    let ready = set.wait_timeout(DEADLINE).unwrap();
    assert!(!ready.is_empty(), "nothing was ready within {DEADLINE:?}");
    ready
}

/// Topics and their answers: whoever waits must hear of each message by itself, since nothing else is on its way.
struct Echo {
    topics: Vec<(Publisher<u64>, Subscriber<u64>)>,
}

impl Echo {
    fn round(&mut self, round: u64) {
        for (at, (publisher, answers)) in self.topics.iter_mut().enumerate() {
            publisher.publish(&round).unwrap();
            if (round as usize + at) % 3 == 0 {
                assert_eq!(*answers.receive_timeout(DEADLINE).unwrap().expect("an answer"), round);
            }
        }
        for (at, (_, answers)) in self.topics.iter_mut().enumerate() {
            if (round as usize + at) % 3 != 0 {
                assert_eq!(*answers.receive_timeout(DEADLINE).unwrap().expect("an answer"), round);
            }
        }
    }
}

#[test]
fn one_thread_hears_of_each_message_of_several_nodes() {
    hear_of_each_message(None);
}

#[test]
fn it_also_does_beside_a_fast_timer() {
    hear_of_each_message(Some(Duration::from_micros(700)));
}

fn hear_of_each_message(tick: Option<Duration>) {
    let place = Place::new();
    let (one, nodes) = (place.node("one"), [place.node("left"), place.node("right")]);
    const TOPICS: usize = 6;
    const ROUNDS: u64 = 300;
    let mut set = WaitSet::new().unwrap();
    let (mut keys, mut echo, mut threads) = (Vec::new(), Echo { topics: Vec::new() }, Vec::new());
    for at in 0..TOPICS {
        let other = &nodes[at % 2];
        let publisher = one.publisher(format!("topic/{at}")).create().unwrap();
        let mut subscriber = other.subscriber::<u64>(format!("topic/{at}")).reliable().create().unwrap();
        let mut answer: Publisher<u64> = other.publisher(format!("answer/{at}")).create().unwrap();
        echo.topics.push((publisher, one.subscriber(format!("answer/{at}")).reliable().create().unwrap()));
        if at < 4 {
            keys.push((set.attach(subscriber).unwrap(), answer));
        } else {
            // Threads of the same nodes take what rings from the kernel.
            threads.push(std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    let number = subscriber.receive_timeout(DEADLINE).unwrap().expect("a message").to_native();
                    answer.publish(&number).unwrap();
                }
            }));
        }
    }
    let ticks = tick.map(|tick| set.attach(Timer::every(tick)).unwrap());
    let waiting = std::thread::spawn(move || {
        let mut left = ROUNDS as usize * keys.len();
        while left > 0 {
            let ready = wait(&mut set);
            assert!(ticks.is_some_and(|ticks| ready.has(ticks)) || keys.iter().any(|(key, _)| ready.has(*key)));
            for (key, answer) in keys.iter_mut().filter(|(key, _)| ready.has(*key)) {
                while let Some(number) = set[*key].try_receive().unwrap() {
                    answer.publish(&number.to_native()).unwrap();
                    left -= 1;
                }
            }
        }
        (set, keys)
    });
    (0..ROUNDS).for_each(|round| echo.round(round));
    drop(waiting.join().unwrap());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_set_that_waits_sleeps_and_hears_of_publishers_to_come() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut set = WaitSet::new().unwrap();
    let key = set.attach(other.subscriber::<u64>("later").reliable().create().unwrap()).unwrap();
    let (sender, thread_id) = channel();
    let waiting = std::thread::spawn(move || {
        sender.send(gettid()).unwrap();
        for round in 0..3 {
            // It may hear of a link before it hears of a message.
            while set[key].try_receive().unwrap().map(|number| assert_eq!(*number, round)).is_none() {
                assert!(wait(&mut set).has(key));
            }
        }
    });
    let status = format!("/proc/self/task/{}/status", thread_id.recv().unwrap().as_raw_nonzero());
    for round in 0..3 {
        let until = Instant::now() + DEADLINE;
        while !std::fs::read_to_string(&status).unwrap().contains("State:\tS") {
            assert!(Instant::now() < until, "it never sleeps");
            std::thread::yield_now();
        }
        one.publisher::<u64>("later").create().unwrap().publish(&round).unwrap();
    }
    waiting.join().unwrap();
}

#[test]
fn timers_are_over_once_or_again_and_again() {
    let mut set = WaitSet::new().unwrap();
    let started = Instant::now();
    let late = set.attach(Timer::after(Duration::from_millis(20))).unwrap();
    let soon = set.attach(Timer::at(started + Duration::from_millis(5))).unwrap();
    let never = set.attach(Timer::after(Duration::MAX)).unwrap();
    let often = set.attach(Timer::every(Duration::from_millis(2))).unwrap();
    let mut order = Vec::new();
    let mut ticks = 0;
    while order.len() < 2 {
        let ready = wait(&mut set);
        assert!(!ready.has(never));
        ticks += u32::from(ready.has(often));
        order.extend([soon, late].into_iter().filter(|timer| ready.has(*timer)));
    }
    assert_eq!(order, [soon, late]);
    assert!(started.elapsed() >= Duration::from_millis(20) && ticks > 0);
    assert_eq!(set[soon].due(), None);
    set.detach(often).unwrap();
    // A deadline is kept, and nothing else is over.
    let deadline = Instant::now() + Duration::from_millis(5);
    assert!(set.wait_until(deadline).unwrap().is_empty());
    assert!(Instant::now() >= deadline);
    // Set again.
    set[soon] = Timer::after(Duration::ZERO);
    assert_eq!(wait(&mut set).into_iter().collect::<Vec<_>>(), [soon.id()]);
    set[late] = Timer::every(Duration::ZERO);
    (0..3).for_each(|_| assert!(wait(&mut set).has(late)));
}

#[test]
fn descriptors_are_ready_for_as_long_as_they_are() {
    let mut set = WaitSet::new().unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let reads = set.attach(Descriptor::readable(there.try_clone().unwrap())).unwrap();
    assert!(set.wait_timeout(Duration::ZERO).unwrap().is_empty());
    here.write_all(b"two").unwrap();
    for _ in 0..2 {
        assert!(wait(&mut set).has(reads));
    }
    let mut text = [0; 3];
    set[reads].read_exact(&mut text).unwrap();
    assert!(set.wait_timeout(Duration::ZERO).unwrap().is_empty());
    let writes = set.attach(Descriptor::writable(there)).unwrap();
    let ready = wait(&mut set);
    assert!(ready.has(writes) && !ready.has(reads));
    set.detach(writes).unwrap();
    // The other end hangs up.
    drop(here);
    assert!(wait(&mut set).has(reads));
    let stream = set.detach(reads).unwrap().into_inner();
    assert!(set.wait_timeout(Duration::ZERO).unwrap().is_empty());
    // A file on disk cannot be waited for; what failed to be attached leaves no trace.
    let file = File::open("/proc/self/exe").unwrap();
    let error = set.attach(Descriptor::readable(file)).unwrap_err().to_string();
    assert!(error.contains("files on disk"), "{error}");
    let again = set.attach(Descriptor::readable(stream)).unwrap();
    assert!(wait(&mut set).has(again));
}

#[test]
fn a_subscriber_that_always_has_something_hides_nothing() {
    let place = Place::new();
    let node = place.node("node");
    let mut publisher = node.publisher::<u64>("topic").create().unwrap();
    let mut set = WaitSet::new().unwrap();
    let topic = set.attach(node.subscriber::<u64>("topic").reliable().create().unwrap()).unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let stream = set.attach(Descriptor::readable(there)).unwrap();
    let timer = set.attach(Timer::after(Duration::ZERO)).unwrap();
    publisher.publish(&1).unwrap();
    here.write_all(b"x").unwrap();
    let handle = set.wake_handle();
    handle.wake();
    let ready = wait(&mut set);
    assert!(ready.has(topic) && ready.has(stream) && ready.has(timer));
    assert_eq!(ready.len(), 3);
    // What was not received is ready again.
    let ready = wait(&mut set);
    assert!(ready.has(topic) && ready.has(stream) && !ready.has(timer));
    assert_eq!(*set[topic].try_receive().unwrap().unwrap(), 1);
    assert!(!wait(&mut set).has(topic));
}

#[test]
fn a_handle_ends_a_wait_from_anywhere() {
    let place = Place::new();
    let node = place.node("node");
    let mut set = WaitSet::new().unwrap();
    set.attach(node.subscriber::<u64>("topic").create().unwrap()).unwrap();
    let handle = set.wake_handle();
    // Before it waits, and while it does.
    handle.wake();
    assert!(set.wait_timeout(DEADLINE).unwrap().is_empty());
    for _ in 0..100 {
        let handle = handle.clone();
        let started = Instant::now();
        let other = std::thread::spawn(move || handle.wake());
        assert!(set.wait_timeout(DEADLINE).unwrap().is_empty());
        assert!(started.elapsed() < DEADLINE, "it was not woken");
        other.join().unwrap();
    }
}

#[test]
fn keys_lead_to_their_member_only() {
    let (mut set, mut other) = (WaitSet::new().unwrap(), WaitSet::new().unwrap());
    let first = set.attach(Timer::after(DEADLINE)).unwrap();
    let foreign: Key<Timer> = other.attach(Timer::after(DEADLINE)).unwrap();
    assert!(set.get(foreign).is_none() && set.detach(foreign).is_none());
    let timer = set.detach(first).unwrap();
    assert!(set.get(first).is_none() && set.get_mut(first).is_none() && set.detach(first).is_none());
    // Another one in the same place.
    let second = set.attach(timer).unwrap();
    assert!(set.get(first).is_none());
    assert_eq!(set[second], timer);
    assert_ne!(first, second);
}

#[test]
#[should_panic(expected = "was not detached")]
fn an_index_that_leads_nowhere_panics() {
    let mut set = WaitSet::new().unwrap();
    let key = set.attach(Timer::after(DEADLINE)).unwrap();
    set.detach(key).unwrap();
    let _ = set[key];
}

#[test]
fn a_subscriber_that_was_detached_goes_on_elsewhere() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut publisher = one.publisher::<u64>("topic").create().unwrap();
    let mut set = WaitSet::new().unwrap();
    let mut subscriber = other.subscriber::<u64>("topic").reliable().create().unwrap();
    for round in 0..50 {
        let key = set.attach(subscriber).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| publisher.publish(&round).unwrap());
            while set[key].try_receive().unwrap().map(|number| assert_eq!(*number, round)).is_none() {
                wait(&mut set);
            }
        });
        subscriber = set.detach(key).unwrap();
        publisher.publish(&round).unwrap();
        assert_eq!(*subscriber.receive_timeout(DEADLINE).unwrap().expect("a message"), round);
    }
}
