//! Where messages go: topics, addresses, patterns.
//!
//! ```text
//! topic     level *("/" level)                      robot/arm/pose
//! address   [node "@" host "/"] topic               arm@workshop/robot/arm/pose
//! pattern   topic with `*` and `**` as levels       robot/*/pose, robot/**
//! selector  [node "@" host "/"] pattern             arm@local/robot/**
//! ```
//!
//! A node's name, a host's name and a level have 1 to 255 bytes of UTF-8 without `/`, `@`, `*`, control characters and
//! white space; the whole has at most 1 024 bytes. In an address, the host `local` is this host, and `*` stands for any
//! node or any host; without node and host it means everyone, here and on bridged hosts, who subscribed. In a pattern `*`
//! stands for exactly one level and `**` for any number of them, none included. What is published is a topic, what is
//! subscribed a selector: any of the four.
//!
//! A level that begins with `$` is *reserved*: what a subscription's wildcards stand for does not reach into it. So requests
//! and their replies (`robot/plan/$call/...`) do not come to whoever subscribed `robot/**`.

mod index;
mod selector;

use std::fmt;
use std::str::FromStr;

pub use index::PatternIndex;
pub use selector::Selector;

/// bytes; the most that a name or a level may have.
pub const MAX_LEVEL_LEN: usize = 255;

/// bytes; the most that a topic, an address or a pattern may have.
pub const MAX_LEN: usize = 1024;

/// A plain topic: where one publishes, and what one subscribes to.
///
/// ```
/// use nodeset_bus::topic::Topic;
///
/// let topic: Topic = "robot/arm/pose".parse()?;
/// assert_eq!(topic.levels().collect::<Vec<_>>(), ["robot", "arm", "pose"]);
///
/// let error = "robot//pose".parse::<Topic>().unwrap_err();
/// assert_eq!(error.at(), 6);
/// assert_eq!(error.to_string(), "`robot//pose` is not a topic: at byte 6, a level or name is empty");
/// # Ok::<(), nodeset_bus::topic::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic {
    /// Checked: levels separated by `/`.
    text: Box<str>,
}

impl Topic {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// Where the first fault is, and what it is.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        let fault = |at, reason| AddressError::new(text, Expected::Topic, at, reason);
        check_len(text).map_err(|(at, reason)| fault(at, reason))?;
        for (at, level) in split(text, 0) {
            check_name(level).map_err(|(inside, reason)| fault(at + inside, reason))?;
        }
        Ok(Self { text: text.into() })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its levels; at least one.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.text.split('/')
    }

    /// Those of its levels that a subscription must name, since no wildcard stands for them: they begin with `$`.
    pub fn reserved_levels(&self) -> impl Iterator<Item = &str> {
        self.levels().filter(|level| level.starts_with('$'))
    }
}

/// A topic, and who of its subscribers is meant.
///
/// ```
/// use nodeset_bus::topic::{Address, Host, Name};
///
/// let address: Address = "arm@local/robot/pose".parse()?;
/// let target = address.target().expect("it names one");
/// assert_eq!(target.node, Name::Only("arm".into()));
/// assert_eq!(target.host, Host::Local);
/// assert_eq!(address.topic().as_str(), "robot/pose");
/// # Ok::<(), nodeset_bus::topic::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    target: Option<Target>,
    topic: Topic,
}

/// The part of an address before its topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Which node.
    pub node: Name,
    /// On which host.
    pub host: Host,
}

/// Which node an address means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// `*`: any.
    Any,
    /// The one of this name.
    Only(Box<str>),
}

/// Which host an address means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// `*`: any.
    Any,
    /// `local`: this one, whatever its name is.
    Local,
    /// The one of this name.
    Only(Box<str>),
}

