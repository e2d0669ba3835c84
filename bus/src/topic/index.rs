//! Many patterns, asked all at once which of them mean a topic.
//!
//! A tree with one step a level: a name, `*`, or `**`. A topic walks down it along all branches at the same time, level by
//! level, so what it costs follows from the branches that fit it and not from how many patterns there are.
//!
//! # Why no pattern makes it slow
//!
//! Patterns are stored in one form: in a run of wildcards each `*` comes first and then one `**` for all (`**/*/**` means
//! what `*/**` means). So `**/**/**/a` is `**/a`, and behind a `**` there is always a name or the end. A place in the tree is
//! visited once a level of the topic at most: it has one parent, and one behind a `**` is entered once and stays open for all
//! levels to come, since `**` takes them all.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Pattern, Topic};

/// Patterns by what they match, each with the keys that were put there for it.
///
/// ```
/// use nodeset_bus::topic::{Pattern, PatternIndex, Topic};
///
/// let mut index = PatternIndex::new();
/// index.insert(&Pattern::new("robot/**")?, 1);
/// index.insert(&Pattern::new("*/arm/pose")?, 2);
/// index.insert(&Pattern::new("robot/leg")?, 3);
///
/// let mut found: Vec<i32> = index.matching(&Topic::new("robot/arm/pose")?).copied().collect();
/// found.sort_unstable();
/// assert_eq!(found, [1, 2]);
/// # Ok::<(), nodeset_bus::topic::AddressError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PatternIndex<K> {
    root: Branch<K>,
    len: usize,
}

/// A place in the tree: what was stepped over so far leads here.
#[derive(Debug, Clone)]
struct Branch<K> {
    named: HashMap<Box<str>, Branch<K>>,
    /// Behind a `*`.
    one: Option<Box<Branch<K>>>,
    /// Behind a `**`; has neither `one` nor `any`.
    any: Option<Box<Branch<K>>>,
    /// Of the patterns that end here.
    keys: BTreeSet<K>,
}

/// One level of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    Named(&'a str),
    One,
    Any,
}

impl<K: Ord> PatternIndex<K> {
    /// One without patterns.
    pub fn new() -> PatternIndex<K> {
        PatternIndex { root: Branch::new(), len: 0 }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a key; false when that pattern has it already. Time in proportion to the pattern's length.
    pub fn insert(&mut self, pattern: &Pattern, key: K) -> bool {
        let end = steps(pattern).into_iter().fold(&mut self.root, Branch::enter);
        let added = end.keys.insert(key);
        self.len += usize::from(added);
        added
    }

    /// Takes a key away, and what of the tree was there for it only; false when that pattern does not have it.
    pub fn remove(&mut self, pattern: &Pattern, key: &K) -> bool {
        let removed = self.root.remove(&steps(pattern), key);
        self.len -= usize::from(removed);
        removed
    }

    /// The keys of all patterns that match, in no order; one that several patterns have comes as often. Allocates a list of
    /// the branches that fit.
    pub fn matching<'a>(&'a self, topic: &Topic) -> impl Iterator<Item = &'a K> + use<'a, K> {
        let mut walk = Walk { here: Vec::new(), open: Vec::new(), entered: HashSet::new() };
        walk.stand_on(vec![&self.root]);
        for level in topic.levels() {
            walk.step(level);
        }
        walk.here.into_iter().chain(walk.open).flat_map(|branch| &branch.keys)
    }
}

impl<K: Ord> Default for PatternIndex<K> {
    fn default() -> Self {
        PatternIndex::new()
    }
}

impl<K: Ord> Branch<K> {
    fn new() -> Branch<K> {
        Branch { named: HashMap::new(), one: None, any: None, keys: BTreeSet::new() }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.one.is_none() && self.any.is_none() && self.keys.is_empty()
    }

