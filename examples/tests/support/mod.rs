//! What the tests of the example programs share: programs that run beside the test.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn command(program: &str, place: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).arg("--dispatcher").arg(place.join("d.sock")).stdin(Stdio::null());
    command
}

/// Where all programs are, of which this is one; the one of another package is built if this package's tests are run alone.
pub(crate) fn programs(one: &str) -> PathBuf {
    let directory = Path::new(one).parent().unwrap().to_owned();
    if !directory.join("nodeset").exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-p", "nodeset-cli", "--bin", "nodeset"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().unwrap().success());
    }
    directory
}

/// A program that runs beside the test, ended with it.
pub(crate) struct Beside {
    pub(crate) child: Child,
    pub(crate) out: Receiver<String>,
    pub(crate) err: Receiver<String>,
}

impl Beside {
    pub(crate) fn start(mut command: Command) -> Beside {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Beside { child, out, err }
    }

    /// The next line on standard output that has `part` in it.
    pub(crate) fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.out.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no line with {part}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// What it has printed is forgotten: what comes next is new.
    pub(crate) fn forget(&self) {
        while self.out.try_recv().is_ok() {}
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
