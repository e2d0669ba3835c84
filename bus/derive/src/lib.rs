//! The derive macro for NodeSet messages: `#[derive(Message)]` lets a type describe its fields.
//!
//! Not for use by itself: `nodeset` re-exports it together with the trait `Message`, whose documentation has the
//! attributes and examples. What it generates is an implementation of `Describe`; writing and reading come from rkyv's
//! own derives, so `Archive`, `Serialize` and `Deserialize` are derived beside it.

mod attributes;
mod expand;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Describes a struct or enum that rkyv archives, which makes it a message.
///
/// See the trait `Message` for its attributes (`opaque`, `name`, `crate`) and for what it can be used on.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
