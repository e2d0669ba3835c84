//! The example `workers`: what its header promises.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use std::collections::BTreeMap;

use support::command;
use tempfile::TempDir;

#[test]
fn every_job_is_done_once_also_that_of_a_worker_that_was_killed() {
    let place = TempDir::new().unwrap();
    let output = command(env!("CARGO_BIN_EXE_workers"), place.path(), &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut done = BTreeMap::<u64, Vec<&str>>::new();
    for line in printed.lines() {
        if let Some((who, job)) = line.split_once(" did job ") {
            done.entry(job.parse().unwrap()).or_default().push(who);
        }
    }
    assert!(done.keys().copied().eq(0..30), "{printed}");
    assert!(done.values().all(|who| who.len() == 1), "{printed}");
    let stuck = printed.lines().find_map(|line| line.strip_prefix("worker got stuck in job ")).unwrap();
    assert_ne!(done[&stuck.parse().unwrap()], ["worker"], "{printed}");
    assert_eq!(done.values().filter(|who| **who == ["worker"]).count(), 2, "{printed}");
    assert_eq!(printed.lines().last().unwrap(), "all 30 jobs are done, none is lost");
}
