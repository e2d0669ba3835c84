//! Dispatchers with a bridge, as programs of their own, and what is run beside them.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nodeset::Node;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn nodeset(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A dispatcher with a bridge, ended with the test.
pub(crate) struct Host {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    /// Where its bridge listens.
    address: Option<String>,
}

impl Host {
    /// When this returns, it can be connected to.
    pub(crate) fn start(place: &Path, name: &str, bridge: &[&str]) -> Host {
        let socket = place.join(format!("{name}.sock"));
        let mut command = nodeset(&["dispatcher", "--log-format", "json", "--host-name", name, "--socket"]);
        let mut child = command.arg(&socket).args(bridge).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        for line in log.by_ref() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["event"] == "bridge_listens" {
                address = line["address"].as_str().map(str::to_owned);
            }
            if line["event"] == "serving" {
                let name = name.to_owned();
                // Somebody must read what it logs from now on; it is shown when the test fails.
                std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| println!("{name}: {line}")));
                return Host { child, socket, address };
            }
        }
        panic!("{name} ended before it served: {:?}", child.wait());
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn address(&self) -> &str {
        self.address.as_deref().unwrap()
    }

    /// A node on the bus of this host.
    pub(crate) fn node(&self, name: &str) -> Node {
        Node::builder(name).socket(&self.socket).connect().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Command {
        let mut command = nodeset(arguments);
        command.arg("--dispatcher").arg(&self.socket);
        command
    }

    pub(crate) fn echo(&self, arguments: &[&str]) -> Echo {
        let mut child = self.run(&[&["echo"], arguments].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Echo { child, lines }
    }

    pub(crate) fn publish(&self, arguments: &[&str]) {
        let status = self.run(&[&["pub"], arguments].concat()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Host {
    /// In order, unless it was killed before: it takes its board with it.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

pub(crate) struct Echo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Echo {
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
