//! Nodes as others see them: which name they ask for, which one they have, and how they are.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::NodeId;

/// What a node says first. Attached: the read end of its life-line pipe (hangs up when the process is gone or has
/// executed another program), then, when `handing_back`, its sealed node page.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub struct Hello {
    /// Chosen at random by the node.
    pub node: NodeId,
    /// The name asked for; unless the claim says otherwise, the dispatcher may add a suffix (`mnode-2`).
    pub name: String,
    /// Handed back: the name that it had, perhaps with a suffix.
    pub held_name: Option<String>,
    /// What is done when somebody has the name.
    pub claim: Claim,
    /// A program that only asks (`nodeset list`): no page is made for it, it cannot publish or subscribe.
    pub tool: bool,
    /// The node was attached to a dispatcher before and brings what it holds.
    pub handing_back: bool,
}

impl Hello {
    /// Of a new node; takes a suffix if the name is taken.
    pub fn new(node: NodeId, name: impl Into<String>) -> Hello {
        Hello { node, name: name.into(), held_name: None, claim: Claim::Suffix, tool: false, handing_back: false }
    }

    /// Of a program that only asks.
    pub fn tool(node: NodeId, name: impl Into<String>) -> Hello {
        Hello { tool: true, ..Hello::new(node, name) }
    }

    /// Of a node that was attached before, under that name.
    pub fn back(node: NodeId, held_name: impl Into<String>) -> Hello {
        let name = held_name.into();
        Hello { held_name: Some(name.clone()), handing_back: true, ..Hello::new(node, name) }
    }
}

/// What a node wants when somebody has the name that it asks for.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Claim {
    /// The name with the first free suffix.
    #[default]
    Suffix,
    /// To be refused.
    Unique,
    /// To have it instead, if both are the same user's.
    Replace,
}

impl Claim {
    /// Whether only the very name will do.
    pub fn is_exact(self) -> bool {
        self != Claim::Suffix
    }
}

/// Whether a node's session thread runs. Death is no state of health: a node that is dead is not there any more.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// Its heart beats.
    #[default]
    Alive,
    /// Some beats are missing: the machine is overloaded, or one of its handlers does not return.
    Slow,
    /// It does not run: its process was stopped (SIGSTOP, a debugger), or many beats are missing.
    Stopped,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Health::Alive => "alive",
            Health::Slow => "slow",
            Health::Stopped => "stopped",
        })
    }
}

/// A node of this host, as those who watch it see it.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Which one.
    pub node: NodeId,
    /// The name it has.
    pub name: String,
    /// The name it asked for: `name@host` addresses all nodes that did.
    pub base_name: String,
    /// Its process, for people only.
    pub pid: u32,
    /// Its user, as the kernel told the dispatcher.
    pub uid: u32,
    /// How it is.
    pub health: Health,
}

/// Who has a name that another node asked for.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct NameHolder {
    /// The name it has.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// For how long this dispatcher has known it under that name, in seconds.
    pub seconds: u64,
}
