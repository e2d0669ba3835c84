//! Points at which a process kills itself: before and after every store to shared words and every ring of a bell.
//!
//! Only built with `--cfg nodeset_failpoints`, which the program `crash_table` does for itself
//! (`docs/decisions/failpoints.md`). A point is where in the source the store stands, so no point can be forgotten.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

/// On which side of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// It is not there yet.
    Before,
    /// It is there.
    After,
}

/// A point.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Path of the source file, in the workspace.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// Before or after the store that stands there.
    pub side: Side,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Before { "before" } else { "after" };
        write!(f, "{}:{}:{side}", self.file, self.line)
    }
}

/// What this process does at its points; nothing until it is told.
enum Plan {
    /// Counts how often each is passed.
    Record(Mutex<BTreeMap<Point, u64>>),
    /// Kills itself when it passes this one so often.
    Kill { point: Point, passes: Mutex<u64> },
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// From now on counts how often each point is passed. Once a process.
pub fn record() {
    // A second word is a bug of the caller's that its results will show.
    let _ = PLAN.set(Plan::Record(Mutex::default()));
}

/// What was counted since [`record`].
pub fn recorded() -> BTreeMap<Point, u64> {
    match PLAN.get() {
        Some(Plan::Record(counts)) => counts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        _ => BTreeMap::new(),
    }
}

/// This process kills itself when it passes `point` for the `pass`-th time, 1 and up. Once a process.
pub fn kill_at(point: Point, pass: u64) {
    let _ = PLAN.set(Plan::Kill { point, passes: Mutex::new(pass) });
}

/// Does what `at` means to others, between its two points.
pub(crate) fn around<R>(at: &'static Location<'static>, store: impl FnOnce() -> R) -> R {
    pass(at, Side::Before);
    let result = store();
    pass(at, Side::After);
    result
}

fn pass(at: &'static Location<'static>, side: Side) {
    let Some(plan) = PLAN.get() else { return };
    match plan {
        Plan::Record(counts) => {
            let point = Point { file: at.file().to_owned(), line: at.line(), side };
            *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(point).or_default() += 1;
        }
        Plan::Kill { point, passes } => {
            if point.side != side || point.line != at.line() || point.file != at.file() {
                return;
            }
            let mut passes = passes.lock().unwrap_or_else(PoisonError::into_inner);
            *passes = passes.saturating_sub(1);
            if *passes == 0 {
                // It does not return; if the kernel refused it, the parent sees that the process lives on.
                let _ = kill_process(getpid(), Signal::KILL);
            }
        }
    }
}
