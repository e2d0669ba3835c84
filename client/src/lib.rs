//! NodeSet.
