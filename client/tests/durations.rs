//! No duration is too long: what lies beyond the clock is never, and nothing panics for it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::thread;
use std::time::Duration;

use nodeset::{AppOptions, OnFull, PublishError, Timer, WaitSet, WaitStrategy};
use support::{DEADLINE, Place};

const FOR_EVER: Duration = Duration::MAX;

#[test]
fn builders_take_any() {
    let place = Place::new();
    let builder = place.builder("node").connect_timeout(FOR_EVER).standby(FOR_EVER).reconnect_at_most(FOR_EVER);
    let node = builder.connect().unwrap();
    let publisher = node.publisher::<str>("topic").link_timeout(FOR_EVER).deadline(FOR_EVER).give_back_after(FOR_EVER);
    let mut publisher = publisher.create().unwrap();
    let mut subscriber = node.subscriber::<str>("topic").link_timeout(FOR_EVER).create().unwrap();
    assert_eq!(publisher.wait_for_subscribers(1, FOR_EVER).unwrap(), 1);
    publisher.publish("text").unwrap();
    assert_eq!(&*subscriber.receive_timeout(FOR_EVER).unwrap().unwrap(), "text");

    let direct = node.publisher::<str>("topic").direct().link_timeout(FOR_EVER).deadline(FOR_EVER);
    let mut direct = direct.create().unwrap();
    assert_eq!(direct.wait_for_subscribers(1, FOR_EVER).unwrap(), 1);
    direct.publish("text").unwrap();
    assert_eq!(&*subscriber.receive_timeout(FOR_EVER).unwrap().unwrap(), "text");

    let mut receiver = node.stream_receiver("stream").link_timeout(FOR_EVER).create().unwrap();
    let sender = node.stream("stream").link_timeout(FOR_EVER).on_full(OnFull::Wait(FOR_EVER));
    let mut sender = sender.create().unwrap();
    assert_eq!(sender.wait_for_receivers(1, FOR_EVER).unwrap(), 1);
    sender.push(b"item").unwrap();
    assert_eq!(*receiver.receive_timeout(FOR_EVER).unwrap().unwrap(), b"item");

    let options = AppOptions { dispatcher: Some(place.socket()), ..AppOptions::default() };
    assert!(!nodeset::list(&options.endpoint().unwrap(), FOR_EVER).unwrap().is_empty());
    assert!(!node.list(FOR_EVER).unwrap().is_empty());
}

#[test]
fn whoever_waits_for_room_may_wait_for_ever() {
    let place = Place::new();
    let node = place.node("node");
    for wait in [WaitStrategy::Block, WaitStrategy::Yield] {
        let publisher = node.publisher::<[u8]>("bytes").block_len(4096).blocks(4).wait(wait);
        let mut publisher = publisher.deadline(FOR_EVER).create().unwrap();
        let mut reader = node.subscriber::<[u8]>("bytes").reliable().create().unwrap();
        while publisher.try_publish(&[1; 1000]).is_ok() {}
        let full = publisher.try_publish(&[1; 1000]).unwrap_err();
        assert!(matches!(full, PublishError::Full { .. }), "{full}");
        let publishing = thread::spawn(move || publisher.publish(&[2; 1000]).map(|_| publisher));
        while reader.receive_timeout(DEADLINE).unwrap().unwrap()[0] == 1 {}
        drop(publishing.join().unwrap().unwrap());
    }
}

#[test]
fn requests_may_take_for_ever() {
    let place = Place::new();
    let node = place.node("node");
    let mut server = node.server::<str, str>("echo").deadline(FOR_EVER).create().unwrap();
    let answering = thread::spawn(move || {
        let request = server.receive_timeout(FOR_EVER).unwrap().unwrap();
        let text = request.message();
        request.reply(text)
    });
    let mut client = node.client::<str, str>("echo").create().unwrap();
    assert_eq!(client.wait_for_servers(1, FOR_EVER).unwrap(), 1);
    assert_eq!(&*client.request("hello", FOR_EVER).unwrap(), "hello");
    answering.join().unwrap().unwrap();
}

#[test]
fn a_timer_may_never_be_over() {
    let mut set = WaitSet::new().unwrap();
    let never = set.attach(Timer::every(FOR_EVER)).unwrap();
    assert_eq!(set[never].due(), None);
    set.wake_handle().wake();
    assert!(set.wait_timeout(FOR_EVER).unwrap().is_empty());
}

#[test]
fn a_state_may_be_waited_for_for_ever() {
    let place = Place::new();
    let node = place.node("node");
    let mut writer = node.state::<u32>("number").writer().unwrap();
    let mut reader = node.state::<u32>("number").reader().unwrap();
    writer.set(&7).unwrap();
    assert_eq!(**reader.changed_timeout(FOR_EVER).unwrap().unwrap(), 7);
}
