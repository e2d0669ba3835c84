//! What the two ends of a link agree on.

pub mod memory;
pub mod message;
pub mod protocol;
pub mod sys;
pub mod topic;
