//! `nodeset echo` shows messages whose type it has never heard of.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nodeset::{Message, Node};
use rkyv::{Archive, Deserialize, Serialize};
use tempfile::TempDir;

#[derive(Archive, Serialize, Deserialize, Message)]
struct Reading {
    number: u64,
    celsius: f32,
    place: Place,
    notes: Vec<String>,
    limits: Option<(i16, i16)>,
    seen: std::collections::HashMap<String, bool>,
    ordered: BTreeMap<u8, u8>,
}

#[derive(Archive, Serialize, Deserialize, Message)]
enum Place {
    #[allow(dead_code, reason = "a variant that the other one is told from")]
    Nowhere,
    At {
        x: f64,
        y: f64,
    },
}

fn reading() -> Reading {
    Reading {
        number: 7,
        celsius: 21.5,
        place: Place::At { x: -1.0, y: 0.25 },
        notes: vec!["short".to_owned(), "longer than what fits beside".to_owned()],
        limits: Some((-40, 85)),
        seen: [("door".to_owned(), true)].into(),
        ordered: BTreeMap::from([(1, 2)]),
    }
}

/// What `nodeset echo` prints of one message.
fn echo(place: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodeset"));
    command.args(["echo", "--count", "1", "--history", "1"]).args(arguments);
    let output = command.arg("--dispatcher").arg(place.join("d.sock")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_fields_of_any_type_are_shown() {
    let place = TempDir::new().unwrap();
    let node = Node::builder("sensor").socket(place.path().join("d.sock")).embedded().standby(Duration::ZERO);
    let node = node.connect().unwrap();
    let mut publisher = node.publisher::<Reading>("room/reading").history(1).create().unwrap();
    publisher.publish(&reading()).unwrap();
    let expected = "Reading { number: 7, celsius: 21.5, place: At { x: -1.0, y: 0.25 }, \
                    notes: [\"short\", \"longer than what fits beside\"], limits: (-40, 85), seen: {\"door\": true}, \
                    ordered: {1 not shown} }";
    assert_eq!(echo(place.path(), &["room/reading"]), format!("sensor: {expected}\n"));
    assert_eq!(echo(place.path(), &["room/*"]), format!("room/reading sensor: {expected}\n"));

    let object: serde_json::Value = serde_json::from_str(&echo(place.path(), &["room/reading", "--json"])).unwrap();
    assert_eq!((&object["topic"], &object["publisher"]), (&"room/reading".into(), &"sensor".into()));
    assert_eq!((&object["type"], &object["sequence"]), (&"Reading".into(), &0.into()));
    let message = &object["message"]["Reading"];
    assert_eq!((&message["number"], &message["celsius"]), (&7.into(), &21.5.into()));
    assert_eq!(message["place"], serde_json::json!({ "At": { "x": -1.0, "y": 0.25 } }));
    assert_eq!(message["limits"], serde_json::json!([-40, 85]));
}
