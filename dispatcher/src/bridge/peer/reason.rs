//! Why connections end, as people and the other side are told.

use thiserror::Error;

use crate::bridge::codec::{Invalid, MAX_REASON, Record, VERSION_NEWEST, VERSION_OLDEST};

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// There is another connection between the same two hosts, which stays. Nothing is wrong.
    #[error("another connection between the two hosts stays")]
    Duplicate,
    /// The other side broke the rules of the protocol: a bug, or no dispatcher at all.
    #[error("it broke the protocol: {0}")]
    Violation(String),
    /// No common version: use releases that overlap.
    #[error(
        "it speaks versions {oldest} to {newest} of the bridge protocol, this side {VERSION_OLDEST} to {VERSION_NEWEST}"
    )]
    Version {
        /// Theirs.
        oldest: u16,
        /// Theirs.
        newest: u16,
    },
    /// It is not who it should be, or looks for somebody else: correct the addresses or names.
    #[error("it says that it is `{found}` and looks for `{to}`; `{expected}` is expected, which looks for `{local}`")]
    WrongHost {
        /// What it is called.
        found: String,
        /// Whom it looks for.
        to: String,
        /// What it should be called.
        expected: String,
        /// What we are called.
        local: String,
    },
    /// Nothing was heard for too long. It is dialled again.
    #[error("nothing was heard of it for too long")]
    Silent,
    /// It does not read its answers.
    #[error("it asks for more than it reads")]
    Flood,
    /// It stops.
    #[error("it stops")]
    Stopping,
    /// The configuration names it no longer.
    #[error("the configuration does not name it any more")]
    Removed,
    /// The connection broke. It is dialled again.
    #[error("the connection broke")]
    Broken,
    /// What the other side said when it closed.
    #[error("the other side closed the connection: {text} (code {code})")]
    Theirs {
        /// One of those that [`Reason::code`] gives, or a newer one.
        code: u16,
        /// Its words.
        text: String,
    },
}

impl Reason {
    /// As it is sent.
    pub fn code(&self) -> u16 {
        match self {
            Reason::Duplicate => 1,
            Reason::Violation(_) => 2,
            Reason::Version { .. } => 3,
            Reason::WrongHost { .. } => 4,
            Reason::Silent => 5,
            Reason::Flood => 6,
            Reason::Stopping => 7,
            Reason::Removed => 8,
            Reason::Broken => 9,
            Reason::Theirs { code, .. } => *code,
        }
    }

    pub(super) fn theirs(code: u16, text: &str) -> Reason {
        Reason::Theirs { code, text: shown(text) }
    }

    /// The record that tells the other side.
    pub fn goodbye(&self) -> Vec<u8> {
        let mut record = Vec::new();
        Record::Goodbye { code: self.code(), text: &self.to_string() }.encode(&mut record);
        record
    }
}

impl From<Invalid> for Reason {
    fn from(invalid: Invalid) -> Reason {
        Reason::Violation(invalid.to_string())
    }
}

/// What another host said, fit for a log or a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(MAX_REASON).collect()
}
