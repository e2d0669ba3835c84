//! Processes that measure: this program, started again with a hidden first argument.
//!
//! The parent tells a worker its task, then any number of runs; the worker reports after each. A worker dies with its
//! parent, and a parent that waits for one worker learns at once that any of them died: no run hangs.

use std::error::Error;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::control::Control;
use super::{Budget, Report};

/// The hidden first argument.
pub const WORKER: &str = "worker";

/// Why a measurement has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A worker could not be started or spoken to. Look at the limits of processes and descriptors (`ulimit -a`).
    #[error("cannot {doing}: {source}")]
    Io {
        /// What failed.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A worker ended in the middle of its work: killed from outside, or a bug. Run again.
    #[error("the {name} process ended before its work was done ({how}); run it again")]
    Died {
        /// Which one.
        name: String,
        /// Its exit code or signal.
        how: String,
    },
    /// A worker said why it cannot go on.
    #[error("the {name} process: {text}")]
    Failed {
        /// Which one.
        name: String,
        /// In its own words.
        text: String,
    },
    /// A worker lives and does not come to an end.
    #[error(
        "the {name} process has not finished after {seconds} s; is the machine busy or the core taken? Try fewer messages or --seconds"
    )]
    Stuck {
        /// Which one.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Memory for a limit could not be had.
    #[error(transparent)]
    Memory(#[from] nodeset_bus::memory::SegmentError),
}

fn doing(doing: &'static str) -> impl FnOnce(io::Error) -> WorkerError {
    move |source| WorkerError::Io { doing, source }
}

/// The two cores that a pair runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// For the end that sends first; `None` leaves it to the scheduler.
    pub first: Option<usize>,
    /// For the other end.
    pub second: Option<usize>,
    /// How many this process may use.
    pub available: usize,
}

impl Cores {
    /// The first two that this process may use.
    pub fn of_this_process() -> Cores {
        let cores = nodeset_bus::sys::available_cores();
        Cores { first: cores.first().copied(), second: cores.get(1).or(cores.first()).copied(), available: cores.len() }
    }

