//! The topics of a service, see the module above.

use std::fmt;

use nodeset_bus::topic::{AddressError, Topic};

use crate::random;

/// A server or client, among those of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndId(u64);

impl EndId {
    pub(super) fn new() -> EndId {
        EndId(random())
    }

    /// As a number that a frame carries.
    pub(super) fn as_word(self) -> u64 {
        self.0
    }

    /// The one that the last level of a topic names.
    pub(super) fn last_of(topic: &str) -> Option<EndId> {
        let level = topic.rsplit('/').next()?;
        let plain = level.len() == 16 && level.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if plain { u64::from_str_radix(level, 16).ok().map(EndId) } else { None }
    }
}

impl fmt::Display for EndId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Checks the topic of a service: neither a pattern nor too long for what is put behind it.
pub(super) fn check(service: &str) -> Result<(), AddressError> {
    Topic::new(service)?;
    Topic::new(&reply(service, EndId(0), EndId(0))).map(drop)
}

pub(super) fn offer(service: &str, server: EndId) -> String {
    format!("{service}/$offer/{server}")
}

pub(super) fn all_offers(service: &str) -> String {
    format!("{service}/$offer/*")
}

pub(super) fn call(service: &str, server: EndId, client: EndId) -> String {
    format!("{service}/$call/{server}/{client}")
}

pub(super) fn all_calls(service: &str, server: EndId) -> String {
    format!("{service}/$call/{server}/*")
}

pub(super) fn reply(service: &str, client: EndId, server: EndId) -> String {
    format!("{service}/$reply/{client}/{server}")
}

pub(super) fn all_replies(service: &str, client: EndId) -> String {
    format!("{service}/$reply/{client}/*")
}

#[cfg(test)]
mod tests {
    use nodeset_bus::topic::{MAX_LEN, Selector};

    use super::*;

    #[test]
    fn each_end_subscribes_what_the_other_one_publishes() {
        let (client, server, other) = (EndId(7), EndId(u64::MAX), EndId(8));
        let means =
            |selector: String, topic: String| Selector::new(&selector).unwrap().matches(&Topic::new(&topic).unwrap());
        assert!(means(all_offers("a/b"), offer("a/b", server)));
        assert!(!means(all_offers("a"), offer("a/b", server)));
        assert!(means(all_calls("a/b", server), call("a/b", server, client)));
        assert!(!means(all_calls("a/b", other), call("a/b", server, client)));
        assert!(means(all_replies("a/b", client), reply("a/b", client, server)));
        assert!(!means(all_replies("a/b", other), reply("a/b", client, server)));
        for topic in [offer("a/b", server), call("a/b", server, client), reply("a/b", client, server)] {
            assert!(!means("a/**".to_owned(), topic.clone()) && !means("**".to_owned(), topic));
        }
    }

    #[test]
    fn ends_are_read_from_topics() {
        let (client, server) = (EndId(7), EndId(u64::MAX));
        assert_eq!(EndId::last_of(&offer("a", server)), Some(server));
        assert_eq!(EndId::last_of(&call("a", server, client)), Some(client));
        for topic in ["a/$offer/7", "a/$offer/+000000000000007", "a/$offer/000000000000000G", ""] {
            assert_eq!(EndId::last_of(topic), None, "{topic}");
        }
    }

    #[test]
    fn what_no_service_can_have_as_its_topic_is_said() {
        assert!(check("robot/plan").is_ok());
        assert!(check("robot/*").is_err());
        let level = "x".repeat(250);
        let long = [level.as_str(); 4].join("/");
        assert!(long.len() < MAX_LEN && check(&long).is_err());
    }
}
