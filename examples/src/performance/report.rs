//! What was measured, as a row of a table or a line of JSON.

use std::fmt::Write;

use serde::Serialize;

use super::plan::Workload;
use crate::measure::Percentiles;

/// One row. What does not apply is left out of its JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    /// Its [`Workload`]'s word.
    pub workload: &'static str,
    /// `bytes` or `typed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<&'static str>,
    /// bytes of a message
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribers: Option<usize>,
    /// Round trips, or messages published.
    pub messages: u64,
    /// How long that took.
    pub seconds: f64,
    /// Latencies, if that is what was measured.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percentiles>,
    /// Messages a second at each receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msgs_per_s: Option<f64>,
    /// Payload bytes a second at each receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<f64>,
    /// What a publish cost its publisher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_per_publish: Option<f64>,
    /// Messages that lossy subscribers did not get, of all that they could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// nanoseconds; the limit's own p50, before and after
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_p50_ns: Option<f64>,
    /// The limit's own bytes a second, before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes_per_s: Option<f64>,
    /// Latencies: how many times as long as the limit; throughput: which part of the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_limit: Option<f64>,
    /// The limit moved by more than 15 % each time it was measured.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub noisy: bool,
    /// Every message was read and checked by its receiver.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
}

impl Row {
    /// One line of JSON.
    ///
    /// # Panics
    ///
    /// Never: a row has only names that JSON knows.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and words")
    }
}

/// Heads of the table's columns.
const HEADS: [&str; 11] =
    ["workload", "payload", "size", "subs", "p50", "p99", "p99.9", "max", "messages/s", "bytes/s", "ns/publish"];

/// All rows as a table for people; the last columns are the limit's.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![
        HEADS.iter().map(|head| (*head).to_owned()).chain(["limit", "of limit"].map(str::to_owned)).collect::<Vec<_>>(),
    ];
    cells.extend(rows.iter().map(cells_of));
    let columns = cells[0].len();
    let widths: Vec<_> =
        (0..columns).map(|at| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &cells {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            // Words to the left, numbers to the right.
            let _ = if at < 2 { write!(text, "{gap}{cell:<width$}") } else { write!(text, "{gap}{cell:>width$}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn cells_of(row: &Row) -> Vec<String> {
    let or_empty = |value: Option<String>| value.unwrap_or_default();
    let latency = |of: fn(&Percentiles) -> f64| or_empty(row.latency.as_ref().map(|it| nanoseconds(of(it))));
    let ratio = row.ratio_to_limit.map(|ratio| format!("{ratio:.2}x{}", if row.noisy { " ?" } else { "" }));
    vec![
        row.workload.to_owned(),
        row.payload.unwrap_or_default().to_owned(),
        or_empty(row.size.map(bytes)),
        or_empty(row.subscribers.map(|it| it.to_string())),
        latency(|it| it.p50_ns),
        latency(|it| it.p99_ns),
        latency(|it| it.p999_ns),
        latency(|it| it.max_ns),
        or_empty(row.msgs_per_s.map(|it| scaled(it, ""))),
        or_empty(row.bytes_per_s.map(|it| scaled(it, "B"))),
        or_empty(row.ns_per_publish.map(|it| format!("{it:.1}"))),
        or_empty(row.limit_p50_ns.map(nanoseconds).or(row.limit_bytes_per_s.map(|it| scaled(it, "B")))),
        or_empty(ratio),
    ]
}

fn nanoseconds(value: f64) -> String {
    match value {
        ..1e4 => format!("{value:.1} ns"),
        ..1e7 => format!("{:.1} us", value / 1e3),
        _ => format!("{:.1} ms", value / 1e6),
    }
}

fn scaled(value: f64, unit: &str) -> String {
    let (value, prefix) = match value {
        ..1e3 => (value, ""),
        ..1e6 => (value / 1e3, "k"),
        ..1e9 => (value / 1e6, "M"),
        _ => (value / 1e9, "G"),
    };
    format!("{value:.2} {prefix}{unit}").trim_end().to_owned()
}

fn bytes(value: usize) -> String {
    match value {
        0..1024 => value.to_string(),
        1024..1_048_576 if value % 1024 == 0 => format!("{}Ki", value / 1024),
        _ if value % (1 << 20) == 0 => format!("{}Mi", value >> 20),
        _ => value.to_string(),
    }
}

/// What the words of these rows mean.
pub fn legend(rows: &[Row]) -> String {
    let mut text = String::new();
    for workload in Workload::ALL {
        if rows.iter().any(|row| row.workload == workload.word()) {
            let _ = writeln!(text, "{:<13} {}", workload.word(), workload.about());
        }
    }
    text.push_str(
        "A latency is half a round trip. \"limit\": what this machine can do at best, measured right before and after.\n",
    );
    if rows.iter().any(|row| row.noisy) {
        text.push_str(
            "?: the machine's limit itself moved by more than 15 % each time; measure again on a quieter machine.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            workload: "latency",
            payload: Some("bytes"),
            size: Some(64),
            subscribers: Some(1),
            messages: 10,
            seconds: 0.5,
            latency: Some(Percentiles { p50_ns: 40.0, p99_ns: 50.0, p999_ns: 60.0, max_ns: 20_000.0 }),
            limit_p50_ns: Some(36.5),
            ratio_to_limit: Some(1.1),
            verified: true,
            ..Row::default()
        }
    }

    #[test]
    fn json_leaves_out_what_does_not_apply() {
        assert_eq!(
            row().json(),
            r#"{"workload":"latency","payload":"bytes","size":64,"subscribers":1,"messages":10,"seconds":0.5,"p50_ns":40.0,"p99_ns":50.0,"p999_ns":60.0,"max_ns":20000.0,"limit_p50_ns":36.5,"ratio_to_limit":1.1,"verified":true}"#
        );
    }

    #[test]
    fn the_table_lines_up() {
        let throughput = Row {
            workload: "throughput",
            payload: Some("typed"),
            size: Some(1 << 20),
            msgs_per_s: Some(12_345.0),
            bytes_per_s: Some(1.25e10),
            noisy: true,
            ratio_to_limit: Some(0.9),
            ..Row::default()
        };
        let table = table(&[row(), throughput]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("40.0 ns")
                && lines[1].contains("20.0 us")
                && lines[1].contains("36.5 ns")
                && lines[1].ends_with("1.10x")
        );
        assert!(lines[2].contains("1Mi") && lines[2].contains("12.35 k") && lines[2].contains("12.50 GB"));
        assert!(lines[2].ends_with("0.90x ?"));
    }
}