impl Address {
    /// Checks and takes `text` apart.
    ///
    /// # Errors
    ///
    /// Where the first fault is, and what it is.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        let fault = |at, reason| AddressError::new(text, Expected::Address, at, reason);
        check_len(text).map_err(|(at, reason)| fault(at, reason))?;
        let (target, start) = split_target(text).map_err(|(at, reason)| fault(at, reason))?;
        let topic = Topic::new(&text[start..]).map_err(|error| fault(start + error.at, error.reason))?;
        Ok(Self { target, topic })
    }

    /// Who is meant; `None`: everyone who subscribed, here and on bridged hosts.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Its topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }
}

impl From<Topic> for Address {
    fn from(topic: Topic) -> Self {
        Self { target: None, topic }
    }
}

/// Which topics are meant.
///
/// ```
/// use nodeset_bus::topic::{Pattern, Topic};
///
/// let pattern: Pattern = "robot/**/pose".parse()?;
/// assert!(pattern.matches(&Topic::new("robot/pose")?));
/// assert!(pattern.matches(&Topic::new("robot/left/arm/pose")?));
/// assert!(!pattern.matches(&Topic::new("robot/left/speed")?));
/// # Ok::<(), nodeset_bus::topic::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Checked: levels, `*` and `**` separated by `/`.
    text: Box<str>,
}

impl Pattern {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// Where the first fault is, and what it is.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        let fault = |at, reason| AddressError::new(text, Expected::Pattern, at, reason);
        check_len(text).map_err(|(at, reason)| fault(at, reason))?;
        for (at, level) in split(text, 0) {
            if level != "*" && level != "**" {
                check_name(level).map_err(|(inside, reason)| {
                    let reason = if reason == Reason::Forbidden('*') { Reason::PartOfLevel } else { reason };
                    fault(at + inside, reason)
                })?;
            }
        }
        Ok(Self { text: text.into() })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its levels, `*` and `**` among them; at least one.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.text.split('/')
    }

    /// The levels before its first `*` or `**`: every topic that it matches begins with these bytes.
    pub fn literal_prefix(&self) -> &str {
        let end = self.text.find('*').unwrap_or(self.text.len());
        // What `a/**` matches may be `a`.
        self.text[..end].trim_end_matches('/')
    }

    /// The one topic it matches, when it has neither `*` nor `**`.
    pub fn as_topic(&self) -> Option<Topic> {
        (!self.text.contains('*')).then(|| Topic { text: self.text.clone() })
    }

    /// Whether `topic` is meant. Allocates nothing; takes time in proportion to the product of both lengths at most.
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut pattern = self.text.split('/');
        let mut levels = topic.text.split('/');
        // Where to go on when what follows the last `**` does not fit: behind that `**`, one level later. An earlier
        // `**` need not be tried again, the last one can take whatever that would change.
        let mut retry = None;
        loop {
            let (wanted, found) = (pattern.clone().next(), levels.clone().next());
            match (wanted, found) {
                (None, None) => return true,
                (Some("**"), _) => {
                    pattern.next();
                    retry = Some((pattern.clone(), levels.clone()));
                    continue;
                }
                (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {
                    pattern.next();
                    levels.next();
                    continue;
                }
                _ => {}
            }
            let Some((behind, mut later)) = retry else { return false };
            if later.next().is_none() {
                return false;
            }
            (pattern, levels) = (behind.clone(), later.clone());
            retry = Some((behind, later));
        }
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self { text: topic.text }
    }
}

/// Checks the name of a node or of a host.
///
/// # Errors
///
/// Where the first fault is, and what it is.
pub fn check_node_name(name: &str) -> Result<(), AddressError> {
    if name.is_empty() {
        return Err(AddressError::new(name, Expected::Name, 0, Reason::Empty));
    }
    check_name(name).map_err(|(at, reason)| AddressError::new(name, Expected::Name, at, reason))
}

/// Why a text is not a topic, address, pattern or name. Give up and correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {}: at byte {at}, {reason}{}", shown(.text), .expected.name(), advice(*.expected, *.reason))]
pub struct AddressError {
    text: Box<str>,
    expected: Expected,
    /// bytes; 0 <= at <= text.len()
    at: usize,
    reason: Reason,
}

