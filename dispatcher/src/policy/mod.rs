//! Which user may publish and subscribe what: rules of a file, the first that fits decides.
//!
//! ```toml
//! default = "deny"                    # what no rule decides, or "allow"; must be there
//!
//! [[rule]]
//! allow = ["publish", "subscribe"]    # or `deny = [...]`
//! users = ["robot", 1001]             # names or numbers
//! topics = ["arm/**"]
//!
//! [[rule]]
//! allow = ["subscribe"]
//! groups = ["operators"]              # without users, groups and peers: everybody
//! topics = ["arm/*/pose"]             # without topics: all
//!
//! [[rule]]
//! allow = ["publish"]
//! peers = ["camera-host"]             # other hosts, by name
//! ```
//!
//! A rule fits when it names what is asked for, and the user or one of its groups, or the host, and the topic. Who somebody is
//! says the kernel: the user, the group and the further groups that the process had when it connected; which host it is says
//! its key. What a host publishes is what arrives from there; what it subscribes is what is sent there.
//!
//! [`Policy`] only decides; [`mod@file`] reads it.

pub mod file;

use std::fmt;
use std::path::PathBuf;

use nodeset_bus::topic::{Pattern, Topic};

/// What somebody wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Send messages.
    Publish,
    /// Receive messages.
    Subscribe,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deed::Publish => "publish",
            Deed::Subscribe => "subscribe",
        })
    }
}

/// Who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// User.
    pub uid: u32,
    /// Its group and further groups.
    pub gids: &'a [u32],
}

/// Who may be meant by a rule.
#[derive(Clone, Copy)]
enum Asker<'a> {
    Local(Who<'a>),
    Peer(&'a str),
}

impl fmt::Display for Asker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asker::Local(who) => write!(f, "user {}", who.uid),
            Asker::Peer(name) => write!(f, "host `{name}`"),
        }
    }
}

/// Rules, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where they stand; `None`: nowhere, everything is allowed.
    path: Option<PathBuf>,
    rules: Vec<Rule>,
    /// What no rule decides is allowed.
    allow_others: bool,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// In its file, from 1.
    line: usize,
    allow: bool,
    publish: bool,
    subscribe: bool,
    /// `None`, as for groups and peers: nobody by this key. All `None`: everybody, other hosts included.
    users: Option<Vec<u32>>,
    groups: Option<Vec<u32>>,
    /// Other hosts, by name.
    peers: Option<Vec<String>>,
    /// `None`: all.
    topics: Option<Vec<Pattern>>,
}

/// Something is not allowed. The text names the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied(String);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for Policy {
    /// Everything is allowed to whoever can connect.
    fn default() -> Policy {
        Policy { path: None, rules: Vec::new(), allow_others: true }
    }
}

impl Policy {
    /// The file it came from.
    pub fn path(&self) -> Option<&std::path::Path> {
        self.path.as_deref()
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `who` may do that. Takes time in proportion to the number of rules.
    ///
    /// # Errors
    ///
    /// Which rule, in which line of which file, forbids it.
    pub fn check(&self, who: Who<'_>, deed: Deed, topic: &Topic) -> Result<(), Denied> {
        self.decide(Asker::Local(who), deed, topic)
    }

    /// Whether the host `peer` may do that: publish what then arrives from there, subscribe what is then sent there.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn check_peer(&self, peer: &str, deed: Deed, topic: &Topic) -> Result<(), Denied> {
        self.decide(Asker::Peer(peer), deed, topic)
    }

    fn decide(&self, who: Asker<'_>, deed: Deed, topic: &Topic) -> Result<(), Denied> {
        let decides = self.rules.iter().find(|rule| rule.fits(who, deed, topic));
        if decides.map_or(self.allow_others, |rule| rule.allow) {
            return Ok(());
        }
        let path = self.path.as_deref().unwrap_or(std::path::Path::new("the policy")).display();
        Err(Denied(match decides {
            Some(Rule { line, .. }) => format!(
                "{who} may not {deed} `{topic}`, because of the rule in {path}, line {line}: use another topic, or have the \
                 rule changed and the dispatcher reload it (SIGHUP)"
            ),
            None => format!(
                "{who} may not {deed} `{topic}`, because no rule in {path} allows it: use another topic, or have a rule added \
                 and the dispatcher reload it (SIGHUP)"
            ),
        }))
    }
}

impl Rule {
    fn fits(&self, who: Asker<'_>, deed: Deed, topic: &Topic) -> bool {
        let named = match deed {
            Deed::Publish => self.publish,
            Deed::Subscribe => self.subscribe,
        };
        named && self.fits_who(who) && self.topics.as_ref().is_none_or(|all| all.iter().any(|it| it.matches(topic)))
    }

