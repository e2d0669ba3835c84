//! What the program `soak` is made of: publishers, subscribers and a dispatcher that are killed, stopped and started again at
//! random, and the invariants that must hold all the while.
//!
//! | invariant | who checks it |
//! |---|---|
//! | a reliable subscriber gets every message of a publisher from the first one it got, in order, once, up to the last that was committed | the subscriber, against the ledger |
//! | a lossy one counts exactly what it misses | the subscriber |
//! | no message is torn | the subscriber: every byte |
//! | nobody is stuck | the supervisor: after the last kill everybody gets something from everybody |
//! | nothing is left behind | the supervisor: descriptors, mappings, shared memory before and after |
//!
//! How long messages take is measured of two pairs that nobody touches: one on the bus whose other members are killed, one on
//! a bus of its own. Processes that die and start take the processors from both alike; what the first has beyond the
//! second is what the deaths on its bus do to it.
//!
//! Reading order: [`ledger`], [`roles`] (publisher, subscriber, dispatcher), [`supervisor`] (the chaos and the checks).

pub mod ledger;
pub mod roles;
pub mod supervisor;

pub use roles::{Pair, SoakTask, prepare};
pub use supervisor::{Chaos, Summary, Supervisor};
