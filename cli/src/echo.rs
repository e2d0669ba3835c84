//! `nodeset echo`: prints messages of any type, by the schema that their publication carries.

use std::error::Error;
use std::io::{self, Write};

use nodeset::message::Value;
use nodeset::{Node, ReceiveError, Sample};
use serde_json::{Map, Number, json};

use crate::args::EchoArgs;

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
        let line = if args.json { object(&sample).to_string() } else { line(&sample, &args.topic) };
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Ok(()) => printed += 1,
            // Whoever read our output has gone: nothing is left to do.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One line for a message: text as it is, anything else as a value, with what would break the line (or do things to the terminal)
/// escaped. Where there are several topics, each message says its own.
fn line(sample: &Sample<'_, [u8]>, subscribed: &str) -> String {
    let topic = if sample.topic() == subscribed { String::new() } else { format!("{} ", sample.topic()) };
    let message = match std::str::from_utf8(sample.payload()) {
        Ok(text) if sample.schema().is_text() => escaped(text),
        _ => escaped(&sample.schema().read(sample.payload()).to_string()),
    };
    format!("{topic}{}: {message}{}", sample.publisher(), beside(sample))
}

/// The same as a JSON object.
fn object(sample: &Sample<'_, [u8]>) -> serde_json::Value {
    let mut object = json!({
        "topic": sample.topic(),
        "publisher": sample.publisher(),
        "sequence": sample.sequence(),
        "missed_before": sample.missed_before(),
        "type": sample.schema().name(),
        "message": json(&sample.schema().read(sample.payload())),
    });
    if let Some(tag) = sample.tag() {
        object["tag"] = tag.into();
    }
    if let Some(age) = sample.age() {
        object["age_ns"] = Number::from_u128(age.as_nanos()).into();
    }
    object
}

/// A number that JSON cannot say becomes text; so does a map's key. Lists and maps of which not all is shown end with a text that
/// says how much is missing.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => Number::from_i128(*value).map_or_else(|| value.to_string().into(), Into::into),
        Value::Uint(value) => Number::from_u128(*value).map_or_else(|| value.to_string().into(), Into::into),
        // As short as it is said; the same number in 64 bits would have many more digits.
        Value::F32(number) => value
            .to_string()
            .parse::<f64>()
            .ok()
            .and_then(Number::from_f64)
            .map_or_else(|| number.to_string().into(), Into::into),
        Value::F64(value) => Number::from_f64(*value).map_or_else(|| value.to_string().into(), Into::into),
        Value::Char(value) => value.to_string().into(),
        Value::Text(value) | Value::Plain(value) => value.as_str().into(),
        Value::Nothing => serde_json::Value::Null,
        Value::Record { name, fields } => {
            let is_tuple = fields.iter().enumerate().all(|(at, (name, _))| *name == at.to_string());
            let content: serde_json::Value = if is_tuple {
                fields.iter().map(|(_, value)| json(value)).collect::<Vec<_>>().into()
            } else {
                fields.iter().map(|(name, value)| (name.clone(), json(value))).collect::<Map<_, _>>().into()
            };
            match (fields.len(), name.as_str()) {
                (0, "") => serde_json::Value::Null,
                // A variant, or a type, that says all by its name.
                (0, name) => name.into(),
                (_, "") => content,
                (_, name) => json!({ name: content }),
            }
        }
        Value::List { items, more } => {
            let rest = (*more > 0).then(|| format!("{more} more").into());
            items.iter().map(json).chain(rest).collect::<Vec<_>>().into()
        }
        Value::Map { entries, more } => {
            let rest = (*more > 0).then(|| ("...".to_owned(), format!("{more} more").into()));
            let entries = entries.iter().map(|(key, value)| match key {
                Value::Text(key) => (key.clone(), json(value)),
                other => (other.to_string(), json(value)),
            });
            entries.chain(rest).collect::<Map<_, _>>().into()
        }
        hidden => hidden.to_string().into(),
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
    #[test]
    fn json_says_the_same() {
        let record = |name: &str, fields: Vec<(&str, Value)>| Value::Record {
            name: name.to_owned(),
            fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        let pose = record(
            "Pose",
            vec![
                ("x", Value::F32(0.1)),
                ("far", Value::F64(f64::INFINITY)),
                ("mode", record("Moving", Vec::new())),
                ("limits", record("", vec![("0", Value::Int(-1)), ("1", Value::Uint(u128::MAX))])),
                ("load", Value::List { items: vec![Value::Bool(true)], more: 3 }),
                ("names", Value::Map { entries: vec![(Value::Uint(7), Value::Nothing)], more: 0 }),
            ],
        );
        let expected = json!({ "Pose": {
            "x": 0.1, "far": "inf", "mode": "Moving", "limits": [-1, u128::MAX.to_string()], "load": [true, "3 more"],
            "names": { "7": null },
        }});
        assert_eq!(json(&pose), expected);
    }
}
