//! Reading a [`Policy`] from its file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use nodeset_bus::topic::{AddressError, Pattern, check_node_name};
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use super::{Policy, Rule};

/// A policy could not be read. Nothing of it holds; correct the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Give the path of a file that the dispatcher may read.
    #[error("the policy {path:?} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or has keys that a policy does not have.
    #[error("{}, line {line}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Of the fault, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// There is no such user or group on this machine.
    #[error("{}, line {line}: there is no {kind} `{name}` on this machine: correct the name, or give a number", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Of the rule, from 1.
        line: usize,
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A pattern for topics, or the name of a host, is not valid.
    #[error("{}, line {line}", path.display())]
    Pattern {
        /// The file.
        path: PathBuf,
        /// Of the rule, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    /// Must be there: a file that is still being written is refused, and does not open everything.
    default: Effect,
    #[serde(default)]
    rule: Vec<Spanned<RuleText>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Allow,
    Deny,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum DeedText {
    Publish,
    Subscribe,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    allow: Option<Vec<DeedText>>,
    deny: Option<Vec<DeedText>>,
    users: Option<Vec<NameOrNumber>>,
    groups: Option<Vec<NameOrNumber>>,
    peers: Option<Vec<String>>,
    topics: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a name or a number")]
enum NameOrNumber {
    Number(u32),
    Name(String),
}

/// Reads the policy at `path`.
///
/// # Errors
///
/// What is wrong with it, and in which line.
pub fn read(path: &Path) -> Result<Policy, PolicyError> {
    let text = fs::read_to_string(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Reads a policy from `text`; `path` is only for messages.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Policy, PolicyError> {
    let parsed: Text = toml::from_str(text).map_err(|error| PolicyError::Parse {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        why: error.message().to_owned(),
    })?;
    let reader = Reader { path };
    let rules = parsed.rule.into_iter().map(|rule| {
        let line = line_of(text, rule.span().start);
        reader.rule(line, rule.into_inner())
    });
    Ok(Policy {
        path: Some(path.to_owned()),
        rules: rules.collect::<Result<_, _>>()?,
        allow_others: parsed.default == Effect::Allow,
    })
}

/// The line that byte `at` is in, from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn rule(&self, line: usize, text: RuleText) -> Result<Rule, PolicyError> {
        let RuleText { allow, deny, users, groups, peers, topics } = text;
        let (allow, deeds) = match (allow, deny) {
            (Some(deeds), None) => (true, deeds),
            (None, Some(deeds)) => (false, deeds),
            _ => return Err(self.wrong(line, "a rule has either `allow` or `deny`")),
        };
        let empty = deeds.is_empty()
            || users.as_ref().is_some_and(Vec::is_empty)
            || groups.as_ref().is_some_and(Vec::is_empty)
            || peers.as_ref().is_some_and(Vec::is_empty)
            || topics.as_ref().is_some_and(Vec::is_empty);
        if empty {
            return Err(self.wrong(line, "an empty list fits nothing: leave the key out, or name something"));
        }
        let users = self.numbers(line, "user", users, |name| Ok(User::from_name(name)?.map(|it| it.uid.as_raw())))?;
        let groups =
            self.numbers(line, "group", groups, |name| Ok(Group::from_name(name)?.map(|it| it.gid.as_raw())))?;
        let topics = topics.map(|all| all.iter().map(|it| Pattern::new(it)).collect::<Result<_, _>>()).transpose();
        let topics = topics.map_err(|source| self.address(line, source))?;
        for peer in peers.iter().flatten() {
            check_node_name(peer).map_err(|source| self.address(line, source))?;
        }
        let (publish, subscribe) = (deeds.contains(&DeedText::Publish), deeds.contains(&DeedText::Subscribe));
        Ok(Rule { line, allow, publish, subscribe, users, groups, peers, topics })
    }

    fn numbers(
        &self,
        line: usize,
        kind: &'static str,
        listed: Option<Vec<NameOrNumber>>,
        look_up: impl Fn(&str) -> nix::Result<Option<u32>>,
    ) -> Result<Option<Vec<u32>>, PolicyError> {
        let Some(listed) = listed else { return Ok(None) };
        let number = |one| match one {
            NameOrNumber::Number(number) => Ok(number),
            NameOrNumber::Name(name) => match look_up(&name) {
                Ok(Some(number)) => Ok(number),
                Ok(None) => Err(PolicyError::Unknown { path: self.path.to_owned(), line, kind, name }),
                Err(error) => Err(self.wrong(line, format!("the {kind} `{name}` cannot be looked up ({error})"))),
            },
        };
        listed.into_iter().map(number).collect::<Result<_, _>>().map(Some)
    }

    fn address(&self, line: usize, source: AddressError) -> PolicyError {
        PolicyError::Pattern { path: self.path.to_owned(), line, source }
    }

    fn wrong(&self, line: usize, why: impl Into<String>) -> PolicyError {
        PolicyError::Parse { path: self.path.to_owned(), line, why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    fn wrong(text: &str) -> String {
        let error = parse(Path::new("rules.toml"), text).unwrap_err();
        match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let rule = |text: &str| format!("default = \"allow\"\n[[rule]]\n{text}");
        for (text, line, why) in [
            (String::new(), 1, "missing field `default`"),
            ("default = \"deny\"\n\nnonsense = 1\n".to_owned(), 3, "unknown field `nonsense`"),
            ("default = \"maybe\"\n".to_owned(), 1, "unknown variant `maybe`"),
            ("default = \"deny\"\n[[rule]\n".to_owned(), 2, ""),
            (rule("allow = [\"write\"]\n"), 3, "unknown variant `write`"),
            (rule("users = [1]\n"), 2, "either `allow` or `deny`"),
            (rule("allow = [\"publish\"]\ndeny = [\"publish\"]\n"), 2, "either `allow` or `deny`"),
            (rule("allow = []\n"), 2, "an empty list"),
            (rule("allow = [\"publish\"]\ntopics = []\n"), 2, "an empty list"),
            (rule("allow = [\"publish\"]\npeers = []\n"), 2, "an empty list"),
            (rule("allow = [\"publish\"]\npeers = [\"b/c\"]\n"), 2, "`b/c` is not"),
            (rule("allow = [\"publish\"]\nusers = [-1]\n"), 4, "a name or a number"),
            (rule("allow = [\"publish\"]\nusers = [\"nobody at all\"]\n"), 2, "there is no user `nobody at all`"),
            (rule("allow = [\"publish\"]\ngroups = [\"none at all\"]\n"), 2, "there is no group `none at all`"),
            (rule("allow = [\"publish\"]\ntopics = [\"a/b*\"]\n"), 2, "`a/b*` is not a pattern"),
        ] {
            let said = wrong(&text);
            assert!(said.starts_with(&format!("rules.toml, line {line}")) && said.contains(why), "{text:?}: {said}");
        }
    }

    #[test]
    fn names_are_looked_up() {
        let policy = parse(
            Path::new("rules.toml"),
            "default = \"deny\"\n[[rule]]\nallow = [\"publish\"]\nusers = [\"root\"]\ngroups = [\"root\", 5]\n",
        );
        let rule = &policy.unwrap().rules[0];
        assert_eq!((rule.users.as_deref(), rule.groups.as_deref()), (Some(&[0][..]), Some(&[0, 5][..])));
    }

    #[test]
    fn a_file_that_is_not_there_is_said() {
        let error = read(Path::new("/nowhere/rules.toml")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/rules.toml"), "{error}");
    }
}