impl AddressError {
    fn new(text: &str, expected: Expected, at: usize, reason: Reason) -> Self {
        Self { text: text.into(), expected, at, reason }
    }

    /// Where the fault is, in bytes from the start of the text.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What it is.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The text that was refused.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Topic,
    Address,
    Pattern,
    Selector,
    Name,
}

impl Expected {
    fn name(self) -> &'static str {
        match self {
            Self::Topic => "a topic",
            Self::Address => "an address",
            Self::Pattern => "a pattern",
            Self::Selector => "a topic, address or pattern",
            Self::Name => "a name",
        }
    }
}

/// What to do, where it is not to leave out what is wrong.
fn advice(expected: Expected, reason: Reason) -> &'static str {
    match (expected, reason) {
        (Expected::Topic, Reason::Forbidden('*')) => {
            "; patterns can be subscribed, but only a plain topic be published"
        }
        (Expected::Topic, Reason::Forbidden('@')) => {
            "; whose messages are meant is said by who subscribes, what is published is a plain topic"
        }
        _ => "",
    }
}

/// What is wrong with a topic, address, pattern or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The text has no bytes at all.
    #[error("it is empty")]
    Empty,
    /// Nothing stands between two `/`, before the first or after the last, or a name has no bytes.
    #[error("a level or name is empty")]
    EmptyLevel,
    /// More than [`MAX_LEN`] bytes.
    #[error("it is longer than {MAX_LEN} bytes")]
    TooLong,
    /// A name or a level has more than [`MAX_LEVEL_LEN`] bytes.
    #[error("a level or name is longer than {MAX_LEVEL_LEN} bytes")]
    LevelTooLong,
    /// A character that may not be there: `/`, `@`, `*`, white space or a control character.
    #[error("{0:?} is not allowed")]
    Forbidden(char),
    /// `*` in a pattern stands beside other characters of its level.
    #[error("`*` and `**` stand for whole levels, not for parts of one")]
    PartOfLevel,
    /// Node and host are there, but no topic.
    #[error("a `/` and the topic must follow the host")]
    NoTopic,
}

/// The levels with where they start.
fn split(text: &str, start: usize) -> impl Iterator<Item = (usize, &str)> {
    text.split('/').scan(start, |at, level| {
        let here = *at;
        *at += level.len() + 1;
        Some((here, level))
    })
}

/// Takes node and host off the front, if they are there; says where the rest begins, of which there is some.
fn split_target(text: &str) -> Result<(Option<Target>, usize), (usize, Reason)> {
    let first = text.split('/').next().unwrap_or("");
    let Some((node, host)) = first.split_once('@') else { return Ok((None, 0)) };
    let host_at = node.len() + 1;
    if node != "*" {
        check_name(node)?;
    }
    if host != "*" {
        check_name(host).map_err(|(at, reason)| (host_at + at, reason))?;
    }
    let start = first.len() + 1;
    if start >= text.len() {
        return Err((text.len(), Reason::NoTopic));
    }
    let node = if node == "*" { Name::Any } else { Name::Only(node.into()) };
    let host = match host {
        "*" => Host::Any,
        "local" => Host::Local,
        host => Host::Only(host.into()),
    };
    Ok((Some(Target { node, host }), start))
}

fn check_len(text: &str) -> Result<(), (usize, Reason)> {
    if text.is_empty() {
        Err((0, Reason::Empty))
    } else if text.len() > MAX_LEN {
        Err((MAX_LEN, Reason::TooLong))
    } else {
        Ok(())
    }
}

/// A node's name, a host's name or a level; says at which of its bytes it is wrong.
fn check_name(name: &str) -> Result<(), (usize, Reason)> {
    if name.is_empty() {
        return Err((0, Reason::EmptyLevel));
    }
    let forbidden = |c: char| matches!(c, '/' | '@' | '*') || c.is_control() || c.is_whitespace();
    if let Some((at, c)) = name.char_indices().find(|(_, c)| forbidden(*c)) {
        return Err((at, Reason::Forbidden(c)));
    }
    if name.len() > MAX_LEVEL_LEN {
        return Err((MAX_LEVEL_LEN, Reason::LevelTooLong));
    }
    Ok(())
}