    fn fits_who(&self, who: Asker<'_>) -> bool {
        let Rule { users, groups, peers, .. } = self;
        if users.is_none() && groups.is_none() && peers.is_none() {
            return true;
        }
        match who {
            Asker::Local(Who { uid, gids }) => {
                users.as_ref().is_some_and(|users| users.contains(&uid))
                    || groups.as_ref().is_some_and(|groups| gids.iter().any(|gid| groups.contains(gid)))
            }
            Asker::Peer(name) => peers.as_ref().is_some_and(|peers| peers.iter().any(|peer| peer == name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        file::parse(std::path::Path::new("rules.toml"), text).unwrap()
    }

    fn who(uid: u32, gids: &[u32]) -> Who<'_> {
        Who { uid, gids }
    }

    #[test]
    fn without_rules_everything_is_allowed() {
        let topic = Topic::new("a").unwrap();
        for policy in [Policy::default(), policy("default = \"allow\"")] {
            policy.check(who(7, &[]), Deed::Publish, &topic).unwrap();
            policy.check(who(7, &[]), Deed::Subscribe, &topic).unwrap();
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_is_named() {
        let policy = policy(
            r#"default = "deny"

[[rule]]
deny = ["publish"]
topics = ["arm/secret/**"]

[[rule]]
allow = ["publish", "subscribe"]
users = [1000]
topics = ["arm/**", "leg"]

[[rule]]
allow = ["subscribe"]
groups = [44, 45]
"#,
        );
        let check =
            |uid, gids: &[u32], deed, topic: &str| policy.check(who(uid, gids), deed, &Topic::new(topic).unwrap());
        check(1000, &[], Deed::Publish, "arm/pose").unwrap();
        check(1000, &[], Deed::Subscribe, "arm/secret/x").unwrap();
        check(1001, &[1, 45], Deed::Subscribe, "anything").unwrap();
        let by_rule = check(1000, &[], Deed::Publish, "arm/secret/x").unwrap_err().to_string();
        assert!(
            by_rule.starts_with("user 1000 may not publish `arm/secret/x`, because of the rule in rules.toml, line 3:"),
            "{by_rule}"
        );
        for (uid, gids, deed, topic) in [
            (1000, &[][..], Deed::Publish, "head"),
            (1001, &[45], Deed::Publish, "anything"),
            (1001, &[46], Deed::Subscribe, "anything"),
            (1001, &[], Deed::Subscribe, "arm/pose"),
        ] {
            let by_default = check(uid, gids, deed, topic).unwrap_err().to_string();
            assert!(by_default.contains("no rule in rules.toml allows it"), "{by_default}");
        }
    }

    #[test]
    fn a_rule_with_users_and_groups_fits_either() {
        let policy = policy("default = \"deny\"\n[[rule]]\nallow = [\"publish\"]\nusers = [1]\ngroups = [2]\n");
        let topic = Topic::new("t").unwrap();
        policy.check(who(1, &[]), Deed::Publish, &topic).unwrap();
        policy.check(who(5, &[2]), Deed::Publish, &topic).unwrap();
        policy.check(who(5, &[5]), Deed::Publish, &topic).unwrap_err();
    }

    #[test]
    fn hosts_are_meant_by_their_own_rules_and_those_for_everybody() {
        let policy = policy(
            r#"default = "deny"

[[rule]]
deny = ["subscribe"]
topics = ["secret/**"]

[[rule]]
allow = ["publish"]
peers = ["b", "c"]
topics = ["camera/**"]

[[rule]]
allow = ["publish"]
users = [1]
peers = ["d"]

[[rule]]
allow = ["subscribe"]
users = [0]
groups = [0]

[[rule]]
allow = ["subscribe"]
topics = ["public"]
"#,
        );
        let peer = |name, deed, topic: &str| policy.check_peer(name, deed, &Topic::new(topic).unwrap());
        peer("b", Deed::Publish, "camera/1").unwrap();
        peer("d", Deed::Publish, "anything").unwrap();
        peer("x", Deed::Subscribe, "public").unwrap();
        policy.check(who(1, &[]), Deed::Publish, &Topic::new("anything").unwrap()).unwrap();
        for (name, deed, topic, why) in [
            ("b", Deed::Publish, "arm", "no rule in rules.toml allows it"),
            ("b", Deed::Subscribe, "camera/1", "no rule in rules.toml allows it"),
            ("e", Deed::Publish, "camera/1", "no rule in rules.toml allows it"),
            ("b", Deed::Subscribe, "secret/x", "because of the rule in rules.toml, line 3"),
        ] {
            let denied = peer(name, deed, topic).unwrap_err().to_string();
            assert!(denied.starts_with(&format!("host `{name}` may not {deed} `{topic}`")), "{denied}");
            assert!(denied.contains(why), "{denied}");
        }
        policy.check(who(7, &[]), Deed::Publish, &Topic::new("camera/1").unwrap()).unwrap_err();
    }
}
