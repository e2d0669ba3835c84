//! `docs/layout.md` names each constant of the layout with the value that it has in the source.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The files whose constants make up the layout.
const FILES: [&str; 5] =
    ["bus/src/log/layout.rs", "bus/src/log/frame.rs", "bus/src/page.rs", "bus/src/line.rs", "bus/src/stream/layout.rs"];

type Constants = BTreeMap<(String, String), u64>;

#[test]
fn the_byte_maps_agree_with_the_sources() {
    let listed = listed(&read("docs/layout.md"));
    let mut defined = Constants::new();
    for file in FILES {
        let found = defined_in(&read(file));
        assert!(found.len() >= 4, "the constants of {file} were not found");
        defined.extend(found.into_iter().map(|(name, value)| ((file.to_owned(), name), value)));
    }
    assert_eq!(listed, defined, "left: docs/layout.md, right: the sources");
}

/// Rows "| `value` | `CONSTANT` | ...", by the file that the heading above names.
fn listed(text: &str) -> Constants {
    let mut file = String::new();
    let mut found = Constants::new();
    for line in text.lines() {
        if line.starts_with("## ") {
            file = line.split('`').nth(1).unwrap_or_default().to_owned();
        }
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim());
        let (Some(value), Some(name)) = (cells.next(), cells.next()) else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        if !name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            continue;
        }
        let value = number(value.trim_matches('`')).unwrap_or_else(|| panic!("{name}: `{value}` is no number"));
        assert_eq!(found.insert((file.clone(), name.to_owned()), value), None, "{name} is listed twice");
    }
    found
}

/// Integer constants whose value is written out: a number, a product or a shift.
fn defined_in(text: &str) -> BTreeMap<String, u64> {
    let constants = text.lines().filter_map(|line| {
        let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
        let (name, rest) = line.strip_prefix("const ")?.split_once(": ")?;
        let value = rest.split_once(" = ")?.1.strip_suffix(';')?;
        Some((name.to_owned(), evaluate(value)?))
    });
    constants.collect()
}

fn evaluate(value: &str) -> Option<u64> {
    match value.split_once(" << ") {
        Some((one, bits)) => Some(number(one)? << number(bits)?),
        None => value.split(" * ").map(number).try_fold(1, |product, factor| Some(product * factor?)),
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.replace('_', "");
    match text.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
        None => text.parse().ok(),
    }
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bus/ lies in the workspace");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