/// The text for an error: without control characters, and not longer than a line or two.
fn shown(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown: String = text.chars().take(MOST).flat_map(escape_control).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let (escaped, plain) = if c.is_control() { (Some(c.escape_default()), None) } else { (None, Some(c)) };
    escaped.into_iter().flatten().chain(plain)
}

macro_rules! text {
    ($($type:ident)*) => {$(
        impl FromStr for $type {
            type Err = AddressError;

            fn from_str(text: &str) -> Result<Self, AddressError> {
                Self::new(text)
            }
        }
    )*};
}

text! { Topic Address Pattern Selector }

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(target) = &self.target {
            write!(f, "{target}/")?;
        }
        f.write_str(&self.topic.text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.host)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Only(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Local => f.write_str("local"),
            Self::Only(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c]{1,2}",
            "[^/@*\\s\\p{Cc}]{1,8}".prop_filter("white space of every kind is forbidden", |text| {
                !text.contains(|c: char| c.is_whitespace() || c.is_control())
            }),
            Just("x".repeat(MAX_LEVEL_LEN)),
        ]
    }

    fn levels() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(level(), 1..=3)
    }

    fn refused<T: FromStr<Err = AddressError>>(text: &str) -> (usize, Reason) {
        let error = text.parse::<T>().map(|_| ()).unwrap_err();
        assert_eq!(error.text(), text);
        (error.at(), error.reason())
    }

    #[test]
    fn faults_are_found_where_they_are() {
        assert_eq!(refused::<Topic>(""), (0, Reason::Empty));
        assert_eq!(refused::<Topic>("/a"), (0, Reason::EmptyLevel));
        assert_eq!(refused::<Topic>("a/"), (2, Reason::EmptyLevel));
        assert_eq!(refused::<Topic>("a//b"), (2, Reason::EmptyLevel));
        assert_eq!(refused::<Topic>("a/b c"), (3, Reason::Forbidden(' ')));
        assert_eq!(refused::<Topic>("gr\u{f6}\u{df}e/\u{2003}"), (8, Reason::Forbidden('\u{2003}')));
        assert_eq!(refused::<Topic>("a/*"), (2, Reason::Forbidden('*')));
        assert_eq!(refused::<Topic>("n@h/a"), (1, Reason::Forbidden('@')));
        assert_eq!(refused::<Topic>(&"x".repeat(256)), (255, Reason::LevelTooLong));
        assert_eq!(refused::<Topic>(&"x/".repeat(600)), (1024, Reason::TooLong));
        assert_eq!(refused::<Pattern>("a/b*"), (3, Reason::PartOfLevel));
        assert_eq!(refused::<Pattern>("a/***"), (2, Reason::PartOfLevel));
        assert_eq!(refused::<Pattern>("*//a"), (2, Reason::EmptyLevel));
        assert_eq!(refused::<Address>("n@h"), (3, Reason::NoTopic));
        assert_eq!(refused::<Address>("n@h/"), (4, Reason::NoTopic));
        assert_eq!(refused::<Address>("@h/a"), (0, Reason::EmptyLevel));
        assert_eq!(refused::<Address>("n@/a"), (2, Reason::EmptyLevel));
        assert_eq!(refused::<Address>("n@h@i/a"), (3, Reason::Forbidden('@')));
        assert_eq!(refused::<Address>("n@h/a@b"), (5, Reason::Forbidden('@')));
        assert_eq!(refused::<Address>("a/n@h"), (3, Reason::Forbidden('@')));
        assert_eq!(refused::<Address>("n*@h/a"), (1, Reason::Forbidden('*')));
        assert_eq!(refused::<Address>("a/*"), (2, Reason::Forbidden('*')));
    }

    #[test]
    fn errors_are_one_line_of_bearable_length() {
        let error = Topic::new(&"a\nb".repeat(200)).unwrap_err().to_string();
        assert!(error.starts_with("`a\\nba\\nb"), "{error}");
        assert!(error.ends_with("` is not a topic: at byte 1, '\\n' is not allowed"), "{error}");
        assert!(error.len() < 400, "{error}");
        assert_eq!(
            check_node_name("a/b").unwrap_err().to_string(),
            "`a/b` is not a name: at byte 1, '/' is not allowed"
        );
        let wildcard = Topic::new("a/*").unwrap_err().to_string();
        assert!(wildcard.ends_with("but only a plain topic be published"), "{wildcard}");
        assert_eq!(check_node_name("").unwrap_err().to_string(), "`` is not a name: at byte 0, it is empty");
        assert!(check_node_name("camera-2").is_ok());
    }

    #[test]
    fn targets_are_told_apart() {
        let target = |text: &str| Address::new(text).unwrap().target().cloned();
        assert_eq!(target("a/b"), None);
        assert_eq!(target("*@*/a"), Some(Target { node: Name::Any, host: Host::Any }));
        assert_eq!(target("n@local/a"), Some(Target { node: Name::Only("n".into()), host: Host::Local }));
        assert_eq!(target("*@h/a"), Some(Target { node: Name::Any, host: Host::Only("h".into()) }));
        assert_eq!(Address::from(Topic::new("a/b").unwrap()), Address::new("a/b").unwrap());
    }

    /// As the definition says, by recursion.
    pub(super) fn matches_by_definition(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=topic.len()).any(|taken| matches_by_definition(rest, &topic[taken..])),
            (["*", rest @ ..], [_, topic @ ..]) => matches_by_definition(rest, topic),
            ([wanted, rest @ ..], [found, topic @ ..]) => wanted == found && matches_by_definition(rest, topic),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_valid_is_taken_and_shown_unchanged(node in level(), host in level(), levels in levels()) {
            let text = levels.join("/");
            let topic = Topic::new(&text).unwrap();
            prop_assert_eq!(topic.to_string(), &text[..]);
            prop_assert_eq!(topic.levels().collect::<Vec<_>>(), levels);
            let address = Address::new(&format!("{node}@{host}/{text}"));
            if node.len() + host.len() + text.len() + 2 <= MAX_LEN {
                let address = address.unwrap();
                prop_assert_eq!(address.topic(), &topic);
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            } else {
                prop_assert_eq!(address.unwrap_err().reason(), Reason::TooLong);
            }
            prop_assert_eq!(Pattern::new(&text).unwrap().as_topic(), Some(topic));
        }

        #[test]
        fn no_text_is_a_topic_unless_the_grammar_says_so(text in "[ab/@* \\PC]{0,12}") {
            let valid = !text.is_empty() && text.split('/').all(|level| {
                !level.is_empty() && !level.contains(|c: char| "@*".contains(c) || c.is_whitespace() || c.is_control())
            });
            match Topic::new(&text) {
                Ok(topic) => prop_assert!(valid, "{topic}"),
                Err(error) => {
                    prop_assert!(!valid, "{error}");
                    prop_assert!(text.is_char_boundary(error.at()), "{error}");
                }
            }
            let _ = Address::new(&text).map_err(|error| assert!(text.is_char_boundary(error.at())));
            let _ = Pattern::new(&text).map_err(|error| assert!(text.is_char_boundary(error.at())));
        }

        #[test]
        fn patterns_match_as_defined(
            pattern in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("*"), Just("**")], 1..7),
            topic in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..8),
        ) {
            let (defined, text) = (matches_by_definition(&pattern, &topic), topic.join("/"));
            let pattern = Pattern::new(&pattern.join("/")).unwrap();
            prop_assert_eq!(pattern.matches(&Topic::new(&text).unwrap()), defined);
            prop_assert!(!defined || text.starts_with(pattern.literal_prefix()));
        }
    }
}
