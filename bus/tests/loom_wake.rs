//! Loom models of going to sleep and waking up: no commit leaves a sleeper asleep.

mod model;

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use model::{Light, LoomWords, SHAPE_3, explore, link, node_page};
use nodeset_bus::atomics::Fact;
use nodeset_bus::log::{Cursor, CursorSpec, Links, Producer, Reach, Retention, Ring};
use nodeset_bus::page::SignalPage;
use nodeset_bus::wake::{self, Alarm, Wish};

struct Doorbell(AtomicBool);

impl Ring for Doorbell {
    fn ring(&self) {
        // Like an eventfd: a system call orders everything.
        self.0.store(true, Ordering::SeqCst);
    }
}

fn publish(producer: &mut Producer<LoomWords>, alarm: &mut Alarm<LoomWords>) {
    producer.open(0, Reach::Limit).expect("room");
    producer.commit(0);
    alarm.after_commit(producer);
}

/// A sleeper waits for the last of the publisher's messages. `quiet`: commits without a wish after which the publisher gives
/// up its fences; `before`: commits before the sleeper starts; `after`: while it runs.
fn sleep(name: &'static str, quiet: Option<u32>, before: u64, after: u64, broken: Option<Fact>, light: Light) {
    explore(name, 3, move || {
        let log = LoomWords::log(3, broken, light);
        let page = LoomWords::page(broken, light);
        let signal = LoomWords::signal(broken, light);
        let links = Arc::new(Links::new(LoomWords::private(broken)));
        let keep_nothing = Retention { depth: 0, history: 0, prompt: 0, spread: 0 };
        let mut producer = Producer::create(log.clone(), SHAPE_3, 1, keep_nothing, links.clone());
        let own_page = node_page(&page);
        let doorbell = Arc::new(Doorbell(AtomicBool::new(false)));
        let mut reader = Cursor::open(CursorSpec {
            log: log.clone(),
            shape: SHAPE_3,
            page: own_page.clone(),
            line: 0,
            tag: 1,
            reliable: false,
            depth: 0,
            history: 0,
            bell: doorbell.clone(),
            lane: None,
            on_released: Box::new(|| {}),
        })
        .expect("a log");
        links.add(link(1, &page, &signal, false, doorbell.clone()));
        let mut alarm = Alarm::new(&producer, quiet);
        for _ in 0..before {
            publish(&mut producer, &mut alarm);
        }
        let sleeper = thread::spawn(move || {
            let wish = Wish::new(log, SignalPage::open(signal), 0);
            let mut read = 0;
            while read < before + after {
                if let Some(frame) = reader.poll().expect("no fault") {
                    read = frame.sequence + 1;
                    continue;
                }
                wake::wish(&own_page, [&wish]);
                let visible = wake::make_visible(&own_page, [&wish]);
                if reader.is_ready() {
                    continue;
                }
                if !visible {
                    // It would have to wake up by itself: nothing to model.
                    return false;
                }
                return true;
            }
            false
        });
        for _ in 0..after {
            publish(&mut producer, &mut alarm);
        }
        if sleeper.join().expect("sleeper") {
            assert!(doorbell.0.load(Ordering::SeqCst), "asleep for ever, with a message unread");
        }
    });
}

fn fenced(broken: Option<Fact>) {
    sleep("sleep and wake, fenced", None, 0, 2, broken, Light::Nothing);
}

#[test]
fn a_fenced_commit_wakes_the_sleeper() {
    fenced(None);
}

#[test]
#[should_panic]
fn without_the_publishers_fence_a_wake_is_lost() {
    fenced(Some(Fact::CommitBeforeWanted));
}

#[test]
#[should_panic]
fn without_the_sleepers_fence_a_wake_is_lost() {
    fenced(Some(Fact::WantedBeforeLook));
}

fn unfenced(broken: Option<Fact>) {
    sleep("sleep and wake, unfenced with membarrier", Some(1), 1, 1, broken, Light::Full);
}

#[test]
fn an_unfenced_commit_wakes_a_sleeper_that_used_membarrier() {
    unfenced(None);
}

#[test]
#[should_panic]
fn without_membarrier_an_unfenced_commit_loses_the_wake() {
    unfenced(Some(Fact::WantedBeforeLook));
}

/// The publisher changes its mode while the sleeper goes to sleep, and no `membarrier` helps: a sleeper that reads `fenced`
/// must be able to rely on it.
fn switching(broken: Option<Fact>) {
    sleep("sleep and wake, switching modes", Some(1), 0, 3, broken, Light::Nothing);
}

#[test]
fn a_publisher_that_changes_its_mode_wakes_whoever_relies_on_it() {
    switching(None);
}

#[test]
#[should_panic]
fn without_the_fence_behind_the_mode_a_wake_is_lost() {
    switching(Some(Fact::ModeBeforeCommit));
}
