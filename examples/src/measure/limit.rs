//! The three limits, each as a pair of workers that runs as often as it is told.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::line::{LineEcho, LinePing};
use super::shared::Shared;
use super::stream::{StreamReader, StreamWriter};
use super::wakeup::{Bells, WakeEcho, WakePing, bell};
use super::worker::{Cores, Role, WorkError, Worker, WorkerError};
use super::{Budget, Percentiles, Report};

/// How long starting a worker may take on a machine that is busy with other things.
pub const START_DEADLINE: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// One bounced cache line: latencies.
    Line,
    /// A byte stream: bytes a second.
    Stream,
    /// eventfd and epoll: latencies.
    Wakeup,
}

/// What one of the two workers does, as its parent tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each names its role")]
pub enum LimitTask {
    LinePing,
    LineEcho,
    StreamWriter,
    StreamReader,
    WakePing,
    WakeEcho,
}

impl LimitTask {
    /// Builds the role, in the worker, from the descriptors that came with the task.
    pub fn prepare(self, descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or("a descriptor is missing; is `ulimit -n` very low?");
        Ok(match self {
            LimitTask::LinePing => Box::new(LinePing::new(Shared::open(next()?)?)),
            LimitTask::LineEcho => Box::new(LineEcho::new(Shared::open(next()?)?)),
            LimitTask::StreamWriter => Box::new(StreamWriter::new(&Shared::open(next()?)?)?),
            LimitTask::StreamReader => Box::new(StreamReader::new(&Shared::open(next()?)?)?),
            LimitTask::WakePing => Box::new(WakePing::new(Bells::new(next()?, next()?)?)),
            LimitTask::WakeEcho => Box::new(WakeEcho::new(Bells::new(next()?, next()?)?)),
        })
    }
}

/// What a limit was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitFigure {
    /// Round trips or batches.
    pub messages: u64,
    /// How long it ran.
    pub seconds: f64,
    /// Of [`Limit::Line`] and [`Limit::Wakeup`].
    pub latency: Option<Percentiles>,
    /// Of [`Limit::Stream`].
    pub bytes_per_s: Option<f64>,
}

impl LimitFigure {
    /// The one number that says how fast the machine is just now: nanoseconds (p50) or bytes a second.
    pub fn headline(&self) -> f64 {
        self.bytes_per_s.or(self.latency.map(|latency| latency.p50_ns)).unwrap_or(f64::NAN)
    }

    /// By how much two measurements of one limit differ, as a part of their mean.
    pub fn moved(&self, other: &LimitFigure) -> f64 {
        let (a, b) = (self.headline(), other.headline());
        (a - b).abs() / ((a + b) / 2.0)
    }
}

/// Two processes that measure one limit.
pub struct LimitPair {
    limit: Limit,
    first: Worker,
    second: Worker,
}

impl LimitPair {
    /// Starts both and waits until they are ready; `task` wraps what they are told for the program's workers.
    pub fn start<T: Serialize>(
        limit: Limit,
        cores: Cores,
        task: impl Fn(LimitTask) -> T,
    ) -> Result<LimitPair, WorkerError> {
        let (mut first, mut second) = match limit {
            Limit::Line | Limit::Stream => {
                let (sends, receives, names) = match limit {
                    Limit::Line => {
                        (LimitTask::LinePing, LimitTask::LineEcho, ["limit_line first", "limit_line second"])
                    }
                    _ => (
                        LimitTask::StreamWriter,
                        LimitTask::StreamReader,
                        ["limit_stream writing", "limit_stream reading"],
                    ),
                };
                let shared = Shared::create()?;
                (
                    Worker::start(names[0], cores.first, &task(sends), &[shared.fd()])?,
                    Worker::start(names[1], cores.second, &task(receives), &[shared.fd()])?,
                )
            }
            Limit::Wakeup => {
                let bells = || bell().map_err(|source| WorkerError::Io { doing: "make an eventfd", source });
                let (a, b) = (bells()?, bells()?);
                (
                    Worker::start(
                        "limit_wakeup first",
                        cores.first,
                        &task(LimitTask::WakePing),
                        &[a.as_fd(), b.as_fd()],
                    )?,
                    Worker::start(
                        "limit_wakeup second",
                        cores.second,
                        &task(LimitTask::WakeEcho),
                        &[b.as_fd(), a.as_fd()],
                    )?,
                )
            }
        };
        Worker::await_all_ready(&mut [&mut first, &mut second], START_DEADLINE)?;
        Ok(LimitPair { limit, first, second })
    }

    /// Measures once. The budget counts round trips, or batches of a stream.
    pub fn run(&mut self, budget: Budget, deadline: Duration) -> Result<LimitFigure, WorkerError> {
        // The receiving end first: the other one begins at once.
        self.second.run(budget)?;
        self.first.run(budget)?;
        let reports = Worker::reports(&mut [&mut self.first, &mut self.second], deadline)?;
        Ok(self.figure(&reports[0], &reports[1]))
    }

    fn figure(&self, first: &Report, second: &Report) -> LimitFigure {
        let ended_ns = match self.limit {
            Limit::Stream => second.ended_ns,
            Limit::Line | Limit::Wakeup => first.ended_ns,
        };
        let seconds = ended_ns.saturating_sub(first.started_ns) as f64 / 1e9;
        let bytes_per_s = (self.limit == Limit::Stream).then(|| second.bytes as f64 / seconds);
        LimitFigure { messages: first.messages, seconds, latency: first.latency, bytes_per_s }
    }
}
