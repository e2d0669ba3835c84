//! Segments and mappings.
