//! Two hosts on one machine: what is published on one arrives on the other, with the real programs.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod hosts;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hosts::{Host, nodeset};
use tempfile::TempDir;

fn crosses(from: &Host, to: &Host) {
    let mut echoes = [to.echo(&["greeting", "--reliable"]), to.echo(&["**", "--reliable"])];
    from.publish(&["greeting", "over the bridge", "--wait", "60", "-n", "3", "--rate", "1000"]);
    for line in echoes.iter_mut().flat_map(|echo| [echo.line(), echo.line(), echo.line()]) {
        assert!(line.ends_with("over the bridge"), "{line}");
    }
}

#[test]
fn what_is_published_on_one_host_arrives_on_the_other() {
    let place = TempDir::new().unwrap();
    let a = Host::start(place.path(), "a", &["--listen", "127.0.0.1:0", "--peer", "b"]);
    let b = Host::start(place.path(), "b", &["--peer", &format!("a={}", a.address())]);
    crosses(&a, &b);
    crosses(&b, &a);
}

#[test]
fn with_keys_it_is_the_same() {
    let place = TempDir::new().unwrap();
    let key = |name: &str| place.path().join(name).display().to_string();
    for name in ["a", "b"] {
        assert!(nodeset(&["keygen", &key(name)]).stdout(Stdio::null()).status().unwrap().success());
    }
    let (a_key, b_key) = (key("a"), key("b"));
    let known = |name: &str| format!("{name}={}.pub", key(name));
    let options = ["--listen", "127.0.0.1:0", "--key", &a_key, "--peer-key", &known("b")];
    let a = Host::start(place.path(), "a", &options);
    let to_a = format!("a={}", a.address());
    let b = Host::start(place.path(), "b", &["--peer", &to_a, "--key", &b_key, "--peer-key", &known("a")]);
    crosses(&a, &b);
}

/// Forwards connections to `to`, and cuts each of the first `cuts` after so many bytes of either side, ever more.
fn cutting_proxy(to: String, cuts: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for (number, connection) in listener.incoming().enumerate() {
            let (near, far) = (connection.unwrap(), TcpStream::connect(&to).unwrap());
            counted.fetch_add(1, Ordering::Relaxed);
            let budget = if number < cuts { 997 + 7919 * number } else { usize::MAX };
            for (from, into) in [(&near, &far), (&far, &near)] {
                let (mut from, mut into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                std::thread::spawn(move || {
                    let (mut left, mut buffer) = (budget, [0; 4096]);
                    while left > 0 {
                        let most = left.min(buffer.len());
                        let Ok(count @ 1..) = from.read(&mut buffer[..most]) else { break };
                        if into.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                        left -= count;
                    }
                    // Both ways: whichever side ends, the other one must not wait.
                    let _ = from.shutdown(Shutdown::Both);
                    let _ = into.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (address, connections)
}

#[test]
fn connections_that_are_cut_lose_nothing_and_repeat_nothing() {
    const MESSAGES: u64 = 20_000;
    const CUTS: usize = 20;
    let place = TempDir::new().unwrap();
    let a = Host::start(place.path(), "a", &["--listen", "127.0.0.1:0", "--peer", "b"]);
    let (proxy, connections) = cutting_proxy(a.address().to_owned(), CUTS);
    let b = Host::start(place.path(), "b", &["--peer", &format!("a={proxy}")]);

    let reader = nodeset::Node::builder("reader").socket(&b.socket).connect().unwrap();
    let mut subscriber = reader.subscriber::<[u8]>("numbers").reliable().create().unwrap();
    let writer = nodeset::Node::builder("writer").socket(&a.socket).connect().unwrap();
    let mut publisher = writer.publisher::<[u8]>("numbers").create().unwrap();
    publisher.wait_for_subscribers(1, Duration::from_secs(60)).unwrap();
    let sending = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            let len = if number % 1_000 == 999 { 40_000 } else { 64 };
            let mut message = vec![number as u8; len];
            message[..8].copy_from_slice(&number.to_le_bytes());
            publisher.publish(&message[..]).unwrap();
        }
        publisher
    });
    for number in 0..MESSAGES {
        let sample = subscriber.receive().unwrap();
        assert_eq!((sample.sequence(), sample.missed_before()), (number, 0));
        assert_eq!(sample.payload()[..8], number.to_le_bytes());
        assert!(sample.payload()[8..].iter().all(|&byte| byte == number as u8), "message {number} is damaged");
    }
    drop(sending.join().unwrap());
    assert_eq!(connections.load(Ordering::Relaxed), CUTS + 1, "not all connections were cut");
}

#[test]
fn a_host_that_is_added_while_the_dispatcher_runs_is_reached() {
    let place = TempDir::new().unwrap();
    let config = place.path().join("bridge.toml");
    std::fs::write(&config, "listen = [\"127.0.0.1:0\"]\n").unwrap();
    let a = Host::start(place.path(), "a", &["--config", config.to_str().unwrap()]);
    let b = Host::start(place.path(), "b", &["--peer", &format!("a={}", a.address())]);
    std::fs::write(&config, "listen = [\"127.0.0.1:0\"]\n[[peer]]\nname = \"b\"\n").unwrap();
    let pid = rustix::process::Pid::from_child(&a.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    crosses(&a, &b);
}
