//! `nodeset list`.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use nodeset::Listing;

use crate::args::ListArgs;

/// How long the dispatcher may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &ListArgs) -> Result<(), Box<dyn Error>> {
    args.nodeset.start_logging()?;
    if args.links {
        return crate::links::run(args);
    }
    if args.peers {
        return crate::peers::run(args);
    }
    let table = nodeset::list(&args.nodeset.endpoint()?, TIMEOUT)?;
    match io::stdout().lock().write_all(text(table).as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The table, as columns.
fn text(mut table: Vec<Listing>) -> String {
    table.sort_by_key(key);
    let mut rows = vec![["", "NODE", "TOPIC", "TYPE", "LINKS", ""].map(str::to_owned)];
    rows.extend(table.into_iter().map(|listing| match listing {
        Listing::Node { state, attached } => {
            let detached = if attached { "" } else { ", detached" };
            let about = format!("{}{detached}, process {}, user {}", state.health, state.pid, state.uid);
            ["node".to_owned(), state.name, String::new(), String::new(), String::new(), about]
        }
        Listing::Publication { node, topic, schema, links } => {
            ["publishes".to_owned(), node, topic, schema, links.to_string(), String::new()]
        }
        Listing::Subscription { node, topic, schema, reliable, links } => {
            let kind = if reliable { "reliable" } else { "lossy" };
            ["subscribes".to_owned(), node, topic, schema, links.to_string(), kind.to_owned()]
        }
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let line: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Nodes first, then by topic.
fn key(listing: &Listing) -> (u8, String, String) {
    match listing {
        Listing::Node { state, .. } => (0, state.name.clone(), String::new()),
        Listing::Publication { node, topic, .. } => (1, topic.clone(), format!("0{node}")),
        Listing::Subscription { node, topic, .. } => (1, topic.clone(), format!("1{node}")),
    }
}

#[cfg(test)]
mod tests {
    use nodeset::{Health, NodeId, NodeState};

    use super::*;

    fn node(name: &str, health: Health) -> NodeState {
        let [name, base_name] = [name, "robot"].map(str::to_owned);
        NodeState { node: NodeId(1), name, base_name, pid: 7, uid: 1000, health }
    }

    #[test]
    fn columns_line_up() {
        let table = vec![
            Listing::Subscription {
                node: "screen".to_owned(),
                topic: "pose".to_owned(),
                schema: "any".to_owned(),
                reliable: false,
                links: 1,
            },
            Listing::Publication {
                node: "robot".to_owned(),
                topic: "pose".to_owned(),
                schema: "Pose".to_owned(),
                links: 1,
            },
            Listing::Node { state: node("robot", Health::Alive), attached: true },
            Listing::Node { state: node("robot-2", Health::Stopped), attached: false },
        ];
        let expected = "            NODE     TOPIC  TYPE  LINKS\n\
                        node        robot                        alive, process 7, user 1000\n\
                        node        robot-2                      stopped, detached, process 7, user 1000\n\
                        publishes   robot    pose   Pose  1\n\
                        subscribes  screen   pose   any   1      lossy\n";
        assert_eq!(text(table), expected);
    }
}
