//! Messages and their schemas.

use rkyv::{Archive, Deserialize, Serialize};

/// What a publication carries: identity and layout of its message type.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The type's name, without its crate path.
    pub name: String,
}
