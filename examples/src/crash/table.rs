//! Those who live, and the table of what they saw.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nodeset::{Node, Publisher, Subscriber};
use serde::Serialize;

use super::points::{Passed, Plan, Step};
use super::roles::{self, BLOCK_LEN, BLOCKS, CYCLE, DEADLINE, DYING, LIVING, Role, Task};
use crate::measure::worker::WorkError;
use crate::soak::ledger::Ledger;

/// The hidden first argument of the processes that die.
pub const VICTIM: &str = "victim";
/// Publishers or subscribers of a process that lives to its end.
const CYCLES: u64 = 3;
/// SIGKILL, as `WIFSIGNALED` has it.
const KILLED: i32 = 9;
/// Runs in which a point has to be reached once.
const TRIES: u32 = 20;
/// Messages that must go well after a death.
const AFTERWARDS: u64 = 3 * CYCLE;

/// Functions of the bus that each of them must have come by: a table without them would say little.
const MUST: [(Role, &[&str]); 3] = [
    (
        Role::Publisher,
        &["append", "write", "move_to", "reclaim", "arm_room", "disarm_room", "take", "ring", "change", "finish"],
    ),
    (Role::Reliable, &["enter_newest", "enter", "go_to", "pin", "give_back", "leave", "want", "set_asleep", "ring"]),
    (Role::Lossy, &["enter", "pin", "give_back", "leave", "want", "set_asleep"]),
];

/// One row.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Who died.
    pub role: &'static str,
    /// In which function of the bus.
    pub function: String,
    /// Where.
    pub step: Step,
    /// At which passage.
    pub pass: u64,
    /// What did not hold; nothing if all did.
    pub failure: Option<String>,
}

/// Makes the table, and calls `each` with every row.
///
/// # Errors
///
/// When it cannot be begun.
pub fn make(mut each: impl FnMut(&Row)) -> Result<(), WorkError> {
    let place = Place::new()?;
    for (role, must) in MUST {
        let mut survivors = Survivors::new(&place.0, role)?;
        for Passed { step, times } in survivors.record_all(must)? {
            // The first passage is where it begins, the middle one in full traffic.
            let middle = (times / 2).max(1);
            for pass in if middle > 1 { vec![1, middle] } else { vec![1] } {
                let mut pass = pass;
                let failure = survivors.outlive(&step, &mut pass).err().map(|error| error.to_string());
                let row = Row { role: role.name(), function: step.function(), step: step.clone(), pass, failure };
                each(&row);
                if row.failure.is_some() {
                    // What is left of that run must not be taken for the next one's.
                    drop(survivors);
                    survivors = Survivors::new(&place.0, role)?;
                }
            }
        }
    }
    Ok(())
}

