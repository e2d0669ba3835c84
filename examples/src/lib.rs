//! What the example programs are made of: [`machine`], what `mnode_publish` tells `mnode`; [`measure`], the raw limits of this
//! machine, and [`performance`], what NodeSet makes of them, for `performance1`; [`scale`], many nodes at once; [`soak`], which
//! kills at random.

pub mod bridge_soak;
pub mod crash;
pub mod limits;
pub mod machine;
pub mod measure;
pub mod performance;
pub mod programs;
pub mod proxy;
pub mod scale;
pub mod soak;
pub mod stop;
pub mod two_hosts;
