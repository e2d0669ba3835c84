//! What the program `crash_table` is made of: a process that kills itself before or after one of its stores to shared memory,
//! and the checks of everybody who lives on.
//!
//! | who | what must hold when a peer dies at any point |
//! |---|---|
//! | a reliable subscriber | it gets every message that was committed, in order, once, whole; then it learns of the end |
//! | a lossy subscriber | the same with exact counts |
//! | a publisher | it goes on within its deadline, whatever the dead one held |
//! | another subscriber of the same publisher | nothing is missed |
//! | the place of the dead one | whoever takes it is linked and works |
//! | the survivors' process | it has as many descriptors as before |
//!
//! Reading order: [`points`] (where a process can die), [`roles`] (what those who die do), [`table`] (those who live, and the
//! checks).

pub mod points;
pub mod roles;
pub mod table;
