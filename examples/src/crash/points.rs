//! Where a process can die: before and after each store to shared memory that it ever makes.
//!
//! The points themselves are in the bus, in a build of their own; elsewhere there are none.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One point: a place in the source, and a side of the store that stands there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Step {
    /// Path of the source file, in the workspace.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// Before the store; else after it.
    pub before: bool,
}

/// What a process does at its points.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Plan {
    /// Nothing.
    Live,
    /// Counts how often each is passed, and says so at its end.
    Record,
    /// Kills itself at the `pass`-th passage of a point.
    Die {
        /// Which point.
        step: Step,
        /// 1 and up.
        pass: u64,
    },
}

/// How often a point was passed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Passed {
    /// Which point.
    pub step: Step,
    /// How often.
    pub times: u64,
}

/// Whether this build has points.
pub const BUILT_IN: bool = cfg!(nodeset_failpoints);

/// Follows a plan from now on. Once a process.
#[cfg(nodeset_failpoints)]
pub fn follow(plan: &Plan) {
    use nodeset_bus::failpoint::{self, Point, Side};
    match plan {
        Plan::Live => {}
        Plan::Record => failpoint::record(),
        Plan::Die { step: Step { file, line, before }, pass } => {
            let side = if *before { Side::Before } else { Side::After };
            failpoint::kill_at(Point { file: file.clone(), line: *line, side }, *pass);
        }
    }
}

/// Follows a plan: here there are no points.
#[cfg(not(nodeset_failpoints))]
pub fn follow(_plan: &Plan) {}

/// What was passed since a plan said to count. Stores of the bus only: this program has shared words of its own.
#[cfg(nodeset_failpoints)]
pub fn recorded() -> Vec<Passed> {
    use nodeset_bus::failpoint::{self, Side};
    let of_the_bus = failpoint::recorded().into_iter().filter(|(point, _)| point.file.starts_with("bus/"));
    of_the_bus
        .map(|(point, times)| {
            let step = Step { file: point.file, line: point.line, before: point.side == Side::Before };
            Passed { step, times }
        })
        .collect()
}

/// Nothing: here there are no points.
#[cfg(not(nodeset_failpoints))]
pub fn recorded() -> Vec<Passed> {
    Vec::new()
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", if self.before { "before" } else { "after" }, self.file, self.line)
    }
}

impl Step {
    /// The function in which it stands, as far as the source is there to be read.
    pub fn function(&self) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let source = fs::read_to_string(root.join(&self.file)).unwrap_or_default();
        let above: Vec<&str> = source.lines().take(self.line as usize).collect();
        let name = |line: &&str| {
            let rest = line.trim_start().split_once("fn ").filter(|(before, _)| !before.contains("//"))?.1;
            rest.split(['(', '<']).next().map(str::to_owned)
        };
        above.iter().rev().find_map(name).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_by_its_function() {
        let source = include_str!("points.rs");
        let line =
            source.lines().position(|line| line.contains("let above")).expect("it stands in this file") as u32 + 1;
        let step = Step { file: "examples/src/crash/points.rs".to_owned(), line, before: true };
        assert_eq!(step.function(), "function");
        assert_eq!(step.to_string(), format!("before examples/src/crash/points.rs:{line}"));
    }
}
