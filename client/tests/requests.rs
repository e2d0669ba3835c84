//! Requests and their replies: one or many, in turn, of servers that go, die, or come later.
//!
//! The other processes are this test's own program, started again for one of the [`roles`].

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nodeset::{
    AdvertiseError, Node, NodeEvent, PublishError, Request, RequestError, Sample, ServeError, StopHandle,
    SubscribeError,
};
use rustix::process::Signal;
use support::{DEADLINE, Other, Place, events, wait_for};

/// What the other processes do; as a test of its own it does nothing.
#[test]
fn roles() {
    let Some((role, socket)) = support::role() else { return };
    let node = Node::builder(role.clone()).socket(socket).embedded().standby(Duration::ZERO).connect().unwrap();
    match role.as_str() {
        "doubler" => {
            node.serve("double", |number: Sample<'_, u64>| number.to_native() * 2).unwrap();
            println!("ready");
            node.run().unwrap();
        }
        // Answers with five replies, and never comes to an end.
        "unfinished" => {
            let mut server = node.server::<u64, u64>("double").create().unwrap();
            println!("ready");
            let mut request = server.receive().unwrap();
            for number in 0..5 {
                request.send(&number).unwrap();
            }
            println!("at work");
            std::thread::park();
        }
        // Asks once, and never takes the answer.
        "asker" => {
            let mut client = node.client::<u64, u64>("double").create().unwrap();
            let _answer = client.ask(&1, DEADLINE).unwrap();
            println!("asked");
            std::thread::park();
        }
        "dispatcher" => {
            println!("ready");
            std::thread::park();
        }
        other => panic!("no such role: {other}"),
    }
}

/// Runs the handlers of a node on a thread of its own.
struct Running(StopHandle, Option<std::thread::JoinHandle<()>>);

impl Running {
    fn start(node: &Node) -> Running {
        let (stop, node) = (node.stop_handle(), node.clone());
        Running(stop, Some(std::thread::spawn(move || node.run().unwrap())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
        self.1.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_request_is_answered() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    one.serve("length", |text: Sample<'_, str>| text.len() as u64).unwrap();
    let running = Running::start(&one);
    for text in ["", "a", "many"] {
        assert_eq!(*other.request::<str, u64>("length", text, DEADLINE).unwrap(), text.len() as u64);
    }
    // Of the same node, too; and what was kept outlives all that follows.
    let kept = one.request::<str, u64>("length", "kept", DEADLINE).unwrap();
    assert_eq!(*one.request::<str, u64>("length", "again", DEADLINE).unwrap(), 5);
    drop((running, one, other));
    assert_eq!(*kept, 4);
}

#[test]
fn requests_of_many_threads_get_their_own_replies() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    one.serve("double", |number: Sample<'_, u64>| number.to_native() * 2).unwrap();
    let _running = Running::start(&one);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let node = &other;
            scope.spawn(move || {
                for number in 0..500 {
                    let number = thread << 32 | number;
                    assert_eq!(*node.request::<u64, u64>("double", &number, DEADLINE).unwrap(), number * 2);
                }
            });
        }
    });
}

#[test]
fn long_requests_and_replies_take_several_blocks() {
    let place = Place::new();
    let node = place.node("node");
    node.serve("reverse", |bytes: Sample<'_, [u8]>| bytes.iter().rev().copied().collect::<Vec<u8>>()).unwrap();
    let _running = Running::start(&node);
    let mut client = node.client::<[u8], Vec<u8>>("reverse").create().unwrap();
    for len in [0, 1, 10_000, 100_000, 3_000_000] {
        let bytes: Vec<u8> = (0..len).map(|at: u32| at as u8).collect();
        let reply = client.request(&bytes, DEADLINE).unwrap();
        assert!(reply.iter().rev().eq(bytes.iter()), "{len} bytes");
    }
}

#[test]
fn an_answer_has_as_many_replies_as_the_server_gives() {
    let place = Place::new();
    let node = place.node("node");
    let mut server = node.server::<u32, u32>("count").create().unwrap();
    let mut client = node.client::<u32, u32>("count").create().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The last one by `reply`, or none at all.
            for by_reply in [true, false].into_iter().cycle().take(20) {
                let mut request = server.receive().unwrap();
                let wanted = request.to_native();
                for number in 1..wanted {
                    request.send(&number).unwrap();
                }
                if by_reply && wanted > 0 {
                    request.reply(&wanted).unwrap();
                } else {
                    if wanted > 0 {
                        request.send(&wanted).unwrap();
                    }
                    request.end().unwrap();
                }
            }
        });
        for wanted in (0..10).flat_map(|wanted| [wanted, wanted]) {
            let mut answer = client.ask(&wanted, DEADLINE).unwrap();
            assert_eq!(answer.server(), "node");
            for number in 1..=wanted {
                assert_eq!(answer.receive().unwrap().unwrap().to_native(), number);
            }
            assert!(answer.receive().unwrap().is_none());
            assert!(answer.receive().unwrap().is_none(), "the end stays the end");
        }
    });
}

