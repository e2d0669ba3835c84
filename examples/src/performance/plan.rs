//! Which rows are measured, in which order.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use super::message::has_typed;
use crate::measure::{Budget, Limit};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is explained by `about`")]
pub enum Workload {
    Latency,
    Wakeup,
    Throughput,
    Fanout,
    FanoutRead,
    LimitLine,
    LimitStream,
    LimitWakeup,
}

impl Workload {
    /// All, in the order of the report.
    pub const ALL: [Workload; 8] = [
        Workload::LimitLine,
        Workload::Latency,
        Workload::LimitWakeup,
        Workload::Wakeup,
        Workload::LimitStream,
        Workload::Throughput,
        Workload::Fanout,
        Workload::FanoutRead,
    ];

    /// Its word on the command line and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Workload::Latency => "latency",
            Workload::Wakeup => "wakeup",
            Workload::Throughput => "throughput",
            Workload::Fanout => "fanout",
            Workload::FanoutRead => "fanout_read",
            Workload::LimitLine => "limit_line",
            Workload::LimitStream => "limit_stream",
            Workload::LimitWakeup => "limit_wakeup",
        }
    }

    /// What it is, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Workload::Latency => "one way, both sides looking all the time",
            Workload::Wakeup => "one way, both sides asleep until it comes",
            Workload::Throughput => "one reliable subscriber that reads and checks everything",
            Workload::Fanout => "cost of publishing with subscriptions that never read",
            Workload::FanoutRead => "the same with lossy subscribers that read and check everything",
            Workload::LimitLine => "limit: one cache line, back and forth",
            Workload::LimitStream => "limit: a raw stream through shared memory, filled and summed",
            Workload::LimitWakeup => "limit: eventfd and epoll, back and forth",
        }
    }

    /// The limit that it stands beside, or that it is.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Workload::Latency | Workload::LimitLine => Some(Limit::Line),
            Workload::Wakeup | Workload::LimitWakeup => Some(Limit::Wakeup),
            Workload::Throughput | Workload::LimitStream => Some(Limit::Stream),
            Workload::Fanout | Workload::FanoutRead => None,
        }
    }

    /// Its ends keep looking, each on a core of its own: on one core they would wait for the scheduler to take it away from
    /// the other one.
    pub fn takes_two_cores(self) -> bool {
        !matches!(self, Workload::Wakeup | Workload::LimitWakeup | Workload::Fanout)
    }

    /// It is a limit itself.
    pub fn is_limit(self) -> bool {
        matches!(self, Workload::LimitLine | Workload::LimitStream | Workload::LimitWakeup)
    }

    fn default_sizes(self) -> &'static [usize] {
        match self {
            Workload::Latency => &[64, 1024],
            Workload::Throughput => &[64, 1024, 16 * 1024, 1 << 20],
            _ => &[64],
        }
    }

    fn default_subscribers(self) -> &'static [usize] {
        match self {
            Workload::Fanout => &[0, 1, 64],
            Workload::FanoutRead => &[1, 4],
            _ => &[1],
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Workload, String> {
        Workload::ALL.into_iter().find(|workload| workload.word() == text).ok_or_else(|| {
            let words: Vec<_> = Workload::ALL.iter().map(|workload| workload.word()).collect();
            format!("there is no such workload; choose from {}", words.join(", "))
        })
    }
}

/// The arguments do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Give at least 1.
    #[error("a message of 0 bytes cannot carry its number: give --size 1 or more")]
    SizeZero,
    /// Give a smaller size.
    #[error("{size} bytes do not fit into a log on this machine: give --size {limit} or less")]
    SizeTooLong {
        /// As given.
        size: usize,
        /// bytes
        limit: usize,
    },
    /// Leave --subscribers out, or choose a fan-out workload.
    #[error("--subscribers {subscribers} makes no sense for {workload}, which has exactly one: use --workload fanout")]
    Subscribers {
        /// As given.
        subscribers: usize,
        /// For which.
        workload: Workload,
    },
    /// Allow two cores, or choose others.
    #[error(
        "{workload} takes two cores, and this process may use one only: allow it another one (taskset, cgroup, container), \
         or choose {}",
        on_one_core()
    )]
    OneCore {
        /// Which.
        workload: Workload,
    },
    /// Give more.
    #[error("{0} must be above 0")]
    NotAbove(&'static str),
}

/// The words for workloads that one core is enough for.
fn on_one_core() -> String {
    let fit = Workload::ALL.into_iter().filter(|workload| !workload.takes_two_cores());
    fit.map(|workload| format!("--workload {workload}")).collect::<Vec<_>>().join(", ")
}

