//! What the two ends of a link agree on.

pub mod atomics;
pub mod inlet;
mod line;
pub mod log;
pub mod memory;
pub mod message;
pub mod outlet;
pub mod page;
pub mod protocol;
pub mod sys;
pub mod topic;
pub mod wake;

#[doc(hidden)]
pub use message::private as __private;
