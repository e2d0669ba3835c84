//! Measures a row: several slices, each with the machine's limit right before and after it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::plan::{Item, Workload};
use super::report::Row;
use super::roles::{NodeTask, Part, Task};
use crate::measure::limit::LimitFigure;
use crate::measure::{Budget, Cores, Limit, LimitPair, Report, Worker, WorkerError};

/// Slices of a row; the one in the middle is reported.
const SLICES: usize = 3;
/// Slices tried before the row is called noisy.
const MOST_SLICES: usize = 9;
/// By how much a limit may move between before and after.
const MOVED: f64 = 0.15;
/// How long a limit is measured beside a slice.
const LIMIT_SLICE: Duration = Duration::from_millis(30);
/// How long starting a worker and its links may take on a machine that is busy with other things.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a slice may take beyond its budget.
const SLICE_DEADLINE: Duration = Duration::from_secs(60);
/// Processes over which subscriptions are spread.
const FAN_PROCESSES: usize = 4;

/// Why a row has no figures.
pub type RunError = WorkerError;

/// Measures rows.
pub struct Runner {
    socket: PathBuf,
    cores: Cores,
    limits: HashMap<Limit, LimitPair>,
    rows: u64,
    /// No slice is measured again after that.
    patient_until: Option<Instant>,
}

/// One slice.
struct Slice {
    row: Row,
    /// The limit's mean of before and after.
    limit: Option<f64>,
    moved: f64,
}

impl Runner {
    /// With the dispatcher at that socket. Slices whose limit moved are not measured again after `patient_until`.
    pub fn new(socket: PathBuf, cores: Cores, patient_until: Option<Instant>) -> Runner {
        Runner { socket, cores, limits: HashMap::new(), rows: 0, patient_until }
    }

    /// Measures a row.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn measure(&mut self, item: Item, budget: Budget) -> Result<Row, RunError> {
        if item.workload.is_limit() {
            return self.measure_limit(item.workload, budget);
        }
        let mut processes = self.start(item)?;
        let budget = match budget {
            Budget::Time(time) => Budget::Time(time / SLICES as u32),
            messages => messages,
        };
        let mut slices: Vec<Slice> = Vec::new();
        for tried in 1..=MOST_SLICES {
            let slice = self.slice(item, &mut processes, budget)?;
            slices.push(slice);
            let most =
                if self.patient_until.is_some_and(|until| Instant::now() > until) { SLICES } else { MOST_SLICES };
            if slices.iter().filter(|slice| slice.moved <= MOVED).count() == SLICES || tried >= most {
                break;
            }
        }
        let noisy = !slices.iter().any(|slice| slice.moved <= MOVED);
        slices.retain(|slice| noisy || slice.moved <= MOVED);
        slices.sort_by(|a, b| key(a).total_cmp(&key(b)));
        let middle = slices.swap_remove(slices.len() / 2);
        Ok(Row { noisy, ..middle.row })
    }

    fn measure_limit(&mut self, workload: Workload, budget: Budget) -> Result<Row, RunError> {
        let Some(limit) = workload.limit() else { return Ok(Row::default()) };
        let figure = self.limit(limit, budget)?;
        let LimitFigure { messages, seconds, latency, bytes_per_s } = figure;
        Ok(Row { workload: workload.word(), messages, seconds, latency, bytes_per_s, verified: true, ..Row::default() })
    }

    fn limit(&mut self, limit: Limit, budget: Budget) -> Result<LimitFigure, RunError> {
        let pair = match self.limits.entry(limit) {
            std::collections::hash_map::Entry::Occupied(pair) => pair.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(LimitPair::start(limit, self.cores, Task::Limit)?)
            }
        };
        pair.run(budget, SLICE_DEADLINE)
    }

    /// Starts a row's processes and waits until all are linked. A limit has none of these: see [`LimitPair`].
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn start(&mut self, item: Item) -> Result<Processes, RunError> {
        self.rows += 1;
        let Item { workload, size, subscribers, typed } = item;
        let prefix = format!("performance/{}", self.rows);
        let start = |name: &str, core, part| {
            let task = NodeTask { socket: self.socket.clone(), prefix: prefix.clone(), size, typed, part };
            Worker::start(&format!("{workload} {name}"), core, &Task::Node(task), &[])
        };
        let Cores { first, second, .. } = self.cores;
        let mut workers = Vec::new();
        match workload {
            Workload::Latency | Workload::Wakeup => {
                let asleep = workload == Workload::Wakeup;
                workers.push(start("ping", first, Part::Ping { asleep })?);
                workers.push(start("echo", second, Part::Echo { asleep })?);
            }
            Workload::Throughput => {
                workers.push(start("writer", first, Part::Writer { subscribers: 1 })?);
                workers.push(start("reader", second, Part::Reader)?);
            }
            Workload::Fanout => {
                workers.push(start("writer", first, Part::Writer { subscribers })?);
                for subscriptions in spread(subscribers) {
                    workers.push(start("idle subscribers", second, Part::Idle { subscriptions })?);
                }
            }
            Workload::FanoutRead => {
                workers.push(start("writer", first, Part::Writer { subscribers })?);
                for subscriptions in spread(subscribers) {
                    workers.push(start("readers", second, Part::Readers { subscriptions })?);
                }
            }
            Workload::LimitLine | Workload::LimitStream | Workload::LimitWakeup => {}
        }
        let mut all: Vec<_> = workers.iter_mut().collect();
        Worker::await_all_ready(&mut all, START_DEADLINE)?;
        Ok(Processes { workers })
    }

    fn slice(&mut self, item: Item, processes: &mut Processes, budget: Budget) -> Result<Slice, RunError> {
        let limit = item.workload.limit();
        let before = limit.map(|limit| self.limit(limit, Budget::Time(LIMIT_SLICE))).transpose()?;
        let reports = processes.run(budget)?;
        let after = limit.map(|limit| self.limit(limit, Budget::Time(LIMIT_SLICE))).transpose()?;
        let limit = before.zip(after).map(|(before, after)| (before.headline() + after.headline()) / 2.0);
        let moved = before.zip(after).map_or(0.0, |(before, after)| before.moved(&after));
        Ok(Slice { row: row(item, &reports, limit), limit, moved })
    }
}