    /// The branch one step further, made if it is not there.
    fn enter(&mut self, step: Step<'_>) -> &mut Branch<K> {
        let new = || Box::new(Branch::new());
        match step {
            Step::Named(name) => self.named.entry(name.into()).or_insert_with(Branch::new),
            Step::One => self.one.get_or_insert_with(new),
            Step::Any => self.any.get_or_insert_with(new),
        }
    }

    /// Goes as deep as the pattern has levels, half as many as it may have bytes.
    fn remove(&mut self, steps: &[Step<'_>], key: &K) -> bool {
        let Some((&step, rest)) = steps.split_first() else { return self.keys.remove(key) };
        let next = match step {
            Step::Named(name) => self.named.get_mut(name),
            Step::One => self.one.as_deref_mut(),
            Step::Any => self.any.as_deref_mut(),
        };
        let Some(next) = next else { return false };
        let removed = next.remove(rest, key);
        if next.is_empty() {
            match step {
                Step::Named(name) => drop(self.named.remove(name)),
                Step::One => self.one = None,
                Step::Any => self.any = None,
            }
            if self.named.is_empty() {
                self.named = HashMap::new();
            }
        }
        removed
    }
}

/// A topic on its way down: where it stands after the levels taken so far.
struct Walk<'a, K> {
    /// Branches for which these levels were just enough.
    here: Vec<&'a Branch<K>>,
    /// Branches behind a `**` that was reached: each further level may belong to the `**`, too.
    open: Vec<&'a Branch<K>>,
    /// Those of `open`, by their address.
    entered: HashSet<*const Branch<K>>,
}

impl<'a, K> Walk<'a, K> {
    fn step(&mut self, level: &str) {
        let standing = self.here.iter().chain(&self.open);
        let next = standing.flat_map(|branch| branch.named.get(level).into_iter().chain(branch.one.as_deref()));
        let next = next.collect();
        self.stand_on(next);
    }

    /// Opens each `**` that begins here: it may stand for no level at all.
    fn stand_on(&mut self, here: Vec<&'a Branch<K>>) {
        for any in here.iter().filter_map(|branch| branch.any.as_deref()) {
            if self.entered.insert(any) {
                self.open.push(any);
            }
        }
        self.here = here;
    }
}

