//! What no compiler checks: every ordered access names its partner, `docs/memory-model.md` lists them all, and `unsafe` stays
//! in its rooms. Reads the sources of the whole workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where unsafe code may stand. In the libraries: memory itself, and the one type that looks at bytes again without checking
/// them again. In the examples: the raw limits that NodeSet is compared with.
const UNSAFE_ROOMS: [&str; 8] = [
    "bus/src/memory/",
    "bus/src/log/",
    "bus/src/stream/",
    "bus/src/message/",
    "bus/src/sys/",
    "bus/tests/",
    "client/src/sample.rs",
    "examples/src/measure/",
];

/// A source file, with what is no code taken out of it.
struct Source {
    /// from the workspace's folder on
    path: String,
    text: String,
    /// As long as `text`, line by line; comments and literals are spaces.
    code: String,
}

/// One access that orders something, as its comment and its code tell it.
#[derive(Debug)]
struct Site {
    at: String,
    labels: Vec<String>,
    says: String,
    /// The statement that follows.
    code: String,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum End {
    Release,
    Acquire,
    Fence,
}

impl Site {
    fn ends(&self) -> BTreeSet<End> {
        let words: BTreeSet<&str> = words(&self.code).collect();
        [
            (End::Release, &["store_release", "add_release", "Release", "AcqRel"][..]),
            (End::Acquire, &["load_acquire", "Acquire", "AcqRel"]),
            (End::Fence, &["fence", "light_fence", "heavy_fence", "compiler_fence", "SeqCst"]),
        ]
        .into_iter()
        .filter(|(_, marks)| marks.iter().any(|mark| words.contains(mark)))
        .map(|(end, _)| end)
        .collect()
    }

    /// The fact that the code names, in the spelling of labels.
    fn fact(&self) -> Option<String> {
        let name = words(self.code.split_once("Fact::")?.1).next()?;
        let mut kebab = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !kebab.is_empty() {
                kebab.push('-');
            }
            kebab.extend(c.to_lowercase());
        }
        Some(kebab)
    }
}

#[test]
fn every_label_has_both_ends() {
    let sources = sources();
    let mut sites: BTreeMap<&str, Vec<&Site>> = BTreeMap::new();
    let all: Vec<Site> = sources.iter().flat_map(labelled).collect();
    assert!(all.len() > 10, "the labels were not found");
    for site in &all {
        let ends = site.ends();
        assert!(!ends.is_empty(), "{}: nothing is ordered behind this label:\n{}", site.at, site.code);
        for (word, end) in [("Release here", End::Release), ("Acquire here", End::Acquire)] {
            if site.says.contains(word) {
                assert!(ends.contains(&end), "{}: it says `{word}`, the code does not:\n{}", site.at, site.code);
            }
        }
        if let Some(fact) = site.fact().filter(|_| !ends.contains(&End::Fence)) {
            assert!(site.labels.contains(&fact), "{}: labelled {:?}, but the fact is `{fact}`", site.at, site.labels);
        }
        for label in &site.labels {
            sites.entry(label).or_default().push(site);
        }
    }
    for (label, sites) in sites {
        let ends: BTreeSet<End> = sites.iter().flat_map(|site| site.ends()).collect();
        // A fence has its other side under another fact: the name of the order that holds there.
        let facts: BTreeSet<Option<String>> = sites.iter().map(|site| site.fact()).collect();
        let both = if ends == BTreeSet::from([End::Fence]) {
            facts.len() > 1 && facts.contains(&Some(label.to_owned()))
        } else {
            ends.is_superset(&BTreeSet::from([End::Release, End::Acquire]))
        };
        let places: Vec<&str> = sites.iter().map(|site| &*site.at).collect();
        assert!(both, "`{label}` has one end only ({ends:?}, {facts:?}): {places:?}");
    }
}

#[test]
fn every_ordered_access_has_a_label() {
    for source in sources() {
        if !source.path.contains("/src/") {
            continue;
        }
        let labelled = labelled_lines(&source);
        for (number, line) in library_lines(&source) {
            let called = |mark| line.find(mark).is_some_and(|at| !line[..at].contains("fn "));
            let ordered = ["store_release(", "add_release(", "load_acquire(", "fence("].into_iter().any(called)
                || ["Release", "Acquire", "AcqRel", "SeqCst"]
                    .iter()
                    .any(|order| line.contains(&format!("Ordering::{order}")));
            assert!(
                !ordered || labelled.contains(&number),
                "{}:{number}: this orders something; name it above: `// PAIRS label: what, and where the other end is`",
                source.path
            );
        }
    }
}

