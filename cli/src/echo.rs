//! `nodeset echo`.

use std::error::Error;
use std::io::{self, Write};

use nodeset::{Node, ReceiveError, Sample};

use crate::args::EchoArgs;

/// bytes of a message that is no text, shown at most
const SHOWN: usize = 32;

pub(crate) fn run(args: &EchoArgs) -> Result<(), Box<dyn Error>> {
    args.nodeset.start_logging()?;
    let node = Node::from_options(&args.nodeset, "echo")?;
    let builder = node.subscriber::<[u8]>(&args.topic).any_schema().history(args.history);
    let mut subscriber = if args.reliable { builder.reliable() } else { builder }.create()?;
    let mut out = io::stdout().lock();
    let mut printed = 0;
    while args.count == 0 || printed < args.count {
        let sample = match subscriber.receive() {
            Ok(sample) => sample,
            Err(error @ ReceiveError::Wait(_)) => return Err(error.into()),
            Err(error) => {
                eprintln!("nodeset: {error}");
                continue;
            }
        };
        if sample.missed_before() > 0 {
            eprintln!("nodeset: {} messages of {} were missed", sample.missed_before(), sample.publisher());
        }
        // Where there are several topics, each message says its own.
        let topic = if sample.topic() == args.topic { String::new() } else { format!("{} ", sample.topic()) };
        match writeln!(out, "{topic}{}{}", line(&sample), beside(&sample)).and_then(|()| out.flush()) {
            Ok(()) => printed += 1,
            // Whoever read our output has gone: nothing is left to do.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One line for a message: text as it is, with what would break the line (or do things to the terminal) escaped.
fn line(sample: &Sample<'_, [u8]>) -> String {
    let schema = sample.schema();
    let bytes = sample.payload();
    match std::str::from_utf8(bytes) {
        Ok(text) if schema.is_text() => format!("{}: {}", sample.publisher(), escaped(text)),
        _ => {
            let shown = &bytes[..bytes.len().min(SHOWN)];
            let hex: String = shown.iter().map(|byte| format!(" {byte:02x}")).collect();
            let more = if shown.len() < bytes.len() { " .." } else { "" };
            format!("{}: {} of {} bytes:{hex}{more}", sample.publisher(), schema.name(), bytes.len())
        }
    }
}

/// What was sent beside the message, if anything was: ` (tag 7, 12.5µs old)`.
fn beside(sample: &Sample<'_, [u8]>) -> String {
    let tag = sample.tag().map(|tag| format!("tag {tag}"));
    let age = sample.age().map(|age| format!("{age:.1?} old"));
    let parts: Vec<_> = tag.into_iter().chain(age).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_nothing_to_the_terminal() {
        assert_eq!(escaped("a\nb\u{1b}[2Jü"), "a\\nb\\u{1b}[2Jü");
    }
}