/// The processes of a row, linked and ready.
pub struct Processes {
    /// The one that publishes first.
    workers: Vec<Worker>,
}

impl Processes {
    /// Runs them once; the report of the one that publishes comes first.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn run(&mut self, budget: Budget) -> Result<Vec<Report>, RunError> {
        // Whoever receives first: the others begin at once.
        for worker in self.workers.iter_mut().rev() {
            worker.run(budget)?;
        }
        let mut all: Vec<_> = self.workers.iter_mut().collect();
        Worker::reports(&mut all, SLICE_DEADLINE)
    }
}

/// How many subscriptions each process holds.
fn spread(subscriptions: usize) -> impl Iterator<Item = usize> {
    let processes = subscriptions.min(FAN_PROCESSES);
    (0..processes).map(move |process| subscriptions / processes + usize::from(process < subscriptions % processes))
}

/// Slices are sorted by how near they came to their limit.
fn key(slice: &Slice) -> f64 {
    match slice.limit {
        Some(_) => slice.row.ratio_to_limit.unwrap_or(f64::NAN),
        None => slice.row.ns_per_publish.unwrap_or(f64::NAN),
    }
}

fn row(item: Item, reports: &[Report], limit: Option<f64>) -> Row {
    let (sender, receivers) = reports.split_first().expect("each row has a process that sends");
    let ended_ns = match item.workload {
        // A stream ends where it is read.
        Workload::Throughput => receivers.iter().map(|it| it.ended_ns).max().unwrap_or(sender.ended_ns),
        _ => sender.ended_ns,
    };
    let seconds = ended_ns.saturating_sub(sender.started_ns).max(1) as f64 / 1e9;
    let mut row = Row {
        workload: item.workload.word(),
        payload: Some(if item.typed { "typed" } else { "bytes" }),
        size: Some(item.size),
        subscribers: Some(item.subscribers),
        messages: sender.messages,
        seconds,
        latency: sender.latency,
        verified: item.workload != Workload::Fanout,
        ..Row::default()
    };
    match item.workload {
        Workload::Latency | Workload::Wakeup => {
            row.limit_p50_ns = limit;
            row.ratio_to_limit = sender.latency.zip(limit).map(|(latency, limit)| latency.p50_ns / limit);
        }
        Workload::Throughput => {
            let bytes_per_s = sender.bytes as f64 / seconds;
            row.msgs_per_s = Some(sender.messages as f64 / seconds);
            row.bytes_per_s = Some(bytes_per_s);
            row.limit_bytes_per_s = limit;
            row.ratio_to_limit = limit.map(|limit| bytes_per_s / limit);
        }
        _ => {
            row.ns_per_publish = Some(seconds * 1e9 / sender.messages.max(1) as f64);
            row.msgs_per_s = Some(sender.messages as f64 / seconds);
            if item.workload == Workload::FanoutRead {
                row.missed = Some(receivers.iter().map(|it| it.missed).sum());
            }
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_spread_evenly_over_at_most_four_processes() {
        assert_eq!(spread(0).count(), 0);
        assert!(spread(3).eq([1, 1, 1]));
        assert!(spread(64).eq([16; 4]));
        assert!(spread(7).eq([2, 2, 2, 1]));
    }
}
