//! One figure: a line of the table, or one JSON object.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::measure::Percentiles;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// One way, both sides busy-waiting.
    Latency,
    /// One way, to a subscriber that sleeps.
    Wakeup,
    /// Reliable, one publisher, one subscriber that checks everything.
    Throughput,
    /// What publishing costs with N lossy subscribers that never read.
    Fanout,
    /// What publishing costs with N lossy subscribers that read.
    FanoutRead,
    /// One bounced cache line.
    LimitLine,
    /// A raw byte stream through shared memory.
    LimitStream,
    /// eventfd and epoll.
    LimitWakeup,
}

impl Workload {
    /// All, in the order in which they are measured and shown.
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

    /// As it is said on the command line and in JSON.
    pub fn name(self) -> &'static str {
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
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a message is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// `[u8]`.
    Bytes,
    /// A struct, written and read in place.
    Typed,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Payload::Bytes => "bytes",
            Payload::Typed => "typed",
        })
    }
}

/// One figure. What does not apply is `None`, and left out of the JSON object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub workload: Workload,
    /// Of NodeSet's workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// Bytes of a message; of the limits, of what they move at once.
    pub size: usize,
    /// Subscriptions, all sides together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<u32>,
    /// Messages (round trips, batches) that were counted.
    pub messages: u64,
    /// How long they took.
    pub seconds: f64,
    /// Half round trips; nanoseconds.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percentiles>,
    /// Of messages sent without waiting for an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msgs_per_s: Option<f64>,
    /// Payload bytes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<f64>,
    /// What one publish cost its caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_per_publish: Option<f64>,
    /// Messages that lossy subscribers lost, of `fanout_read`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// p50 over the limit's p50, or bytes a second over the limit's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_limit: Option<f64>,
    /// True when the limit did not hold still between the measurement before and the one after: the ratio says little.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noisy: bool,
    /// That the receiver looked at what it received; absent where nothing is received.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
}

impl Row {
    /// A row that says no more than what was measured and how much.
    pub fn new(workload: Workload, size: usize, messages: u64, seconds: f64) -> Row {
        Row {
            workload,
            payload: None,
            size,
            subscribers: None,
            messages,
            seconds,
            latency: None,
            msgs_per_s: None,
            bytes_per_s: None,
            ns_per_publish: None,
            missed: None,
            ratio_to_limit: None,
            noisy: false,
            verified: false,
        }
    }

    /// One line of JSON, without the line's end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.rounded()).expect("a row has only numbers, names and flags")
    }

    /// With as many digits as the measurement is worth.
    fn rounded(&self) -> Row {
        let round = |value: f64, digits: i32| (value * 10f64.powi(digits)).round() / 10f64.powi(digits);
        Row {
            seconds: round(self.seconds, 6),
            msgs_per_s: self.msgs_per_s.map(|value| round(value, 1)),
            bytes_per_s: self.bytes_per_s.map(|value| round(value, 1)),
            ns_per_publish: self.ns_per_publish.map(|value| round(value, 2)),
            ratio_to_limit: self.ratio_to_limit.map(|value| round(value, 3)),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_latency_says_its_percentiles_and_no_rate() {
        let row = Row {
            payload: Some(Payload::Bytes),
            subscribers: Some(1),
            latency: Some(Percentiles { p50_ns: 120.5, p99_ns: 200.0, p999_ns: 900.0, max_ns: 10_000.0 }),
            ratio_to_limit: Some(1.123_456),
            verified: true,
            ..Row::new(Workload::Latency, 64, 1000, 0.25)
        };
        let found: Value = serde_json::from_str(&row.to_json()).unwrap();
        let expected = json!({
            "workload": "latency", "payload": "bytes", "size": 64, "subscribers": 1, "messages": 1000, "seconds": 0.25,
            "p50_ns": 120.5, "p99_ns": 200.0, "p999_ns": 900.0, "max_ns": 10_000.0, "ratio_to_limit": 1.123,
            "verified": true,
        });
        assert_eq!(found, expected);
        assert!(!row.to_json().contains('\n'));
    }

    #[test]
    fn a_fan_out_to_nobody_says_what_publishing_costs_and_nothing_of_a_receiver() {
        let row = Row {
            payload: Some(Payload::Typed),
            subscribers: Some(0),
            msgs_per_s: Some(2e8),
            bytes_per_s: Some(1.28e10),
            ns_per_publish: Some(5.004_9),
            ..Row::new(Workload::Fanout, 64, 2_000_000, 0.01)
        };
        let found: Value = serde_json::from_str(&row.to_json()).unwrap();
        let expected = json!({
            "workload": "fanout", "payload": "typed", "size": 64, "subscribers": 0, "messages": 2_000_000,
            "seconds": 0.01, "msgs_per_s": 2e8, "bytes_per_s": 1.28e10, "ns_per_publish": 5.0,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn every_workload_is_read_back_by_its_name() {
        for workload in Workload::ALL {
            let row = Row::new(workload, 1, 1, 1.0);
            let text = row.to_json();
            assert!(text.starts_with(&format!("{{\"workload\":\"{workload}\",\"size\":1")), "{text}");
            assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
        }
    }
}