    /// Whether both ends can run at the same time, without which busy waiting measures the scheduler.
    pub fn are_two(&self) -> bool {
        self.available >= 2
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Assignment<T> {
    core: Option<usize>,
    parent: u32,
    task: T,
}

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Run(Budget),
    Finish { messages: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready,
    Done(Report),
    Failed(String),
}

/// A worker, seen by its parent. Dropping it ends the process.
pub struct Worker {
    name: String,
    control: Control,
    child: Child,
    /// It has said that it is ready.
    ready: bool,
}

impl Worker {
    /// Starts this program again, pinned to `core`, with a task and descriptors for it.
    ///
    /// The worker dies with the *thread* that calls this: call it from the main thread, or one that stays.
    pub fn start<T: Serialize>(
        name: &str,
        core: Option<usize>,
        task: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Worker, WorkerError> {
        let (ours, theirs) = Control::pair().map_err(doing("make a socket pair for a worker"))?;
        let child = Command::new("/proc/self/exe")
            .arg(WORKER)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(doing("start this program again as a worker"))?;
        let worker = Worker { name: name.to_owned(), control: ours, child, ready: false };
        let assignment = Assignment { core, parent: std::process::id(), task };
        worker.control.send(&assignment, descriptors).map_err(doing("tell a worker its task"))?;
        Ok(worker)
    }

    /// Waits until the worker has everything it needs for its first run.
    pub fn await_ready(&mut self, deadline: Duration) -> Result<(), WorkerError> {
        Worker::await_all_ready(&mut [self], deadline)
    }

    /// Learns, without waiting, whether it has failed or died.
    ///
    /// # Errors
    ///
    /// It has.
    pub fn check(&mut self) -> Result<(), WorkerError> {
        while let Some(answer) = self.answer()? {
            self.ready |= matches!(answer, Answer::Ready);
        }
        Ok(())
    }

    /// Waits until it is ready, whether or not [`check`](Worker::check) has heard it say so.
    ///
    /// # Errors
    ///
    /// It failed, died, or is not ready in time.
    pub fn await_checked(&mut self, deadline: Duration) -> Result<(), WorkerError> {
        let started = Instant::now();
        loop {
            self.check()?;
            if self.ready {
                return Ok(());
            }
            let Some(left) = deadline.checked_sub(started.elapsed()) else {
                return Err(WorkerError::Stuck { name: self.name.clone(), seconds: deadline.as_secs() });
            };
            Worker::wait_readable(&[self], left)?;
        }
    }

    /// Waits until all have what they need; one that dies meanwhile ends the wait.
    pub fn await_all_ready(workers: &mut [&mut Worker], deadline: Duration) -> Result<(), WorkerError> {
        Worker::answers(workers, deadline, |answer| matches!(answer, Answer::Ready).then_some(())).map(drop)
    }

    /// Starts a run; [`reports`](Worker::reports) waits for its end.
    pub fn run(&mut self, budget: Budget) -> Result<(), WorkerError> {
        self.order(&Order::Run(budget))
    }

    /// Tells a worker that the other side sent `messages` in this run and will send no more.
    pub fn finish(&mut self, messages: u64) -> Result<(), WorkerError> {
        self.order(&Order::Finish { messages })
    }

    fn order(&mut self, order: &Order) -> Result<(), WorkerError> {
        match self.control.send(order, &[]) {
            Ok(()) => Ok(()),
            // What it said last says more than that it is gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.last_words()),
            Err(error) => Err(doing("speak to a worker")(error)),
        }
    }

    /// Waits for the report of each of these workers, in their order. `also` are watched meanwhile: a pair of which
    /// one end is dead has no other end to wait for.
    pub fn reports(workers: &mut [&mut Worker], deadline: Duration) -> Result<Vec<Report>, WorkerError> {
        Worker::answers(workers, deadline, |answer| match answer {
            Answer::Done(report) => Some(report),
            _ => None,
        })
    }

    /// One answer of each, as `wanted` takes it.
    fn answers<A>(
        workers: &mut [&mut Worker],
        deadline: Duration,
        wanted: impl Fn(Answer) -> Option<A>,
    ) -> Result<Vec<A>, WorkerError> {
        let started = Instant::now();
        let mut answers: Vec<Option<A>> = workers.iter().map(|_| None).collect();
        while let Some(missing) = answers.iter().position(Option::is_none) {
            let Some(left) = deadline.checked_sub(started.elapsed()) else {
                return Err(WorkerError::Stuck { name: workers[missing].name.clone(), seconds: deadline.as_secs() });
            };
            let ready = Worker::wait_readable(workers, left)?;
            for (at, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                if let Some(answer) = workers[at].answer()? {
                    match wanted(answer) {
                        Some(answer) if answers[at].is_none() => answers[at] = Some(answer),
                        _ => {
                            let text = "said something that was not its turn (a bug in this program)".to_owned();
                            return Err(WorkerError::Failed { name: workers[at].name.clone(), text });
                        }
                    }
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Which of them said something or hung up; none after `left`.
    fn wait_readable(workers: &[&mut Worker], left: Duration) -> Result<Vec<bool>, WorkerError> {
        let mut polled: Vec<PollFd<'_>> =
            workers.iter().map(|worker| PollFd::new(&worker.control, PollFlags::IN)).collect();
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut polled, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(doing("wait for the workers")(errno.into())),
        }
        Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect())
    }

    fn answer(&mut self) -> Result<Option<Answer>, WorkerError> {
        match self.control.try_receive::<Answer>() {
            Ok(Some((Answer::Failed(text), _))) => Err(WorkerError::Failed { name: self.name.clone(), text }),
            Ok(Some((answer, _))) => Ok(Some(answer)),
            Ok(None) => Err(self.died()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(doing("hear a worker")(error)),
        }
    }

    fn last_words(&mut self) -> WorkerError {
        loop {
            match self.answer() {
                Ok(Some(_)) => {}
                Ok(None) => return self.died(),
                Err(error) => return error,
            }
        }
    }

    fn died(&mut self) -> WorkerError {
        // Its socket is closed, so it is about to end, or it closed its standard input, which ends it here.
        let patience = Instant::now() + Duration::from_secs(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < patience => std::thread::yield_now(),
                _ => break None,
            }
        };
        WorkerError::Died {
            name: self.name.clone(),
            how: status.map_or("still there, but silent".to_owned(), describe),
        }
    }

    /// Its process, for tests and tools.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be in the middle of a spin that nothing else ends; its memory goes with it. Both fail only when it is
        // gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Why a worker cannot do its work, in words for its parent.
pub type WorkError = Box<dyn Error + Send + Sync>;

/// What a worker does in each run.
pub trait Role {
    /// Does one run and says what it saw. `finish` tells when the other side is known to be done.
    fn run(&mut self, budget: Budget, finish: &Finish<'_>) -> Result<Report, WorkError>;
}

/// How a worker hears, in the middle of a run, that the other side is done.
pub struct Finish<'a> {
    control: &'a Control,
}

impl Finish<'_> {
    /// How many messages the other side sent, once it is done; a system call.
    pub fn messages(&self) -> Result<Option<u64>, WorkError> {
        match self.control.try_receive::<Order>() {
            Ok(Some((Order::Finish { messages }, _))) => Ok(Some(messages)),
            Ok(Some((Order::Run(_), _))) => Err("told to run in the middle of a run".into()),
            Ok(None) => Err("the parent is gone".into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether this process was started as a worker: then `main` calls [`work`] and nothing else.
pub fn is_worker() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == WORKER)
}

/// A worker's whole life: takes its task, lets `prepare` make a role of it, then runs as often as it is told.
/// Whatever goes wrong is said to the parent.
pub fn work<T: DeserializeOwned>(
    prepare: impl FnOnce(T, Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError>,
) -> Result<(), WorkError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let control = Control::of_this_worker()?;
    let Some((assignment, descriptors)) = control.receive::<Assignment<T>>().map_err(|error| {
        format!("`{WORKER}` is how this program starts itself, not a word for its users; see --help ({error})")
    })?
    else {
        return Ok(());
    };
    // The signal above is not sent for a parent that died before it was asked for.
    if rustix::process::getppid() != Pid::from_raw(assignment.parent as i32) {
        return Ok(());
    }
    let outcome = obey(&control, assignment, descriptors, prepare);
    if let Err(error) = &outcome {
        // The parent may be gone, then nobody wants to know.
        let _ = control.send(&Answer::Failed(error.to_string()), &[]);
    }
    Ok(())
}

fn obey<T>(
    control: &Control,
    assignment: Assignment<T>,
    descriptors: Vec<OwnedFd>,
    prepare: impl FnOnce(T, Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError>,
) -> Result<(), WorkError> {
    if let Some(core) = assignment.core {
        nodeset_bus::sys::pin_to_core(core)?;
    }
    let mut role = prepare(assignment.task, descriptors)?;
    control.send(&Answer::Ready, &[])?;
    while let Some((order, _)) = control.receive::<Order>()? {
        match order {
            Order::Run(budget) => {
                let report = role.run(budget, &Finish { control })?;
                control.send(&Answer::Done(report), &[])?;
            }
            // Said to a run that was over before it heard.
            Order::Finish { .. } => {}
        }
    }
    Ok(())
}
