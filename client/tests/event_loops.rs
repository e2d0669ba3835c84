//! Event loops of one's own, beside other ways to wait in the same node.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::os::fd::AsFd;
use std::time::Instant;

use nodeset::{Node, Publisher, Readiness, Subscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{DEADLINE, Place};

const ROUNDS: u64 = 2000;

/// The next message, by an event loop that waits for nothing else.
fn poll_for(subscriber: &mut Subscriber<u64>) -> u64 {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(number) = subscriber.try_receive().unwrap() {
            return number.to_native();
        }
        if let Readiness::Armed(armed) = subscriber.arm().unwrap() {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(armed.at_most().unwrap_or(left).min(left)).unwrap();
            poll(&mut [PollFd::from_borrowed_fd(subscriber.as_fd(), PollFlags::IN)], Some(&left)).unwrap();
            assert!(Instant::now() < deadline, "it was not woken");
        }
    }
}

/// Answers on topic `back/AT` what comes on `there/AT`, in its own way to wait.
fn echo(
    node: &Node,
    at: usize,
    mut receive: impl FnMut(&mut Subscriber<u64>) -> u64 + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let mut subscriber = node.subscriber::<u64>(format!("there/{at}")).reliable().create().unwrap();
    let mut publisher: Publisher<u64> = node.publisher(format!("back/{at}")).create().unwrap();
    std::thread::spawn(move || {
        for round in 0..ROUNDS {
            assert_eq!(receive(&mut subscriber), round);
            publisher.publish(&round).unwrap();
        }
    })
}

fn block_for(subscriber: &mut Subscriber<u64>) -> u64 {
    subscriber.receive_timeout(DEADLINE).unwrap().expect("a message").to_native()
}

/// Sends each of them numbers, all at once or one after the other, and waits for the answers.
fn talk(node: &Node, threads: Vec<std::thread::JoinHandle<()>>) {
    let mut ends: Vec<_> = (0..threads.len())
        .map(|at| {
            let publisher: Publisher<u64> = node.publisher(format!("there/{at}")).create().unwrap();
            (publisher, node.subscriber::<u64>(format!("back/{at}")).reliable().create().unwrap())
        })
        .collect();
    for round in 0..ROUNDS {
        for (publisher, answers) in &mut ends {
            publisher.publish(&round).unwrap();
            if round % 2 == 0 {
                assert_eq!(block_for(answers), round);
            }
        }
        if round % 2 == 1 {
            ends.iter_mut().for_each(|(_, answers)| assert_eq!(block_for(answers), round));
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn an_event_loop_and_threads_of_one_node_do_not_take_each_others_wake() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let threads = vec![echo(&other, 0, poll_for), echo(&other, 1, block_for), echo(&other, 2, block_for)];
    talk(&one, threads);
}

#[test]
fn event_loops_of_one_node_do_not_take_each_others_wake() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    talk(&one, vec![echo(&other, 0, poll_for), echo(&other, 1, poll_for)]);
}
