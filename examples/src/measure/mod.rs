//! What this machine can do at best, measured between two processes on two cores.
//!
//! Every figure of NodeSet stands beside one of these, taken in the same run:
//!
//! | limit | what it is | what is compared with it |
//! |---|---|---|
//! | [`Limit::Line`] | one cache line bounced between two processes | one-way latency, both sides busy-waiting |
//! | [`Limit::Stream`] | an unframed byte stream through 256 KiB of shared memory, filled and summed | throughput |
//! | [`Limit::Wakeup`] | eventfd and epoll, back and forth | waking a subscriber that sleeps |
//!
//! A latency is always half a round trip. Nothing here knows NodeSet's client; the workloads that do are in
//! [`performance`](crate::performance) and run on the same [`Worker`]s, [`Clock`] and [`Percentiles`].
//!
//! Reading order: [`limit`] (start here), [`line`](mod@line), [`stream`], [`wakeup`], then what they stand on:
//! [`worker`] and [`control`] (two processes and how they talk), [`shared`] (the only unsafe code), [`clock`],
//! [`percentiles`], [`fill`].

pub mod clock;
pub mod control;
pub mod fill;
pub mod limit;
pub mod line;
pub mod percentiles;
pub mod shared;
pub mod stream;
pub mod wakeup;
pub mod worker;

pub use clock::{Clock, monotonic_ns};
pub use limit::{Limit, LimitPair, LimitTask};
pub use percentiles::{Percentiles, Recorder};
pub use worker::{Cores, Worker, WorkerError};

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Budget {
    /// After so many messages (round trips, batches).
    Messages(u64),
    /// After so long.
    Time(Duration),
}

impl Budget {
    /// Whether a run that moved `messages` and began at `started_ns` on the [monotonic clock](monotonic_ns) is over.
    /// Reads the clock only where time decides: hot loops ask once a batch.
    pub fn is_spent(&self, messages: u64, started_ns: u64) -> bool {
        match *self {
            Budget::Messages(limit) => messages >= limit,
            Budget::Time(limit) => u128::from(monotonic_ns().saturating_sub(started_ns)) >= limit.as_nanos(),
        }
    }
}

/// What one end of a run has seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it began, on the [monotonic clock](monotonic_ns), which is the same in all processes.
    pub started_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// Messages sent or received; of a round trip, one.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Messages that a lossy subscriber did not get; 0 for everyone else.
    pub missed: u64,
    /// Half round trips; only from the end that took the time.
    pub latency: Option<Percentiles>,
}