#[test]
fn what_is_left_of_an_answer_is_not_taken_for_the_next_one() {
    let place = Place::new();
    let node = place.node("node");
    let server = node.server::<u32, u32>("count").create().unwrap();
    node.handle_requests(server, |mut request: Request<'_, u32, u32>| {
        let number = request.to_native();
        for step in 0..3 {
            request.send(&(number * 10 + step))?;
        }
        request.end()
    });
    let _running = Running::start(&node);
    let mut client = node.client::<u32, u32>("count").create().unwrap();
    for number in 0..200 {
        // One of three is read, or two, or none.
        match number % 3 {
            0 => assert_eq!(client.request(&number, DEADLINE).unwrap().to_native(), number * 10),
            1 => {
                let mut answer = client.ask(&number, DEADLINE).unwrap();
                assert_eq!(answer.receive().unwrap().unwrap().to_native(), number * 10);
                assert_eq!(answer.receive().unwrap().unwrap().to_native(), number * 10 + 1);
            }
            _ => drop(client.ask(&number, DEADLINE).unwrap()),
        }
    }
}

#[test]
fn who_is_not_answered_is_told_at_once() {
    let place = Place::new();
    let node = place.node("node");
    let told = events(&node);
    node.serve("fragile", |number: Sample<'_, u32>| {
        assert_ne!(*number, 13, "of all numbers");
        number.to_native()
    })
    .unwrap();
    let refusing = node.server::<u32, u32>("refusing").create().unwrap();
    node.handle_requests(refusing, |request: Request<'_, u32, u32>| {
        if request.to_native() % 2 == 0 {
            request.reply(&0).map_err(|error| error.to_string())
        } else {
            Err("odd".into())
        }
    });
    let _running = Running::start(&node);
    let mut fragile = node.client::<u32, u32>("fragile").create().unwrap();
    let mut refused = node.client::<u32, u32>("refusing").create().unwrap();
    for _ in 0..3 {
        // No deadline: they would wait for ever.
        let error = fragile.request(&13, Duration::MAX).unwrap_err();
        assert!(matches!(error, RequestError::Unanswered { .. }), "{error}");
        assert_eq!(*fragile.request(&14, DEADLINE).unwrap(), 14);
        let error = refused.request(&1, Duration::MAX).unwrap_err();
        assert!(matches!(error, RequestError::Unanswered { .. }), "{error}");
        assert_eq!(*refused.request(&2, DEADLINE).unwrap(), 0);
    }
    // As every handler's, its panic is told.
    wait_for(
        &told,
        |event| matches!(event, NodeEvent::HandlerFailed { topic: Some(topic), .. } if **topic == *"fragile"),
    );
}

#[test]
fn a_server_that_dies_is_an_error_at_once_after_all_that_it_said() {
    let place = Place::new();
    let node = place.node("test");
    let mut victim = Other::start("unfinished", &place.socket());
    victim.wait_for("ready");
    let mut client = node.client::<u64, u64>("double").create().unwrap();
    let mut answer = client.ask(&1, Duration::MAX).unwrap();
    victim.wait_for("at work");
    victim.kill_unreaped();
    for number in 0..5 {
        assert_eq!(answer.receive().unwrap().unwrap().to_native(), number);
    }
    let error = answer.receive().unwrap_err();
    assert!(matches!(&error, RequestError::ServerGone { server, .. } if &**server == "unfinished"), "{error}");
    assert!(answer.receive().unwrap().is_none());
    drop(answer);
    // The next one takes its place.
    let mut next = Other::start("doubler", &place.socket());
    next.wait_for("ready");
    assert_eq!(*client.request(&4, DEADLINE).unwrap(), 8);
}