#[test]
fn the_memory_model_lists_every_label_and_nothing_else() {
    let sources = sources();
    let text = read("docs/memory-model.md");
    let table = text.split("\n## ").find(|section| section.starts_with("Labels\n")).expect("a section `Labels`");
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(label, _)| label.to_owned())
        .collect();
    let used: BTreeSet<String> = sources.iter().flat_map(labelled).flat_map(|site| site.labels).collect();
    assert_eq!(listed, used, "left: docs/memory-model.md, right: the sources");

    let functions = functions(&sources);
    let mut quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let comments: Vec<String> = sources.iter().flat_map(labelled).map(|site| site.says).collect();
    quoted.extend(comments.iter().flat_map(|says| says.split_whitespace()));
    for name in quoted {
        let name = name.trim_matches(|c: char| !c.is_alphanumeric() && c != '_');
        let named = match name.split_once("::") {
            Some((_, function)) if function.starts_with(char::is_lowercase) => function,
            // The name of a test is a sentence.
            None if name.matches('_').count() > 2 && !name.contains(|c: char| !c.is_lowercase() && c != '_') => name,
            _ => continue,
        };
        assert!(functions.contains(named), "`{name}` is named as a partner or model, but there is no such function");
    }
}

#[test]
fn unsafe_stays_in_its_rooms() {
    for source in sources() {
        if UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room)) {
            continue;
        }
        for (number, line) in (1..).zip(source.code.lines()) {
            assert!(
                words(line).all(|word| word != "unsafe"),
                "{}:{number}: unsafe code stands in {UNSAFE_ROOMS:?} only",
                source.path
            );
        }
    }
}

#[test]
fn what_is_no_code_is_taken_out() {
    let code = without_literals(
        "a /* unsafe /* x */ */ b // unsafe\n\"unsafe \\\" unsafe\" 'u' r#\"unsafe\"# '\\'' &'a str\n",
    );
    let left: Vec<&str> = words(&code).collect();
    assert_eq!(left, ["a", "b", "a", "str"]);
    assert_eq!(code.lines().count(), 2);
}

/// What the comments of one file label.
fn labelled(source: &Source) -> Vec<Site> {
    walk(source).0
}

/// Lines that belong to a statement with a label.
fn labelled_lines(source: &Source) -> BTreeSet<usize> {
    walk(source).1
}

fn walk(source: &Source) -> (Vec<Site>, BTreeSet<usize>) {
    let (mut sites, mut covered) = (Vec::new(), BTreeSet::new());
    let lines: Vec<(&str, &str)> = source.text.lines().zip(source.code.lines()).collect();
    for (index, (line, _)) in lines.iter().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix("// PAIRS ") else { continue };
        let at = format!("{}:{}", source.path, index + 1);
        let (labels, says) = comment.split_once(": ").unwrap_or_else(|| panic!("{at}: `PAIRS label: ...`"));
        let labels: Vec<String> = labels.split(", ").map(str::to_owned).collect();
        for label in &labels {
            assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{at}: `{label}` is no label");
        }
        let mut says = says.to_owned();
        let mut rest = index + 1;
        while let Some(more) = lines.get(rest).and_then(|(line, _)| line.trim_start().strip_prefix("//")) {
            says += more;
            rest += 1;
        }
        let mut code = String::new();
        while let Some((_, line)) = lines.get(rest) {
            covered.insert(rest + 1);
            code += line;
            code.push('\n');
            rest += 1;
            if line.trim_end().ends_with([';', '{', '}']) {
                break;
            }
        }
        sites.push(Site { at, labels, says, code });
    }
    (sites, covered)
}

/// Numbered lines of code, up to the file's own tests.
fn library_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let tests = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
    let lines = (1..).zip(source.code.lines()).take_while(|(_, line)| line.trim() != "mod tests {");
    lines.filter(move |_| !tests)
}

fn functions(sources: &[Source]) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for source in sources {
        let mut words = words(&source.code);
        while let Some(word) = words.next() {
            if word == "fn" {
                found.extend(words.next());
            }
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bus/ lies in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root(), &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("sources are text");
        let path = path.strip_prefix(root()).expect("it was found there").display().to_string();
        Source { path, code: without_literals(&text), text }
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    // What cargo builds, wherever it was told to.
    if folder.join("CACHEDIR.TAG").exists() {
        return;
    }
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            collect(&path, paths);
        } else if path.extension().is_some_and(|it| it == "rs") {
            paths.push(path);
        }
    }
}

/// The text with comments and literals blanked; lines stay where they are.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let identifier_before = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(len) = raw_string(rest).filter(|_| !identifier_before) {
            len
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && !is_lifetime(rest) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[len..];
    }
    code
}

/// Bytes of the literal that begins here.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_lifetime(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    chars.next().is_some_and(|c| c != '\\') && chars.next() != Some('\'')
}

fn raw_string(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    let body = inner[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).unwrap_or(body.len().saturating_sub(close.len()));
    Some(text.len() - body.len() + end + close.len())
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}
