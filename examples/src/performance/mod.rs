//! What `performance1` measures: NodeSet, through its client crate, between processes on two cores.
//!
//! Reading order: [`roles`] (what each process does), [`message`] (what they send), [`plan`] (which rows, in which order),
//! [`run`](mod@run) (a row beside its limit), [`report`].

pub mod message;
pub mod plan;
pub mod report;
pub mod roles;
pub mod run;

pub use plan::{Plan, PlanError, Workload};
pub use report::Row;
pub use roles::{NodeTask, Task, prepare};
pub use run::{RunError, Runner};
