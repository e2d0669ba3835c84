//! What the program `scale` is made of: many nodes in several processes, and what it takes to bring them together, to lose one
//! and to lose the dispatcher.
//!
//! | measured | how | what must hold |
//! |---|---|---|
//! | [`reattach`] | the dispatcher is killed while pairs of nodes talk, another one starts | its table becomes what it was; no message is lost or repeated |
//! | [`death`] | a process is killed; its peers say when they knew | each peer hears of the end of each link |
//! | [`join`] | all nodes come at once, one message goes over each topic, all leave | each link is made, each message arrives, nothing is left behind |
//!
//! Times are printed beside their targets and never decide whether a run failed: counts do.
//!
//! Reading order: [`plan`] (who publishes what to whom), [`crew`] (a process with some of the nodes) and [`talk`] (its threads
//! that publish and receive at a pace), [`fleet`] (all processes, seen by the parent), the three measurements, [`cost`] (what
//! `/proc` says).

pub mod cost;
pub mod crew;
pub mod death;
pub mod fleet;
pub mod join;
pub mod plan;
pub mod reattach;
pub mod talk;

pub use crew::prepare;

use serde::Serialize;

/// A measured time beside what it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Against {
    /// milliseconds
    pub ms: f64,
    /// milliseconds; what it shall be at most
    pub target_ms: f64,
    /// The one divided by the other: above 1 the target is missed.
    pub ratio: f64,
}

impl Against {
    /// `ns` beside `target_ms`.
    pub fn new(ns: u64, target_ms: f64) -> Against {
        let ms = milliseconds(ns);
        Against { ms, target_ms, ratio: (ms / target_ms * 1000.0).round() / 1000.0 }
    }
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(ns: u64) -> f64 {
    (ns as f64 / 1000.0).round() / 1000.0
}

/// The value below which `part` of the values lie (nearest rank); 0 of none.
pub fn quantile(values: &mut [u64], part: f64) -> u64 {
    values.sort_unstable();
    let rank = (part * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let mut values = [50, 10, 40, 20, 30];
        assert_eq!(quantile(&mut values, 0.5), 30);
        assert_eq!(quantile(&mut values, 0.99), 50);
        assert_eq!(quantile(&mut values, 0.0), 10);
        assert_eq!(quantile(&mut [], 0.5), 0);
    }

    #[test]
    fn a_missed_target_has_a_ratio_above_one() {
        assert_eq!(Against::new(1_500_000, 1.0), Against { ms: 1.5, target_ms: 1.0, ratio: 1.5 });
    }
}