#[test]
fn a_server_that_is_dropped_is_gone_as_well() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    let mut server = one.server::<u32, u32>("topic").create().unwrap();
    let mut client = other.client::<u32, u32>("topic").create().unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| client.request(&1, Duration::MAX).map(drop));
        drop(server.receive().map(std::mem::forget));
        drop(server);
        let error = asking.join().unwrap().unwrap_err();
        assert!(matches!(error, RequestError::ServerGone { .. }), "{error}");
    });
}

#[test]
fn a_client_that_dies_harms_no_server() {
    let place = Place::new();
    let node = place.node("test");
    let mut server = node.server::<u64, u64>("double").deadline(DEADLINE).create().unwrap();
    for _ in 0..2 {
        let mut victim = Other::start("asker", &place.socket());
        let mut request = server.receive_timeout(DEADLINE).unwrap().unwrap();
        assert_eq!(request.client(), "asker");
        victim.wait_for("asked");
        request.send(&1).unwrap();
        victim.kill();
        // To nobody.
        for number in 0..10_000 {
            request.send(&number).unwrap();
        }
        request.end().unwrap();
    }
    // They are forgotten once their ends were heard of, which is no request.
    while server.clients() > 0 {
        assert!(server.receive_timeout(Duration::from_millis(1)).unwrap().is_none());
    }
}

#[test]
fn a_client_that_does_not_read_holds_nobody_else_up() {
    let place = Place::new();
    let node = place.node("test");
    let mut server = node.server::<u64, u64>("double").deadline(Duration::from_millis(1)).create().unwrap();
    let mut victim = Other::start("asker", &place.socket());
    let mut request = server.receive_timeout(DEADLINE).unwrap().unwrap();
    victim.wait_for("asked");
    victim.signal(Signal::STOP);
    victim.await_stopped();
    // Its log grows for it, however much that is; the reply to another one is not held up.
    for number in 0..50_000 {
        match request.send(&number) {
            Ok(()) => {}
            Err(PublishError::Full { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    drop(request);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let request = server.receive_timeout(DEADLINE).unwrap().unwrap();
            let doubled = request.to_native() * 2;
            request.reply(&doubled).unwrap();
        });
        assert_eq!(*node.request::<u64, u64>("double", &21, DEADLINE).unwrap(), 42);
    });
    victim.kill();
}

#[test]
fn servers_are_asked_in_turn() {
    let place = Place::new();
    let nodes: Vec<_> = (0..3).map(|number| place.node(&format!("server-{number}"))).collect();
    let mut running = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        node.serve("who", move |_: Sample<'_, u32>| number as u32).unwrap();
        running.push(Running::start(node));
    }
    let node = place.node("asker");
    let mut client = node.client::<u32, u32>("who").create().unwrap();
    assert_eq!(client.wait_for_servers(3, DEADLINE).unwrap(), 3);
    let mut answers = BTreeMap::<u32, u32>::new();
    for _ in 0..30 {
        *answers.entry(client.request(&0, DEADLINE).unwrap().to_native()).or_default() += 1;
    }
    assert_eq!(answers.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // Without one of them, too. It may be asked until its end is heard of.
    drop((running.remove(0), nodes));
    let mut answers = 0;
    while answers < 10 {
        match client.request(&0, DEADLINE) {
            Ok(number) => {
                assert_ne!(number.to_native(), 0);
                answers += 1;
            }
            Err(RequestError::ServerGone { server, .. }) => assert_eq!(&*server, "server-0"),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(client.servers(), 2);
}

#[test]
fn requests_go_on_while_dispatchers_die() {
    let place = Place::new();
    let mut dispatcher = Other::start("dispatcher", &place.socket());
    dispatcher.wait_for("ready");
    let (one, other) = (place.node("one"), place.node("other"));
    let attached = [events(&one), events(&other)];
    one.serve("double", |number: Sample<'_, u64>| number.to_native() * 2).unwrap();
    let _running = Running::start(&one);
    let mut client = other.client::<u64, u64>("double").create().unwrap();
    let mut ask = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            assert_eq!(*client.request(&number, DEADLINE).unwrap(), number * 2);
        }
    };
    ask(0..1000);
    dispatcher.kill();
    ask(1000..2000);
    for events in &attached {
        wait_for(events, |event| matches!(event, NodeEvent::Attached { .. }));
    }
    ask(2000..3000);
    assert_eq!(client.servers(), 1);
    // And new ones meet.
    assert_eq!(*place.node("third").request::<u64, u64>("double", &5, DEADLINE).unwrap(), 10);
}

#[test]
fn a_request_without_a_server_waits_for_one() {
    let place = Place::new();
    let node = place.node("node");
    let error = node.request::<u32, u32>("later", &1, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, RequestError::NoServer { unlinked: 0, .. }), "{error}");
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| node.request::<u32, u32>("later", &1, DEADLINE).map(|reply| reply.to_native()));
        let other = place.node("other");
        let mut server = other.server::<u32, u32>("later").create().unwrap();
        server.receive_timeout(DEADLINE).unwrap().unwrap().reply(&7).unwrap();
        assert_eq!(asking.join().unwrap().unwrap(), 7);
    });
}

