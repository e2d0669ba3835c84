//! Topics and addresses.
