//! Whole networks of dispatchers in one thread: three to five hosts, simple models of their logs, a network that delays, cuts at
//! any byte and parts, dispatchers that are restarted. Everything follows from one seed.
//!
//! After every step: what arrives at a mirror is what was published, in order, once, or told to be lost by number; nobody gets
//! more than it granted; no publisher waits for a peer unless a subscription says `reliable_across_hosts`, and then nothing is
//! lost. In the end, with the network whole: every mirror has everything, and each pair of hosts one connection.
//!
//! `NODESET_SIM_SEEDS` says how many seeds are run (100 without it), `NODESET_SIM_SEED` runs that one only and says what happens.

#![cfg(feature = "bridge")]

mod host;
mod log;
mod mirror;
mod random;
mod world;

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Summary, World};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`")))
}

#[test]
fn networks_heal_and_lose_nothing_that_they_should_not() {
    if let Some(seed) = number("NODESET_SIM_SEED") {
        println!("{:?}", World::new(seed, true).run());
        return;
    }
    let seeds = number("NODESET_SIM_SEEDS").unwrap_or(100);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let total = std::thread::scope(|scope| {
        let work = || {
            let mut total = Summary::default();
            loop {
                // Relaxed: a number, nothing else.
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return total;
                }
                match catch_unwind(|| World::new(seed, false).run()) {
                    Ok(summary) => total.add(&summary),
                    Err(_) => panic!("seed {seed} failed: NODESET_SIM_SEED={seed} shows it again"),
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut total = Summary::default();
        for thread in threads {
            total.add(&thread.join().expect("a seed failed, see above"));
        }
        total
    });
    println!("{seeds} seeds: {total:?}");
    // What was not met was not tested.
    assert!(total.is_rich() || seeds < 100, "{total:?}");
}

#[test]
fn the_same_seed_is_the_same_history() {
    assert_eq!(World::new(7, false).run(), World::new(7, false).run());
}
