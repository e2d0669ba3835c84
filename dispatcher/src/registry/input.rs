//! What the registry is told.

use std::fmt;

use nodeset_bus::protocol::{Health, NodeId, RefusalCode, ToDispatcher};

use super::Task;

/// One connection; never used twice by one dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who is at the other end of a session, as the kernel says, never as the peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Process, in the dispatcher's process namespace.
    pub pid: u32,
    /// User.
    pub uid: u32,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what happened and what to do.
    pub text: String,
}

impl Failure {
    /// One of that code and text.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Somebody connected.
    Opened {
        /// The new session.
        session: SessionId,
        /// Who.
        identity: Identity,
        /// The groups that the process had when it connected.
        groups: Vec<u32>,
    },
    /// A session said something.
    Message {
        /// Which session.
        session: SessionId,
        /// What it said.
        message: ToDispatcher,
        /// How many descriptors came with it.
        descriptors: usize,
    },
    /// A session hung up, or was ended from outside the registry.
    Closed {
        /// Which session.
        session: SessionId,
    },
    /// The kernel says that a node's process is dead, or has executed another program.
    Died {
        /// Which node.
        node: NodeId,
    },
    /// A node's heart beats again, or beats are missing.
    Health {
        /// Which node.
        node: NodeId,
        /// How it is now.
        health: Health,
    },
    /// A task that an action gave is done, or failed.
    Done {
        /// Which task.
        task: Task,
        /// How it went.
        result: Result<(), Failure>,
    },
}
