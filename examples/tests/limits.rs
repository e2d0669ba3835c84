//! `limits` as a program: every limit is met, and each error names it.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::process::{Command, Stdio};

use nodeset_examples::limits::CASES;
use tempfile::TempDir;

#[test]
fn every_limit_is_named_by_its_error() {
    let place = TempDir::new().unwrap();
    // Another user must be able to go there.
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_limits"));
    let output = command.env("TMPDIR", place.path()).stdin(Stdio::null()).output().unwrap();
    let (said, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}{errors}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), CASES.len() + 1, "{said}");
    for (case, line) in CASES.iter().zip(&lines) {
        assert!(line.starts_with(case.name) && (line.contains("  held  ") || line.contains("  skipped  ")), "{line}");
    }
    assert!(lines.last().unwrap().ends_with(" 0 failed"), "{said}");
    assert!(place.path().read_dir().unwrap().next().is_none());
}

#[test]
fn a_limit_that_there_is_not_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_limits")).args(["--only", "gravity"]).output().unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--max-nodes") && errors.contains("memory.max"), "{errors}");
}