#[test]
fn a_server_that_takes_too_long_is_named() {
    let place = Place::new();
    let (one, other) = (place.node("slow"), place.node("other"));
    let mut server = one.server::<u32, u32>("topic").create().unwrap();
    let mut client = other.client::<u32, u32>("topic").create().unwrap();
    std::thread::scope(|scope| {
        let (done, over) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let late = server.receive().unwrap();
            over.recv().unwrap();
            late.reply(&1).unwrap();
            server.receive().unwrap().reply(&2).unwrap();
        });
        let since = Instant::now();
        let error = client.request(&1, Duration::from_millis(50)).unwrap_err();
        assert!(since.elapsed() >= Duration::from_millis(50));
        assert!(matches!(&error, RequestError::TimedOut { server, .. } if &**server == "slow"), "{error}");
        done.send(()).unwrap();
        // The late reply is not taken for this one's.
        assert_eq!(client.request(&2, DEADLINE).unwrap().to_native(), 2);
    });
}

#[test]
fn types_that_differ_are_said() {
    let place = Place::new();
    let (one, other) = (place.node("one"), place.node("other"));
    one.serve("double", |number: Sample<'_, u64>| number.to_native() * 2).unwrap();
    let _running = Running::start(&one);
    let error = other.request::<u64, u32>("double", &1, DEADLINE).unwrap_err();
    assert!(matches!(error, RequestError::Subscribe(SubscribeError::Mismatch { .. })), "{error}");
    for _ in 0..2 {
        let error = other.request::<u32, u64>("double", &1, DEADLINE).unwrap_err();
        assert!(matches!(error, RequestError::Advertise(AdvertiseError::Mismatch { .. })), "{error}");
    }
    assert_eq!(*other.request::<u64, u64>("double", &1, DEADLINE).unwrap(), 2);
}

#[test]
fn no_subscriber_gets_requests_by_accident() {
    let place = Place::new();
    let node = place.node("node");
    let mut plain = node.subscriber::<u64>("a/double").create().unwrap();
    let mut all = node.subscriber::<u64>("**").create().unwrap();
    let mut named = node.subscriber::<u64>("a/double/$call/**").create().unwrap();
    node.serve("a/double", |number: Sample<'_, u64>| number.to_native() * 2).unwrap();
    let _running = Running::start(&node);
    assert_eq!(*node.request::<u64, u64>("a/double", &4, DEADLINE).unwrap(), 8);
    // Who names them sees them.
    assert_eq!(named.receive_timeout(DEADLINE).unwrap().unwrap().to_native(), 4);
    assert_eq!((plain.publishers(), all.publishers(), named.publishers()), (0, 0, 1));
    assert!(plain.try_receive().unwrap().is_none() && all.try_receive().unwrap().is_none());
}

#[test]
fn bad_topics_are_refused() {
    let place = Place::new();
    let node = place.node("node");
    let long = vec!["x".repeat(250); 4].join("/");
    for topic in ["", "a/*", "a//b", &long] {
        let error = node.server::<u32, u32>(topic).create().unwrap_err();
        assert!(matches!(error, ServeError::Advertise(AdvertiseError::Topic { .. })), "{error}");
        let error = node.client::<u32, u32>(topic).create().unwrap_err();
        assert!(matches!(error, SubscribeError::Topic { .. }), "{error}");
    }
}
