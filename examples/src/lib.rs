//! What the example programs are made of: [`measure`], the raw limits of this machine, and [`performance`], which sets
//! NodeSet beside them.

pub mod measure;
pub mod performance;
