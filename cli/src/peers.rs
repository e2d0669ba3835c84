//! `nodeset list --peers`: how other hosts are, from the dispatcher's board.

use std::error::Error;
use std::time::Duration;

use nodeset::board::{Board, BoardPeer};
use serde_json::json;

use crate::args::ListArgs;
use crate::links::{print, read};

pub(crate) fn run(args: &ListArgs) -> Result<(), Box<dyn Error>> {
    let (board, stale) = read(args)?;
    print(&if args.json { lines(&board, stale.as_deref()) } else { table(&board, stale.as_deref()) })
}

fn table(board: &Board, stale: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(why) = stale {
        text += &format!("stale, dispatcher process {}: {why}\n", board.pid);
    }
    let titles = ["HOST", "STATE", "ROUND TRIP", "SENT", "BYTES", "AGAIN", "BEHIND", "RECEIVED", "BYTES", "LOST", ""];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(board.peers.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 11] = std::array::from_fn(width);
    for row in &rows {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(peer: &BoardPeer) -> [String; 11] {
    [
        peer.host.clone(),
        if peer.connected { "connected" } else { "away" }.to_owned(),
        peer.round_trip_ns.map_or_else(String::new, |time| format!("{:?}", Duration::from_nanos(time))),
        peer.sent.to_string(),
        peer.sent_bytes.to_string(),
        peer.resent.to_string(),
        peer.behind.to_string(),
        peer.received.to_string(),
        peer.received_bytes.to_string(),
        // In either direction.
        (peer.lost + peer.missed).to_string(),
        peer.last_end.as_ref().map_or_else(String::new, |why| format!("last connection: {why}")),
    ]
}

fn lines(board: &Board, stale: Option<&str>) -> String {
    let object = |peer: &BoardPeer| {
        json!({
            "host": peer.host,
            "connected": peer.connected,
            "round_trip_ns": peer.round_trip_ns,
            "connections": peer.connections,
            "sent": peer.sent,
            "sent_bytes": peer.sent_bytes,
            "resent": peer.resent,
            "lost": peer.lost,
            "received": peer.received,
            "received_bytes": peer.received_bytes,
            "missed": peer.missed,
            "behind": peer.behind,
            "last_end": peer.last_end,
            "stale": stale,
        })
    };
    board.peers.iter().map(|peer| format!("{}\n", object(peer))).collect()
}
