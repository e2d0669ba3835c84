//! `nodeset keygen`: what it writes, and that it never takes a key away.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn keygen(path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nodeset")).arg("keygen").arg(path).output().unwrap()
}

#[test]
fn a_pair_is_made_and_never_overwritten() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.key");
    let output = keygen(&path);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("--key") && text.contains("--peer-key NAME=FILE"), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let public = fs::read_to_string(place.path().join("a.key.pub")).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"), "{public}");
    let private = fs::read(&path).unwrap();

    let again = keygen(&path);
    let why = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && why.contains("never overwritten"), "{why}");
    assert_eq!(fs::read(&path).unwrap(), private);

    let nowhere = keygen(&place.path().join("none/a.key"));
    let why = String::from_utf8(nowhere.stderr).unwrap();
    assert!(!nowhere.status.success() && why.contains("cannot be written: No such file"), "{why}");
}
