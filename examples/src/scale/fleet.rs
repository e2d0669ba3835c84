//! The dispatcher and all crews, seen by the parent.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nodeset::Listing;
use nodeset_bus::protocol::endpoint::{Endpoint, EndpointError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::cost::Cost;
use super::crew::{Answer, Order, Task};
use super::plan::{Plan, PlanError};
use crate::measure::control::Control;
use crate::measure::{Budget, Worker, WorkerError};

/// How long an order may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long the dispatcher may take to list its table.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScaleError {
    /// Give other numbers.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A process failed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The system refused something.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The socket's path is too long.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A count is not what it must be: this is what the program is there to find.
    #[error("{what}: {found}, not {expected}")]
    Count {
        /// Of what.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it must be.
        expected: u64,
    },
    /// Something did not become as it must be.
    #[error("{what} after {seconds} s: {found}")]
    Late {
        /// What did not happen.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// What is there instead.
        found: String,
    },
}

/// Fails unless both are the same.
///
/// # Errors
///
/// [`ScaleError::Count`].
pub fn must_be(what: &'static str, found: u64, expected: u64) -> Result<(), ScaleError> {
    if found == expected { Ok(()) } else { Err(ScaleError::Count { what, found, expected }) }
}

/// Says what the system refused.
pub(super) fn doing(doing: &'static str) -> impl FnOnce(io::Error) -> ScaleError {
    move |source| ScaleError::Io { doing, source }
}

struct Crew {
    worker: Worker,
    channel: Control,
}

/// A dispatcher and its crews. Dropped, all its processes end.
pub struct Fleet {
    socket: PathBuf,
    plan: Plan,
    dispatcher: Option<Worker>,
    crews: Vec<Crew>,
}

impl Fleet {
    /// Starts the processes; no node is there yet.
    ///
    /// # Errors
    ///
    /// When one cannot be started.
    pub fn start(socket: &Path, plan: Plan) -> Result<Fleet, ScaleError> {
        plan.check()?;
        let mut fleet = Fleet { socket: socket.to_owned(), plan, dispatcher: None, crews: Vec::new() };
        fleet.start_dispatcher()?;
        for process in 0..plan.processes {
            let crew = fleet.start_crew(process)?;
            fleet.crews.push(crew);
        }
        let mut workers: Vec<_> = fleet.crews.iter_mut().map(|crew| &mut crew.worker).collect();
        Worker::await_all_ready(&mut workers, DEADLINE)?;
        for worker in workers {
            // Until its channel is closed.
            worker.run(Budget::Messages(0))?;
        }
        Ok(fleet)
    }

    fn start_crew(&self, process: usize) -> Result<Crew, ScaleError> {
        let (channel, theirs) = Control::pair().map_err(doing("make a channel to a crew"))?;
        let task = Task::Crew { socket: self.socket.clone(), plan: self.plan, process };
        let worker = Worker::start(&format!("crew {process}"), None, &task, &[theirs.as_fd()])?;
        Ok(Crew { worker, channel })
    }

    /// Starts a dispatcher and waits until it listens.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn start_dispatcher(&mut self) -> Result<(), ScaleError> {
        let task = Task::Dispatcher { socket: self.socket.clone() };
        let mut worker = Worker::start("dispatcher", None, &task, &[])?;
        worker.await_ready(DEADLINE)?;
        self.dispatcher = Some(worker);
        Ok(())
    }

    /// Kills the dispatcher (SIGKILL).
    pub fn kill_dispatcher(&mut self) {
        self.dispatcher = None;
    }

    /// Where the dispatcher listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who publishes what to whom.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives all crews an order, and waits for all answers.
    ///
    /// # Errors
    ///
    /// When one fails or takes too long.
    pub fn ask(&mut self, order: &Order) -> Result<Vec<Answer>, ScaleError> {
        self.tell(order)?;
        self.answers()
    }

    /// As [`ask`](Fleet::ask), where each answers with a count: their sum.
    ///
    /// # Errors
    ///
    /// As [`ask`](Fleet::ask).
    pub fn count(&mut self, order: &Order) -> Result<u64, ScaleError> {
        Ok(self.ask(order)?.iter().map(|answer| if let Answer::Count(count) = answer { *count } else { 0 }).sum())
    }

    /// Gives all crews an order; [`answers`](Fleet::answers) waits for the answers.
    ///
    /// # Errors
    ///
    /// When one is gone.
    pub fn tell(&mut self, order: &Order) -> Result<(), ScaleError> {
        for crew in &mut self.crews {
            if let Err(error) = crew.channel.send(order, &[]) {
                // What it said last says more.
                crew.worker.check()?;
                return Err(doing("speak to a crew")(error));
            }
        }
        Ok(())
    }

    /// One answer of each crew.
    ///
    /// # Errors
    ///
    /// When one fails or takes too long.
    pub fn answers(&mut self) -> Result<Vec<Answer>, ScaleError> {
        let deadline = Instant::now() + DEADLINE;
        self.crews.iter_mut().map(|crew| crew.answer(deadline)).collect()
    }

    /// What the crews' processes hold.
    ///
    /// # Errors
    ///
    /// When `/proc` does not say.
    pub fn cost_of_crews(&self) -> Result<Vec<Cost>, ScaleError> {
        self.crews
            .iter()
            .map(|crew| Cost::of(crew.worker.pid()).map_err(doing("look at a crew's process in /proc")))
            .collect()
    }

    /// What the dispatcher's process holds.
    ///
    /// # Errors
    ///
    /// When `/proc` does not say, or there is none.
    pub fn cost_of_dispatcher(&self) -> Result<Cost, ScaleError> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let cost = self.dispatcher.as_ref().ok_or_else(gone).and_then(|worker| Cost::of(worker.pid()));
        cost.map_err(doing("look at the dispatcher's process in /proc"))
    }

    /// The dispatcher's table, in an order of its own; `None` while no dispatcher answers.
    ///
    /// # Errors
    ///
    /// When the socket's path is too long.
    pub fn table(&self) -> Result<Option<Vec<String>>, ScaleError> {
        let endpoint = Endpoint::resolve("scale", Some(&self.socket))?;
        let Ok(table) = nodeset::list(&endpoint, LIST_TIMEOUT) else { return Ok(None) };
        let mut rows: Vec<String> = table.iter().map(row).collect();
        rows.sort_unstable();
        Ok(Some(rows))
    }
}

/// What must be the same before and after.
fn row(listing: &Listing) -> String {
    match listing {
        Listing::Node { state, .. } => format!("node {} of process {}", state.name, state.pid),
        Listing::Publication { node, topic, links, .. } => format!("{topic}: {node} publishes, {links} links"),
        Listing::Subscription { node, topic, links, .. } => format!("{topic}: {node} subscribes, {links} links"),
    }
}

impl Crew {
    fn answer(&mut self, deadline: Instant) -> Result<Answer, ScaleError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    self.worker.check()?;
                    let found = "it is still at it".to_owned();
                    return Err(ScaleError::Late { what: "no answer of a crew", seconds: DEADLINE.as_secs(), found });
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(doing("wait for a crew")(errno.into())),
            }
            match self.channel.try_receive::<Answer>() {
                Ok(Some((answer, _))) => return Ok(answer),
                Ok(None) => return Err(self.last_words()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(doing("hear a crew")(error)),
            }
        }
    }

    /// It closed its channel: it says why on the other one, or has died.
    fn last_words(&mut self) -> ScaleError {
        match Worker::reports(&mut [&mut self.worker], DEADLINE) {
            Err(error) => error.into(),
            Ok(_) => doing("hear a crew")(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}
