//! What this machine is doing just now: the real input of `mnode_publish`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;

use nodeset::Message;
use rkyv::{Archive, Deserialize, Serialize};

/// The topic of the readings.
pub const TOPIC: &str = "machine/reading";

/// One look at the machine.
#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
pub struct Reading {
    /// How many came before from the same publisher.
    pub number: u64,
    /// What its publisher calls this machine.
    pub host: String,
    /// The busy part of each core since the reading before: 0 to 1.
    pub loads: Vec<f32>,
    /// bytes
    pub memory_total: u64,
    /// bytes
    pub memory_available: u64,
    /// Each network interface that moved something.
    pub networks: Vec<Network>,
}

/// One network interface.
#[derive(Archive, Serialize, Deserialize, Message, Debug, Clone, PartialEq)]
pub struct Network {
    /// As the kernel calls it.
    pub name: String,
    /// bytes since the reading before
    pub received: u64,
    /// bytes since the reading before
    pub sent: u64,
}

impl fmt::Display for ArchivedReading {
    /// In one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} load", self.number, self.host)?;
        for load in self.loads.iter() {
            write!(f, " {:.0}%", load.to_native() * 100.0)?;
        }
        let gibibytes = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
        let used = self.memory_total.to_native().saturating_sub(self.memory_available.to_native());
        write!(f, ", memory {:.1} of {:.1} GiB", gibibytes(used), gibibytes(self.memory_total.to_native()))?;
        for network in self.networks.iter() {
            write!(f, ", {} +{}/+{} bytes", network.name, network.received, network.sent)?;
        }
        Ok(())
    }
}

/// Looks at the machine again and again.
#[derive(Debug, Default)]
pub struct Machine {
    number: u64,
    host: String,
    /// Of each core: busy and all ticks.
    cores: Vec<(u64, u64)>,
    networks: BTreeMap<String, (u64, u64)>,
}

impl Machine {
    /// Before the first look.
    pub fn new() -> Machine {
        Machine { host: rustix::system::uname().nodename().to_string_lossy().into_owned(), ..Machine::default() }
    }

    /// Takes a reading; the first one covers the time since the machine was started.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read.
    pub fn read(&mut self) -> io::Result<Reading> {
        let cores = cores(&fs::read_to_string("/proc/stat")?);
        let loads = cores
            .iter()
            .enumerate()
            .map(|(at, &(busy, all))| {
                let (busy_before, all_before) = self.cores.get(at).copied().unwrap_or_default();
                let all = all.saturating_sub(all_before).max(1);
                busy.saturating_sub(busy_before) as f32 / all as f32
            })
            .collect();
        self.cores = cores;
        let (memory_total, memory_available) = memory(&fs::read_to_string("/proc/meminfo")?);
        let now = networks(&fs::read_to_string("/proc/net/dev")?);
        let networks = now
            .iter()
            .map(|(name, &(received, sent))| {
                let (received_before, sent_before) = self.networks.get(name).copied().unwrap_or_default();
                let received = received.saturating_sub(received_before);
                Network { name: name.clone(), received, sent: sent.saturating_sub(sent_before) }
            })
            .filter(|network| network.received + network.sent > 0)
            .collect();
        self.networks = now;
        let number = self.number;
        self.number += 1;
        Ok(Reading { number, host: self.host.clone(), loads, memory_total, memory_available, networks })
    }
}

/// Busy and all ticks of each core, of `/proc/stat` (proc_stat(5)).
fn cores(stat: &str) -> Vec<(u64, u64)> {
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    cores
        .map(|line| {
            let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|it| it.parse().ok()).collect();
            let all: u64 = ticks.iter().sum();
            // Idle, and waiting for disks.
            (all - ticks.iter().skip(3).take(2).sum::<u64>(), all)
        })
        .collect()
}

/// Total and available bytes, of `/proc/meminfo`.
fn memory(meminfo: &str) -> (u64, u64) {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kibibytes.unwrap_or(0) * 1024
    };
    (of("MemTotal:"), of("MemAvailable:"))
}

/// Received and sent bytes of each interface, of `/proc/net/dev`.
fn networks(dev: &str) -> BTreeMap<String, (u64, u64)> {
    let interfaces = dev.lines().filter_map(|line| line.split_once(':'));
    interfaces
        .filter_map(|(name, counters)| {
            let counters: Vec<u64> = counters.split_whitespace().filter_map(|it| it.parse().ok()).collect();
            Some((name.trim().to_owned(), (*counters.first()?, *counters.get(8)?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_understood() {
        let stat = "cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 5 0 5 35 5 0 0 0 0 0\ncpu1 1 2 3 4 0 0 0 0 9 9\nintr 5\n";
        assert_eq!(cores(stat), [(10, 50), (6, 10)]);
        assert_eq!(memory("MemTotal:  100 kB\nMemFree: 7 kB\nMemAvailable:   40 kB\n"), (102_400, 40_960));
        let dev = "Inter-| Receive\n face |bytes\n  eth0: 11 2 0 0 0 0 0 0 22 3 0 0 0 0 0 0\n";
        assert_eq!(networks(dev), BTreeMap::from([("eth0".to_owned(), (11, 22))]));
    }

    #[test]
    fn this_machine_can_be_read() {
        let mut machine = Machine::new();
        let (first, second) = (machine.read().unwrap(), machine.read().unwrap());
        assert_eq!((first.number, second.number), (0, 1));
        assert!(!second.loads.is_empty() && second.loads.iter().all(|load| (0.0..=1.0).contains(load)));
        assert!(second.memory_total >= second.memory_available);
    }
}
