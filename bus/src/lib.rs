//! What the two ends of a link agree on.

pub mod atomics;
pub mod log;
pub mod memory;
pub mod message;
pub mod page;
pub mod protocol;
pub mod sys;
pub mod topic;

#[doc(hidden)]
pub use message::private as __private;
