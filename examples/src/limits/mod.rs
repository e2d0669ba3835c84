//! What the program `limits` is made of: runs into one limit after the other, and looks what is said.
//!
//! Each limit has a dispatcher of its own ([`Setting`]) and a process that meets it ([`cases`]); both are this program, started
//! again with a hidden first argument. The process prints the error that a user would see. A limit holds if that names it, and
//! nobody was ended by a signal, hung or said anything else.
//!
//! Reading order: [`cases`] (which limits there are and how each is met), [`group`] (control groups), [`run`] (processes).

pub mod cases;
pub mod group;
pub mod run;

pub use cases::{CASES, Case, Setting};
pub use run::{Outcome, act, dispatch, examine};

/// Any error, with its causes.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;
