//! Looks at the heartbeats in the nodes' pages, which the dispatcher maps to read them, and asks the kernel about a process
//! whose heart does not beat. What follows from it is decided in `pulse`.

use std::collections::BTreeMap;
use std::time::Instant;

use nodeset_bus::memory::{Segment, SharedWords};
use nodeset_bus::page::PeerPage;
use nodeset_bus::protocol::{Health, NodeId};
use tracing::debug;

use crate::allocate::chain;
use crate::pulse::{Patience, Pulse, Rounds};

/// A node that is looked at.
#[derive(Debug)]
struct Patient {
    page: PeerPage<SharedWords>,
    pulse: Pulse,
}

/// All nodes that are looked at.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    patience: Patience,
    rounds: Rounds,
    patients: BTreeMap<NodeId, Patient>,
}

impl Heartbeats {
    pub(crate) fn new(patience: Patience) -> Heartbeats {
        Heartbeats { patience, rounds: Rounds::default(), patients: BTreeMap::new() }
    }

    /// Looks at a node from now on, whose page has all its seals. One that came back has all the time again.
    pub(crate) fn add(&mut self, now: Instant, node: NodeId, page: &Segment) {
        self.rounds.begin(now);
        if let Some(known) = self.patients.get_mut(&node) {
            known.pulse.restart(now);
            return;
        }
        let mapped = match page.map_readable() {
            Ok(mapping) => SharedWords::mapped(mapping),
            Err(error) => {
                debug!(event = "page_not_mapped", %node, error = chain(&error));
                return;
            }
        };
        match PeerPage::open(mapped) {
            Ok(page) => {
                let pulse = Pulse::new(now, page.heartbeat());
                self.patients.insert(node, Patient { page, pulse });
            }
            // Its peers refuse it as well.
            Err(error) => debug!(event = "page_not_opened", %node, error = chain(&error)),
        }
    }

    /// No longer looks at a node.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.patients.remove(&node);
        if self.patients.is_empty() {
            self.rounds.end();
        }
    }

    /// When [`look`](Self::look) has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.rounds.due()
    }

    /// Looks at all, if it is time to; says who is not as before. `process_of` is the process of a node that is attached; the
    /// heart of one that is not need not beat.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        mut process_of: impl FnMut(NodeId) -> Option<u32>,
    ) -> Vec<(NodeId, Health)> {
        let Some(unseen) = self.rounds.take(now) else { return Vec::new() };
        let mut changed = Vec::new();
        for (&node, Patient { page, pulse }) in &mut self.patients {
            let Some(pid) = process_of(node) else {
                pulse.restart(now);
                continue;
            };
            pulse.excuse(unseen);
            let told = pulse.look(now, page.heartbeat(), self.patience, || is_stopped(pid));
            changed.extend(told.map(|health| (node, health)));
        }
        changed
    }
}

/// Whether the kernel says that a process is stopped, by a signal or a debugger. One that cannot be asked about is not.
fn is_stopped(pid: u32) -> bool {
    // Behind the name, which is in brackets and may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use nodeset_bus::page::{HEARTBEAT_EVERY, NODE_PAGE_LEN, NodePage};
    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

    use super::*;

    fn signal(child: &Child, signal: Signal) {
        kill_process(Pid::from_child(child), signal).unwrap();
        let wanted = if signal == Signal::STOP { WaitIdOptions::STOPPED } else { WaitIdOptions::CONTINUED };
        waitid(WaitId::Pid(Pid::from_child(child)), wanted).unwrap();
    }

    #[test]
    fn a_stopped_process_is_seen_and_seen_to_go_on() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(!is_stopped(child.id()));
        signal(&child, Signal::STOP);
        assert!(is_stopped(child.id()));
        signal(&child, Signal::CONT);
        assert!(!is_stopped(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(child.id()), "nobody is there");
    }

    #[test]
    fn all_who_are_attached_are_looked_at_every_round() {
        let mut now = Instant::now();
        let mut heartbeats = Heartbeats::new(Patience::default());
        let segment = Segment::create("page", NODE_PAGE_LEN).unwrap();
        let page = NodePage::create(SharedWords::mapped(segment.map_writable().unwrap()));
        let (node, detached, broken) = (NodeId(1), NodeId(2), NodeId(3));
        for id in [node, detached] {
            heartbeats.add(now, id, &segment);
        }
        heartbeats.add(now, broken, &Segment::create("none", NODE_PAGE_LEN).unwrap());
        let nobody = u32::MAX;
        let mut rounds = |count: u32, beats: bool| {
            let mut changed = Vec::new();
            for round in 1..=count {
                now += HEARTBEAT_EVERY;
                page.beat(if beats { u64::from(round) } else { 0 });
                changed.extend(heartbeats.look(now, |id| (id != detached).then_some(nobody)));
                assert!(heartbeats.look(now, |_| panic!("not yet")).is_empty());
            }
            changed
        };
        assert_eq!(rounds(20, true), []);
        assert_eq!(rounds(20, false), [(node, Health::Slow), (node, Health::Stopped)]);
        assert_eq!(rounds(1, true), [(node, Health::Alive)]);
        for id in [node, detached, broken] {
            heartbeats.forget(id);
        }
        assert_eq!(heartbeats.due(), None);
    }
}
