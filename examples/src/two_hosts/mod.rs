//! The example `two_hosts`: what it does, step by step.
//!
//! Reading order: `network` (what lies between the hosts), this module.

mod network;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::measure::worker::WorkError;
use crate::programs::{Program, Programs, check};
use network::{HOSTS, Network};

/// All of it is over by then.
const DEADLINE: Duration = Duration::from_secs(55);
/// Readings a second.
const RATE: &str = "50";
/// Readings that must arrive after each step.
const SOME: usize = 10;

/// Shows it, a line on standard output for each step.
///
/// # Errors
///
/// The first thing that did not hold.
pub fn show(programs: &Programs, loopback: bool) -> Result<(), WorkError> {
    let stage = Stage::set(programs, loopback)?;
    let mut a = stage.dispatcher(0)?;
    let listens = a.event("bridge_listens", stage.until)?;
    let listens = listens["address"].as_str().ok_or("the dispatcher did not say where it listens")?.to_owned();
    stage.network.is_listened_to(&listens);
    let mut b = stage.dispatcher(1)?;
    a.event("host_connected", stage.until)?;
    println!("connected: host a listens on {listens}, host b dials it");

    let mut mnode = stage.node(&programs.mnode, 0, &[])?;
    let mut publish = stage.node(&programs.mnode_publish, 1, &["--nodes", "1", "--rate", RATE])?;
    let mut heard = Heard::default();
    println!("heard on a: {}", heard.more(&mnode, stage.until)?);

    stage.network.cut()?;
    a.event("host_lost", stage.until)?;
    mnode.must_run()?;
    publish.must_run()?;
    println!("cut: a has lost b, mnode and mnode_publish know nothing of it");
    heard.all_so_far(&mnode)?;
    stage.network.mend()?;
    a.event("host_connected", stage.until)?;
    println!("back: {}", heard.more(&mnode, stage.until)?);

    b.kill()?;
    a.event("host_lost", stage.until)?;
    mnode.must_run()?;
    publish.must_run()?;
    println!("killed: the dispatcher of b, while mnode_publish publishes on");
    heard.all_so_far(&mnode)?;
    let mut b = stage.dispatcher(1)?;
    a.event("host_connected", stage.until)?;
    println!("back: {}", heard.more(&mnode, stage.until)?);

    let (readings, complaints) = mnode.end(stage.until)?;
    for program in [&mut publish, &mut a, &mut b] {
        program.end(stage.until)?;
    }
    readings.iter().try_for_each(|line| heard.take(line))?;
    let missed = heard.missed(&complaints)?;
    println!("held: {} readings arrived, in order and none twice; {missed} were missed", heard.numbers.len());
    Ok(())
}

/// Where it takes place.
struct Stage<'a> {
    programs: &'a Programs,
    network: Network,
    /// Sockets and keys.
    place: Place,
    until: Instant,
}

impl Stage<'_> {
    fn set(programs: &Programs, loopback: bool) -> Result<Stage<'_>, WorkError> {
        let place = Place::make()?;
        let network = Network::make(loopback)?;
        println!("link: {network}");
        if network.leaves_loopback() {
            for host in HOSTS {
                check(Command::new(&programs.nodeset).arg("keygen").arg(place.0.join(host)))?;
            }
        }
        Ok(Stage { programs, network, place, until: Instant::now() + DEADLINE })
    }

    fn socket(&self, host: usize) -> PathBuf {
        self.place.0.join(format!("{}.sock", HOSTS[host]))
    }

    /// The dispatcher of a host, serving. Host 1 dials host 0.
    fn dispatcher(&self, host: usize) -> Result<Program, WorkError> {
        let other = HOSTS[1 - host];
        let mut command = self.network.command(host, &self.programs.nodeset);
        command.args(["dispatcher", "--log-format", "json", "--host-name", HOSTS[host], "--socket"]);
        command.arg(self.socket(host));
        match host {
            0 => command.args(["--listen", self.network.listen(), "--peer", other]),
            _ => command.arg("--peer").arg(format!("{other}={}", self.network.dial())),
        };
        if self.network.leaves_loopback() {
            let key = self.place.0.join(HOSTS[host]);
            let public = self.place.0.join(format!("{other}.pub"));
            command.arg("--key").arg(key).arg("--peer-key").arg(format!("{other}={}", public.display()));
        }
        let mut dispatcher = Program::start(&format!("the dispatcher of {}", HOSTS[host]), command)?;
        if host == 1 {
            dispatcher.event("serving", self.until)?;
        }
        Ok(dispatcher)
    }

    /// A program that is a node of that host.
    fn node(&self, program: &Path, host: usize, arguments: &[&str]) -> Result<Program, WorkError> {
        let mut command = self.network.command(host, program);
        command.args(arguments).args(["--no-embedded", "--dispatcher"]).arg(self.socket(host));
        Program::start(&program.file_name().unwrap_or_default().to_string_lossy(), command)
    }
}

/// The numbers of the readings that `mnode` printed.
#[derive(Default)]
struct Heard {
    numbers: Vec<u64>,
}

impl Heard {
    /// Some that were not printed yet; gives the first one.
    fn more(&mut self, mnode: &Program, until: Instant) -> Result<String, WorkError> {
        self.all_so_far(mnode)?;
        let first = mnode.line(until)?;
        self.take(&first)?;
        for _ in 1..SOME {
            self.take(&mnode.line(until)?)?;
        }
        Ok(first)
    }

    fn all_so_far(&mut self, mnode: &Program) -> Result<(), WorkError> {
        mnode.lines_so_far().iter().try_for_each(|line| self.take(line))
    }

    fn take(&mut self, line: &str) -> Result<(), WorkError> {
        let number = line.split_once('#').and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        let number = number.ok_or_else(|| format!("mnode printed {line:?}, which is no reading"))?;
        if let Some(last) = self.numbers.last().filter(|&&last| last >= number) {
            return Err(format!("reading {number} came after reading {last}").into());
        }
        self.numbers.push(number);
        Ok(())
    }

    /// How many are missing, of which `mnode` must have said each.
    fn missed(&self, complaints: &[String]) -> Result<u64, WorkError> {
        let missing: u64 = self.numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
        let mut said = 0;
        for line in complaints {
            let count = line.strip_prefix("mnode: ").and_then(|rest| rest.split_once(" messages of "));
            let count = count.and_then(|(count, _)| count.parse::<u64>().ok());
            said += count.ok_or_else(|| format!("mnode complained: {line}"))?;
        }
        if missing != said {
            return Err(format!("{missing} readings are missing, but mnode was told of {said}").into());
        }
        Ok(missing)
    }
}

/// A directory of its own, removed in the end.
struct Place(PathBuf);

impl Place {
    fn make() -> Result<Place, WorkError> {
        let place = std::env::temp_dir().join(format!("nodeset-two-hosts-{}", std::process::id()));
        fs::create_dir(&place).map_err(|error| format!("{} cannot be made: {error}", place.display()))?;
        Ok(Place(place))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left of it hurts nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}