/// A folder of this run's own.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Place, WorkError> {
        let path = std::env::temp_dir().join(format!("nodeset-crash-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Place(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left of it harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everybody in this process: the dispatcher, and the other ends of the one who dies.
struct Survivors {
    role: Role,
    socket: PathBuf,
    ledger: Ledger,
    ends: Ends,
    /// Descriptors of this process while nobody else is there.
    descriptors: usize,
}

/// The other ends.
enum Ends {
    /// Of a publisher.
    Subscribers { reliable: Box<Reader>, lossy: Box<Reader>, _nodes: [Node; 2] },
    /// Of a subscriber: its publisher, and another subscriber of that one.
    Publisher { publisher: Box<Publisher<[u8]>>, healthy: Box<Subscriber<[u8]>>, _nodes: [Node; 2] },
}

/// A subscriber of the dying publisher.
struct Reader {
    subscriber: Subscriber<[u8]>,
    /// Number of the next message, by cycle.
    due: BTreeMap<u64, u64>,
    missed: u64,
}

impl Reader {
    /// Takes a message, if one comes in time.
    fn take(&mut self, within: Duration) -> Result<bool, WorkError> {
        let Some(sample) = self.subscriber.receive_timeout(within)? else { return Ok(false) };
        let number = sample.sequence();
        let cycle = roles::check(&sample, number)?;
        if sample.tag() != roles::tag(number) {
            return Err(
                format!("message {number} came with the tag {:?}, not {:?}", sample.tag(), roles::tag(number)).into()
            );
        }
        let due = self.due.entry(cycle).or_default();
        if number != *due + sample.missed_before() {
            return Err(format!(
                "message {number} of cycle {cycle} came where {due} was due, {} counted as missed",
                sample.missed_before()
            )
            .into());
        }
        self.missed += sample.missed_before();
        *due = number + 1;
        Ok(true)
    }
}

impl Survivors {
    fn new(place: &Path, role: Role) -> Result<Survivors, WorkError> {
        let socket = place.join("crash.sock");
        let node = |name| Node::builder(name).socket(&socket).embedded().standby(Duration::ZERO).connect();
        let nodes = [node("survivor")?, node("other-survivor")?];
        let ends = if role == Role::Publisher {
            let reader = |subscriber| Reader { subscriber, due: BTreeMap::new(), missed: 0 };
            let reliable = Box::new(reader(nodes[0].subscriber::<[u8]>(DYING).reliable().create()?));
            let lossy = Box::new(reader(nodes[1].subscriber::<[u8]>(DYING).depth(16).create()?));
            Ends::Subscribers { reliable, lossy, _nodes: nodes }
        } else {
            let publisher = nodes[0].publisher::<[u8]>(LIVING).block_len(BLOCK_LEN).blocks(BLOCKS).deadline(DEADLINE);
            let publisher = Box::new(publisher.create()?);
            let healthy = Box::new(nodes[1].subscriber::<[u8]>(LIVING).reliable().create()?);
            Ends::Publisher { publisher, healthy, _nodes: nodes }
        };
        let ledger = Ledger::create()?;
        let mut survivors = Survivors { role, socket, ledger, ends, descriptors: 0 };
        // Whatever is made once and kept is there after the first of them.
        survivors.live_with(Plan::Live)?;
        survivors.descriptors = settled_descriptors()?;
        Ok(survivors)
    }

    /// The points that such a process passes.
    fn record(&mut self) -> Result<Vec<Passed>, WorkError> {
        let said = self.live_with(Plan::Record)?;
        Ok(serde_json::from_str(&said)?)
    }

    /// The same, with each of these functions among them: who sleeps or waits when is not the same in each run.
    fn record_all(&mut self, must: &[&str]) -> Result<Vec<Passed>, WorkError> {
        let mut lacking = "";
        for _ in 0..TRIES {
            let passed = self.record()?;
            if passed.is_empty() {
                return Err("this build has no points: build it with --cfg nodeset_failpoints".into());
            }
            match must.iter().find(|function| !passed.iter().any(|it| it.step.function() == **function)) {
                Some(function) => lacking = function,
                None => return Ok(passed),
            }
        }
        Err(format!("a {} never came by `{lacking}`: nothing can be said of it", self.role.name()).into())
    }

    /// One that lives to its end: it works, and so does everybody else. Returns what it said.
    fn live_with(&mut self, plan: Plan) -> Result<String, WorkError> {
        let mut child = self.start(plan, CYCLES)?;
        let status = self.run_beside(&mut child)?;
        let mut said = String::new();
        child.stdout.take().ok_or("it has no output")?.read_to_string(&mut said)?;
        if !status.success() {
            return Err(format!("a {} that nobody killed ended with {status}", self.role.name()).into());
        }
        self.settle(CYCLES)?;
        Ok(said)
    }

    /// One that dies there, then one that takes its place. How often a point is passed may depend on who slept when: one that
    /// is not reached is tried again at an earlier passage.
    fn outlive(&mut self, step: &Step, pass: &mut u64) -> Result<(), WorkError> {
        for _ in 0..TRIES {
            let mut child = self.start(Plan::Die { step: step.clone(), pass: *pass }, 2 * CYCLES)?;
            let status = self.run_beside(&mut child)?;
            // With its pipe.
            drop(child);
            self.settle(2 * CYCLES)?;
            if status.signal() == Some(KILLED) {
                self.live_with(Plan::Live)?;
                return self.wait_for_descriptors();
            }
            if !status.success() {
                return Err(format!("the process ended otherwise, with {status}").into());
            }
            *pass = (*pass / 2).max(1);
        }
        Err(format!("it was never reached in {TRIES} runs").into())
    }

    fn start(&mut self, plan: Plan, cycles: u64) -> Result<Child, WorkError> {
        (0..2 * CYCLES).for_each(|cycle| self.ledger.set(cycle, 0));
        if let Ends::Subscribers { reliable, lossy, .. } = &mut self.ends {
            reliable.due.clear();
            lossy.due.clear();
        }
        let ledger = format!("/proc/{}/fd/{}", std::process::id(), self.ledger.fd().as_fd().as_raw_fd());
        let task = Task { role: self.role, socket: self.socket.clone(), ledger: ledger.into(), plan, cycles };
        let child = Command::new(std::env::current_exe()?)
            .args([VICTIM, &serde_json::to_string(&task)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(child)
    }

    /// Does the other ends' part until the child is gone.
    fn run_beside(&mut self, child: &mut Child) -> Result<ExitStatus, WorkError> {
        let give_up = Instant::now() + 2 * DEADLINE;
        let mut round = 0_u64;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > give_up {
                child.kill()?;
                child.wait()?;
                return Err("everybody waited for everybody: it neither died nor ended".into());
            }
            round += 1;
            self.turn(round)?;
        }
    }

    /// A little of the other ends' part.
    fn turn(&mut self, round: u64) -> Result<(), WorkError> {
        match &mut self.ends {
            Ends::Subscribers { reliable, lossy, .. } => {
                // Now and then the publisher has to wait for room.
                if round % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(3));
                }
                reliable.take(Duration::from_millis(1))?;
                lossy.take(Duration::ZERO)?;
            }
            Ends::Publisher { publisher, healthy, .. } => {
                // Now and then the subscribers fall asleep.
                if round % 60 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                exchange(publisher, healthy)?;
            }
        }
        Ok(())
    }

    /// It is gone: what it left is complete, and everybody goes on.
    fn settle(&mut self, cycles: u64) -> Result<(), WorkError> {
        match &mut self.ends {
            Ends::Subscribers { reliable, lossy, .. } => {
                let give_up = Instant::now() + DEADLINE;
                for reader in [&mut *reliable, &mut *lossy] {
                    while reader.take(Duration::ZERO)? || reader.subscriber.publishers() > 0 {
                        if Instant::now() > give_up {
                            return Err("the end of a dead publisher was not learned".into());
                        }
                    }
                }
                if reliable.missed > 0 {
                    return Err(format!("a reliable subscriber missed {}", reliable.missed).into());
                }
                for cycle in 0..cycles {
                    let committed = self.ledger.committed(cycle);
                    let came = reliable.due.get(&cycle).copied().unwrap_or(0);
                    // It may have died between a commit and its entry in the ledger.
                    if came != committed && came != committed + 1 {
                        return Err(format!("cycle {cycle}: {committed} were committed, {came} came").into());
                    }
                }
            }
            Ends::Publisher { publisher, healthy, .. } => {
                for _ in 0..AFTERWARDS {
                    exchange(publisher, healthy)?;
                }
            }
        }
        Ok(())
    }

    /// Sessions of the dead end a little later than they do, and a publisher lets go of a link with a message that it publishes
    /// after that.
    fn wait_for_descriptors(&mut self) -> Result<(), WorkError> {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Ends::Publisher { publisher, healthy, .. } = &mut self.ends {
                exchange(publisher, healthy)?;
            }
            let found = descriptors()?;
            if found <= self.descriptors {
                return Ok(());
            }
            if Instant::now() > give_up {
                return Err(format!("{} descriptors before, {found} after", self.descriptors).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn descriptors() -> Result<usize, WorkError> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// One message to everybody; the healthy one must get it.
fn exchange(publisher: &mut Publisher<[u8]>, healthy: &mut Subscriber<[u8]>) -> Result<(), WorkError> {
    let number = publisher.next_sequence();
    let mut loan = publisher.loan_uninit(roles::len(number))?;
    roles::write(&mut loan, 0, number);
    loan.send();
    let sample = healthy.receive_timeout(DEADLINE)?.ok_or_else(|| format!("message {number} did not come"))?;
    if (sample.sequence(), sample.missed_before()) != (number, 0) {
        return Err(format!("message {} came where {number} was due", sample.sequence()).into());
    }
    roles::check(&sample, number)?;
    Ok(())
}

/// How many descriptors this process has, once that stays the same for a moment: what there was before anybody died.
fn settled_descriptors() -> Result<usize, WorkError> {
    let give_up = Instant::now() + DEADLINE;
    let (mut last, mut same) = (0, 0);
    while same < 10 {
        let now = descriptors()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if Instant::now() > give_up {
            return Err("descriptors come and go without an end".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(last)
}
