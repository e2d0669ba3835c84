//! The few calls of the kernel that rustix lacks, or that belong to the data path.

mod bell;
mod core;
mod limits;
mod membarrier;
mod peer;

pub use bell::Bell;
pub use core::{available_cores, pin_to_core};
pub use limits::{memory_left, memory_limit};
pub use membarrier::{membarrier, membarrier_register};
pub use peer::{PeerCredentials, own_pidfd, peer_credentials, peer_groups, peer_pidfd, pidfd_dead, pidfd_of};
