//! What the example programs are made of: [`measure`], the raw limits of this machine, and [`performance`], what NodeSet makes
//! of them.

pub mod measure;
pub mod performance;
