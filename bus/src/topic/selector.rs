//! What a subscription wants: topics, and of whom.

use std::fmt;

use super::{AddressError, Expected, Host, Name, Pattern, Target, Topic, check_len, split_target};

/// What is subscribed: `[node "@" host "/"] pattern`. A plain topic is one, an address is one, a pattern is one.
///
/// With node and host, only publications of that node are meant.
///
/// ```
/// use nodeset_bus::topic::{Selector, Topic};
///
/// let selector: Selector = "arm@local/robot/**".parse()?;
/// assert!(selector.matches(&Topic::new("robot/pose")?));
/// assert!(selector.wants_node(["arm"], "workshop") && !selector.wants_node(["leg"], "workshop"));
/// assert_eq!(selector.as_topic(), None);
///
/// let error = "arm@local/robot/x*".parse::<Selector>().unwrap_err();
/// assert_eq!(error.at(), 17);
/// # Ok::<(), nodeset_bus::topic::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    target: Option<Target>,
    pattern: Pattern,
}

impl Selector {
    /// Checks and takes `text` apart.
    ///
    /// # Errors
    ///
    /// Where the first fault is, and what it is.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        let fault = |at, reason| AddressError::new(text, Expected::Selector, at, reason);
        check_len(text).map_err(|(at, reason)| fault(at, reason))?;
        let (target, start) = split_target(text).map_err(|(at, reason)| fault(at, reason))?;
        let pattern = Pattern::new(&text[start..]).map_err(|error| fault(start + error.at, error.reason))?;
        Ok(Self { target, pattern })
    }

    /// Whose publications are meant; `None`: everybody's, here and on bridged hosts.
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// On which topics.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The topic, when it is a plain one: everybody's, without `*` and `**`.
    pub fn as_topic(&self) -> Option<Topic> {
        if self.target.is_some() { None } else { self.pattern.as_topic() }
    }

    /// Whether `topic` is meant, if the right node publishes it. Wildcards stand for no reserved level: each one that the topic
    /// has (it begins with `$`) must be named.
    pub fn matches(&self, topic: &Topic) -> bool {
        self.pattern.matches(topic)
            && topic.reserved_levels().all(|reserved| self.pattern.levels().any(|level| level == reserved))
    }

    /// Whether a node of another host is meant that goes by any of `names`; `host` is that host's name.
    pub fn wants_node_of<'a>(&self, names: impl IntoIterator<Item = &'a str>, host: &str) -> bool {
        let is_local = self.target.as_ref().is_some_and(|target| target.host == Host::Local);
        !is_local && self.wants_node(names, host)
    }

    /// Whether a node of this host is meant that goes by any of `names`; `host` is this host's name.
    pub fn wants_node<'a>(&self, names: impl IntoIterator<Item = &'a str>, host: &str) -> bool {
        let Some(Target { node, host: wanted }) = &self.target else { return true };
        let here = match wanted {
            Host::Any | Host::Local => true,
            Host::Only(name) => **name == *host,
        };
        here && match node {
            Name::Any => true,
            Name::Only(wanted) => names.into_iter().any(|name| **wanted == *name),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(target) = &self.target {
            write!(f, "{target}/")?;
        }
        f.write_str(self.pattern.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    fn selector(text: &str) -> Selector {
        Selector::new(text).unwrap()
    }

    #[test]
    fn topics_addresses_and_patterns_are_selectors() {
        for text in ["a", "a/b", "*", "a/**/b", "n@local/a", "*@*/a/*", "n@h/**", "*@local/**"] {
            assert_eq!(selector(text).to_string(), text);
        }
        assert_eq!(selector("a/b").as_topic(), Some(Topic::new("a/b").unwrap()));
        assert_eq!(selector("a/*").as_topic(), None);
        assert_eq!(selector("*@*/a").as_topic(), None);
    }

    #[test]
    fn wildcards_stand_for_no_reserved_level() {
        let call = Topic::new("robot/plan/$call/7/8").unwrap();
        for (text, meant) in [
            ("robot/**", false),
            ("robot/plan/*/7/8", false),
            ("**/8", false),
            ("robot/plan/$reply/7/8", false),
            ("robot/plan/$call/7/8", true),
            ("robot/plan/$call/7/*", true),
            ("**/$call/**", true),
            ("planner@local/robot/**/$call/**", true),
        ] {
            assert_eq!(selector(text).matches(&call), meant, "{text}");
        }
        assert!(selector("**").matches(&Topic::new("price/in-$").unwrap()));
    }

    #[test]
    fn faults_are_found_where_they_are() {
        for (text, at, reason) in [
            ("", 0, Reason::Empty),
            ("n@h", 3, Reason::NoTopic),
            ("n@h/", 4, Reason::NoTopic),
            ("n@/a", 2, Reason::EmptyLevel),
            ("n*@h/a", 1, Reason::Forbidden('*')),
            ("n@h/a*", 5, Reason::PartOfLevel),
            ("n@h/***", 4, Reason::PartOfLevel),
            ("n@h/a//b", 6, Reason::EmptyLevel),
            ("a/n@h", 3, Reason::Forbidden('@')),
            ("**@h/a", 0, Reason::Forbidden('*')),
        ] {
            let error = Selector::new(text).unwrap_err();
            assert_eq!((error.at(), error.reason(), error.text()), (at, reason, text), "{error}");
        }
        let error = Selector::new("n@h/a*").unwrap_err().to_string();
        assert!(error.starts_with("`n@h/a*` is not a topic, address or pattern: at byte 5, "), "{error}");
    }

    #[test]
    fn nodes_are_meant_by_name_and_host() {
        for (text, wanted) in [
            ("a", true),
            ("*@*/a", true),
            ("*@local/a", true),
            ("*@here/a", true),
            ("*@there/a", false),
            ("n@local/a", true),
            ("n-2@here/a", true),
            ("m@local/a", false),
            ("n@there/a", false),
        ] {
            assert_eq!(selector(text).wants_node(["n-2", "n"], "here"), wanted, "{text}");
            let elsewhere = wanted && !text.contains("@local");
            assert_eq!(selector(text).wants_node_of(["n-2", "n"], "here"), elsewhere, "{text}");
        }
    }
}
