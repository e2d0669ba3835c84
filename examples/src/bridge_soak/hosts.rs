//! The two dispatchers and the link between them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Plan;
use crate::measure::worker::WorkError;
use crate::programs::{Program, Programs};
use crate::proxy::Proxy;

/// For a dispatcher to start.
const DEADLINE: Duration = Duration::from_secs(60);
const NAMES: [&str; 2] = ["a", "b"];

/// See the module.
pub(super) struct Hosts {
    nodeset: PathBuf,
    place: PathBuf,
    proxy: Proxy,
    dispatchers: [Option<Program>; 2],
}

impl Hosts {
    pub(super) fn start(programs: &Programs, plan: &Plan) -> Result<Hosts, WorkError> {
        let place = std::env::temp_dir().join(format!("nodeset-bridge-soak-{}", std::process::id()));
        fs::create_dir(&place).map_err(|error| format!("{} cannot be made: {error}", place.display()))?;
        let (nodeset, proxy) = (programs.nodeset.clone(), Proxy::start()?);
        let mut hosts = Hosts { nodeset, place, proxy, dispatchers: [None, None] };
        hosts.break_connections(plan);
        hosts.begin(0)?;
        hosts.begin(1)?;
        Ok(hosts)
    }

    pub(super) fn socket(&self, host: usize) -> PathBuf {
        self.place.join(format!("{}.sock", NAMES[host]))
    }

    /// Host b dials host a, over the link.
    fn begin(&mut self, host: usize) -> Result<(), WorkError> {
        let mut command = Command::new(&self.nodeset);
        command.args(["dispatcher", "--log-format", "json", "--host-name", NAMES[host], "--socket"]);
        command.arg(self.socket(host));
        match host {
            0 => command.args(["--listen", "127.0.0.1:0", "--peer", NAMES[1]]),
            _ => command.arg("--peer").arg(format!("{}={}", NAMES[0], self.proxy.address())),
        };
        let mut dispatcher = Program::start(&format!("the dispatcher of {}", NAMES[host]), command)?;
        let until = Instant::now() + DEADLINE;
        if host == 0 {
            let listens = dispatcher.event("bridge_listens", until)?;
            self.proxy.forward_to(listens["address"].as_str().ok_or("the dispatcher does not say where it listens")?);
        } else {
            dispatcher.event("serving", until)?;
        }
        self.dispatchers[host] = Some(dispatcher);
        Ok(())
    }

    /// Kills the dispatcher of that host, and starts another one.
    pub(super) fn kill(&mut self, host: usize) -> Result<(), WorkError> {
        if let Some(mut dispatcher) = self.dispatchers[host].take() {
            dispatcher.kill()?;
        }
        self.begin(host)
    }

    /// As many connections as the plan says break at random bytes, spread over all messages.
    fn break_connections(&self, plan: &Plan) {
        // Headers, and what is sent again, come on top: so all breaks come before the messages end.
        let bytes = plan.messages * plan.size as u64 * 4 / 5;
        let mean = bytes / u64::from(plan.cuts).max(1);
        let mut random = plan.seed.wrapping_mul(2).wrapping_add(1);
        let mut next = || {
            // Knuth's constants for a linear generator modulo 2^64; its high bits are the good ones.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        self.proxy.break_after((0..plan.cuts).map(|_| 1 + next() % (2 * mean).max(2)).collect());
    }

    pub(super) fn breaks_left(&self) -> usize {
        self.proxy.breaks_left()
    }

    pub(super) fn connections(&self) -> usize {
        self.proxy.forwarded()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.dispatchers = [None, None];
        // What is left of it hurts nobody.
        let _ = fs::remove_dir_all(&self.place);
    }
}
