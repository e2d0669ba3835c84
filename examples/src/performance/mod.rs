//! What the program `performance1` is made of.
//!
//! Reading order: [`row`] (what a line of its output says).

pub mod row;

pub use row::{Payload, Row, Workload};