/// The levels of a pattern in the one form in which all patterns of its meaning are stored.
fn steps(pattern: &Pattern) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut any = false;
    for level in pattern.levels() {
        match level {
            "**" => any = true,
            "*" => steps.push(Step::One),
            name => {
                steps.extend(std::mem::take(&mut any).then_some(Step::Any));
                steps.push(Step::Named(name));
            }
        }
    }
    steps.extend(any.then_some(Step::Any));
    steps
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::tests::matches_by_definition;
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    #[test]
    fn patterns_of_one_meaning_are_one() {
        use Step::{Any, Named, One};
        for (text, steps_of) in [
            ("**/**/**/a", &[Any, Named("a")][..]),
            ("**/*/**", &[One, Any]),
            ("a/**/*/*/b", &[Named("a"), One, One, Any, Named("b")]),
            ("*", &[One]),
        ] {
            assert_eq!(steps(&pattern(text)), steps_of, "{text}");
        }
        let mut index = PatternIndex::new();
        assert!(index.insert(&pattern("**/*"), 1));
        assert!(!index.insert(&pattern("*/**"), 1));
        assert!(index.remove(&pattern("*/**/**"), &1));
        assert!(index.is_empty() && index.root.is_empty());
    }

    #[test]
    fn what_was_not_there_is_not_removed() {
        let mut index = PatternIndex::new();
        index.insert(&pattern("a/*/b"), 1);
        for (text, key) in [("a/*/b", 2), ("a/*", 1), ("a/*/b/c", 1), ("a/x/b", 1), ("**", 1)] {
            assert!(!index.remove(&pattern(text), &key), "{text}");
        }
        assert_eq!(index.len(), 1);
    }

    /// The paths that a matcher which tries each `**` at each length would take are more than it could ever walk; and a branch
    /// that could be entered twice at one level would give its keys twice.
    #[test]
    fn patterns_made_to_be_slow_are_not() {
        let mut index = PatternIndex::new();
        let deep = "a/".repeat(400) + "a";
        let mut wanted = BTreeSet::new();
        for key in 1..=100 {
            let text = "**/a/".repeat(key) + if key % 2 == 0 { "**" } else { "b" };
            index.insert(&pattern(&text), key);
            if key % 2 == 0 {
                wanted.insert(key);
            }
        }
        let found: Vec<usize> = index.matching(&topic(&deep)).copied().collect();
        assert_eq!(found.len(), wanted.len(), "each once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    }

    /// Inserts and removes, and after each of them topics.
    #[derive(Debug, Clone)]
    enum Change {
        Insert(Vec<&'static str>, u8),
        Remove(usize),
        /// Of what may not be there.
        RemoveAny(Vec<&'static str>, u8),
    }

    fn levels(from: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
        prop::collection::vec(prop::sample::select(from), 1..most)
    }

    fn change() -> impl Strategy<Value = Change> {
        let some = || levels(&["a", "b", "*", "**"], 7);
        prop_oneof![
            4 => (some(), 0..4_u8).prop_map(|(pattern, key)| Change::Insert(pattern, key)),
            2 => any::<usize>().prop_map(Change::Remove),
            1 => (some(), 0..4_u8).prop_map(|(pattern, key)| Change::RemoveAny(pattern, key)),
        ]
    }

    proptest! {
        #[test]
        fn it_finds_what_the_definition_finds(
            changes in prop::collection::vec(change(), 1..60),
            topics in prop::collection::vec(levels(&["a", "b", "c"], 8), 1..8),
        ) {
            let mut index = PatternIndex::new();
            // Patterns of one meaning are one, so the model keeps each by its steps.
            let mut model: BTreeSet<(String, u8)> = BTreeSet::new();
            let one_form = |pattern: &Pattern| {
                let levels = steps(pattern).into_iter().map(|step| match step {
                    Step::Named(name) => name,
                    Step::One => "*",
                    Step::Any => "**",
                });
                levels.collect::<Vec<_>>().join("/")
            };
            for change in changes {
                match change {
                    Change::Insert(levels, key) => {
                        let pattern = pattern(&levels.join("/"));
                        prop_assert_eq!(index.insert(&pattern, key), model.insert((one_form(&pattern), key)));
                    }
                    Change::Remove(at) => {
                        let Some((text, key)) = model.iter().nth(at % model.len().max(1)).cloned() else { continue };
                        prop_assert!(index.remove(&pattern(&text), &key));
                        model.remove(&(text, key));
                    }
                    Change::RemoveAny(levels, key) => {
                        let pattern = pattern(&levels.join("/"));
                        prop_assert_eq!(index.remove(&pattern, &key), model.remove(&(one_form(&pattern), key)));
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                for levels in &topics {
                    let mut found: Vec<u8> = index.matching(&topic(&levels.join("/"))).copied().collect();
                    let mut wanted: Vec<u8> = model.iter().filter_map(|(text, key)| {
                        let pattern: Vec<&str> = text.split('/').collect();
                        matches_by_definition(&pattern, levels).then_some(*key)
                    }).collect();
                    found.sort_unstable();
                    wanted.sort_unstable();
                    prop_assert_eq!(found, wanted);
                }
            }
            for (text, key) in model {
                prop_assert!(index.remove(&pattern(&text), &key));
            }
            prop_assert!(index.root.is_empty(), "something of the tree is left: {:?}", index.root);
        }

        #[test]
        fn the_one_form_means_the_same(
            text in levels(&["a", "b", "*", "**"], 8),
            levels in levels(&["a", "b", "c"], 8),
        ) {
            let pattern = pattern(&text.join("/"));
            let mut index = PatternIndex::new();
            index.insert(&pattern, ());
            let found = index.matching(&topic(&levels.join("/"))).count() == 1;
            prop_assert_eq!(found, matches_by_definition(&text, &levels));
        }
    }
}