/// One row to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// What.
    pub workload: Workload,
    /// bytes
    pub size: usize,
    /// How many.
    pub subscribers: usize,
    /// Typed messages, or bytes.
    pub typed: bool,
}

/// All rows, and how long each is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In this order.
    pub items: Vec<Item>,
    /// Of each row.
    pub budget: Budget,
    /// What was left out, as it takes more cores than this process may use.
    pub left_out: Vec<Workload>,
}

/// bytes; the longest message that is measured
const LONGEST: usize = 256 << 20;

impl Plan {
    /// What follows from the arguments; empty lists mean the defaults. With less than two cores, only what one is enough for.
    ///
    /// # Errors
    ///
    /// See [`PlanError`].
    pub fn new(
        workloads: &[Workload],
        sizes: &[usize],
        subscribers: &[usize],
        budget: Budget,
        cores: usize,
    ) -> Result<Plan, PlanError> {
        match budget {
            Budget::Messages(0) => return Err(PlanError::NotAbove("--msgcount")),
            Budget::Time(Duration::ZERO) => return Err(PlanError::NotAbove("--seconds")),
            _ => {}
        }
        for &size in sizes {
            match size {
                0 => return Err(PlanError::SizeZero),
                1..=LONGEST => {}
                _ => return Err(PlanError::SizeTooLong { size, limit: LONGEST }),
            }
        }
        let (mut items, mut left_out) = (Vec::new(), Vec::new());
        let chosen = if workloads.is_empty() { &Workload::ALL[..] } else { workloads };
        for &workload in chosen {
            if cores < 2 && workload.takes_two_cores() {
                if !workloads.is_empty() {
                    return Err(PlanError::OneCore { workload });
                }
                left_out.push(workload);
                continue;
            }
            if workload.is_limit() {
                items.push(Item { workload, size: 64, subscribers: 1, typed: false });
                continue;
            }
            let fans = matches!(workload, Workload::Fanout | Workload::FanoutRead);
            // A number of subscribers among several workloads is meant for those that take one.
            if let Some(&given) = subscribers.iter().find(|&&it| it != 1).filter(|_| !fans && workloads.len() == 1) {
                return Err(PlanError::Subscribers { subscribers: given, workload });
            }
            let sizes = if sizes.is_empty() { workload.default_sizes() } else { sizes };
            let counts = if subscribers.is_empty() || !fans { workload.default_subscribers() } else { subscribers };
            for &size in sizes {
                for &subscribers in counts {
                    for typed in [false, true] {
                        // A wake-up costs the same whatever is sent.
                        if !typed || (has_typed(size) && workload != Workload::Wakeup) {
                            items.push(Item { workload, size, subscribers, typed });
                        }
                    }
                }
            }
        }
        Ok(Plan { items, budget, left_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget::Time(Duration::from_secs(1));

    #[test]
    fn bytes_and_typed_each_have_a_row() {
        let plan = Plan::new(&[Workload::Latency], &[64, 65], &[], BUDGET, 2).unwrap();
        let rows: Vec<_> = plan.items.iter().map(|item| (item.size, item.typed)).collect();
        assert_eq!(rows, [(64, false), (64, true), (65, false)]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(Plan::new(&[], &[0], &[], BUDGET, 2), Err(PlanError::SizeZero));
        assert!(Plan::new(&[], &[usize::MAX], &[], BUDGET, 2).is_err());
        assert!(Plan::new(&[Workload::Latency], &[], &[3], BUDGET, 2).is_err());
        assert!(Plan::new(&[Workload::Fanout], &[], &[0, 3], BUDGET, 2).is_ok());
        assert_eq!(Plan::new(&[], &[], &[], Budget::Messages(0), 2), Err(PlanError::NotAbove("--msgcount")));
        assert!(matches!(Plan::new(&[Workload::Latency], &[], &[], BUDGET, 1), Err(PlanError::OneCore { .. })));
        assert!("latencies".parse::<Workload>().unwrap_err().contains("latency, "));
    }

    #[test]
    fn on_one_core_only_that_is_left_which_does_not_keep_looking() {
        let plan = Plan::new(&[], &[], &[], BUDGET, 1).unwrap();
        assert!(plan.items.iter().all(|item| !item.workload.takes_two_cores()) && !plan.items.is_empty());
        assert!(plan.left_out.contains(&Workload::Latency) && !plan.left_out.contains(&Workload::Wakeup));
        assert!(Plan::new(&[], &[], &[], BUDGET, 2).unwrap().left_out.is_empty());
        let refused = Plan::new(&[Workload::Throughput], &[], &[], BUDGET, 1).unwrap_err().to_string();
        assert!(refused.contains("--workload wakeup"), "{refused}");
    }
}
