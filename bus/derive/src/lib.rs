//! Derive macro for messages.
