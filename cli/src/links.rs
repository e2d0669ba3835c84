//! `nodeset list --links`: who is behind, from the dispatcher's board.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nodeset::board::{self, Board, BoardLink, BoardPublication};
use serde_json::json;

use crate::args::ListArgs;

/// How long the dispatcher may take to show that it lives.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &ListArgs) -> Result<(), Box<dyn Error>> {
    let (board, stale) = read(args)?;
    let text = if args.json { lines(&board, stale.as_deref()) } else { table(&board, stale.as_deref(), age(&board)) };
    print(&text)
}

pub(crate) fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The board, and why it is stale, if it is.
pub(crate) fn read(args: &ListArgs) -> Result<(Board, Option<String>), Box<dyn Error>> {
    let endpoint = args.nodeset.endpoint()?;
    let instance = match (&args.board, endpoint.instance()) {
        (Some(board), _) => board,
        (None, Some(instance)) => instance,
        (None, None) => {
            return Err("a dispatcher at a path of its own has a board only if it was given a name: \
                                    start it with --board NAME, and name it here, too"
                .into());
        }
    };
    // The dispatcher's user: the socket's, while there is one.
    let own = rustix::process::geteuid().as_raw();
    let uid = std::fs::metadata(endpoint.path()).map_or(own, |socket| socket.uid());
    let board = board::read(uid, instance)?;
    let stale = nodeset::list(&endpoint, TIMEOUT).err().map(|error| error.to_string());
    Ok((board, stale))
}

/// How long ago it was written.
fn age(board: &Board) -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0));
    now.saturating_sub(Duration::from_nanos(board.written_ns))
}

/// Each link with its publication; `true` for the one that is furthest behind, if one is.
fn rows<'a>(board: &'a Board) -> Vec<(&'a BoardPublication, &'a BoardLink, bool)> {
    let publications: HashMap<u64, &BoardPublication> = board.publications.iter().map(|it| (it.id, it)).collect();
    let mut slowest: HashMap<u64, u64> = HashMap::new();
    for link in &board.links {
        let behind = slowest.entry(link.publication).or_default();
        *behind = link.behind.max(*behind);
    }
    // A link may be younger than its publication's entry.
    let with = |link: &'a BoardLink| publications.get(&link.publication).map(|publication| (*publication, link));
    let mut rows: Vec<_> = board
        .links
        .iter()
        .filter_map(with)
        .map(|(publication, link)| (publication, link, link.behind > 0 && link.behind == slowest[&link.publication]))
        .collect();
    rows.sort_by(|a, b| (&a.0.topic, &a.0.node, &a.1.subscriber).cmp(&(&b.0.topic, &b.0.node, &b.1.subscriber)));
    rows
}

fn kind(link: &BoardLink) -> &'static str {
    match (link.demoted, link.reliable) {
        (true, _) => "given up",
        (false, true) => "reliable",
        (false, false) => "lossy",
    }
}

fn table(board: &Board, stale: Option<&str>, age: Duration) -> String {
    let mut text = String::new();
    if let Some(why) = stale {
        text += &format!("stale for {:.1} s, dispatcher process {}: {why}\n", age.as_secs_f64(), board.pid);
    }
    let mut cells =
        vec![["TOPIC", "FROM", "TO", "KIND", "MESSAGES", "BEHIND", "MISSED", "HOLDS", "BYTES", ""].map(str::to_owned)];
    for (publication, link, slowest) in rows(board) {
        let mut notes = vec![if link.asleep { "asleep" } else { "awake" }];
        if slowest {
            notes.push("slowest");
        }
        if publication.waiting {
            notes.push("its publisher waits");
        }
        cells.push([
            publication.topic.clone(),
            publication.node.clone(),
            link.subscriber.clone(),
            kind(link).to_owned(),
            publication.messages.to_string(),
            link.behind.to_string(),
            link.missed.to_string(),
            link.held.to_string(),
            publication.bytes.to_string(),
            notes.join(", "),
        ]);
    }
    let widths: [usize; 10] =
        std::array::from_fn(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in &cells {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn lines(board: &Board, stale: Option<&str>) -> String {
    let [nodes, publications, subscriptions] = board.counts;
    let mut text = json!({
        "dispatcher_pid": board.pid, "embedded": board.embedded, "host": board.host, "socket": board.socket,
        "age_ns": age(board).as_nanos() as u64, "stale": stale,
        "nodes": nodes, "publications": publications, "subscriptions": subscriptions,
    })
    .to_string();
    text.push('\n');
    for (publication, link, slowest) in rows(board) {
        let row = json!({
            "topic": publication.topic, "publisher": publication.node, "subscriber": link.subscriber,
            "type": publication.schema, "kind": kind(link), "messages": publication.messages, "behind": link.behind, "missed": link.missed,
            "held_blocks": link.held, "log_bytes": publication.bytes, "asleep": link.asleep, "slowest": slowest,
            "publisher_waits": publication.waiting,
        });
        text += &row.to_string();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        let publication = BoardPublication {
            id: 1,
            topic: "pose".to_owned(),
            node: "robot".to_owned(),
            messages: 90,
            bytes: 4096,
            ..BoardPublication::default()
        };
        let link = |subscriber: &str, behind| BoardLink {
            publication: 1,
            subscriber: subscriber.to_owned(),
            behind,
            ..BoardLink::default()
        };
        let links = vec![
            BoardLink { reliable: true, ..link("screen", 80) },
            BoardLink { asleep: true, held: 2, missed: 17, ..link("log", 3) },
            // Of a publication that is not there yet.
            BoardLink { publication: 2, ..link("other", 1) },
        ];
        Board { pid: 7, publications: vec![publication], links, ..Board::default() }
    }

    #[test]
    fn the_slowest_is_shown() {
        let expected = "stale for 2.0 s, dispatcher process 7: nobody listens\n\
                        TOPIC  FROM   TO      KIND      MESSAGES  BEHIND  MISSED  HOLDS  BYTES\n\
                        pose   robot  log     lossy     90        3       17      2      4096   asleep\n\
                        pose   robot  screen  reliable  90        80      0       0      4096   awake, slowest\n";
        assert_eq!(table(&board(), Some("nobody listens"), Duration::from_secs(2)), expected);
    }

    #[test]
    fn each_line_is_an_object() {
        let text = lines(&board(), None);
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 3);
        assert!(rows[0]["stale"].is_null() && rows[0]["dispatcher_pid"] == 7);
        assert_eq!((&rows[2]["behind"], &rows[2]["slowest"]), (&json!(80), &json!(true)));
    }
}
