//! Reads `#[message(...)]` and what matters of `#[rkyv(...)]`.

use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::parse::Parse;
use syn::{Attribute, Error, LitStr, Path, Result, Token, Type, parenthesized, parse_quote, token};

/// Of a struct or enum.
pub(crate) struct TypeAttributes {
    /// Where `__private` is.
    pub(crate) crate_path: Path,
    /// Its name in the schema, when it is not its own.
    pub(crate) name: Option<LitStr>,
    /// Its label, when it is not to be described.
    pub(crate) opaque: Option<LitStr>,
}

impl TypeAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut crate_path = None;
        let mut name = None;
        let mut opaque = None;
        each_meta(attributes, "message", |meta| {
            if meta.path.is_ident("crate") {
                set_once(&mut crate_path, parse_path(&meta)?, &meta)
            } else if meta.path.is_ident("name") {
                set_once(&mut name, parse_label(&meta)?, &meta)
            } else if meta.path.is_ident("opaque") {
                set_once(&mut opaque, parse_label(&meta)?, &meta)
            } else {
                Err(meta.error(
                    "a type takes #[message(crate = \"path\")], #[message(name = \"Name\")] and \
                                #[message(opaque = \"label/1\")]",
                ))
            }
        })?;
        if opaque.is_none() {
            each_meta(attributes, "rkyv", |meta| {
                if meta.path.is_ident("as") || meta.path.is_ident("remote") {
                    return Err(meta.error(
                        "the archived type is not made from these fields: name it by \
                                           #[message(opaque = \"label/1\")] on the type",
                    ));
                }
                skip_value(&meta)
            })?;
        }
        Ok(Self { crate_path: crate_path.unwrap_or_else(|| parse_quote!(::nodeset)), name, opaque })
    }
}

/// Of a field.
pub(crate) struct FieldAttributes {
    /// Its label, when its type is not to be described.
    pub(crate) opaque: Option<LitStr>,
    /// The wrapper that rkyv archives it through.
    pub(crate) with: Option<Type>,
}

impl FieldAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut opaque = None;
        let mut with = None;
        each_meta(attributes, "message", |meta| {
            if meta.path.is_ident("opaque") {
                set_once(&mut opaque, parse_label(&meta)?, &meta)
            } else {
                Err(meta.error("a field takes #[message(opaque = \"label/1\")] only"))
            }
        })?;
        each_meta(attributes, "rkyv", |meta| {
            if meta.path.is_ident("with") {
                with = Some(meta.value()?.parse::<Type>()?);
                if opaque.is_none() {
                    return Err(meta.error(
                        "what `with` makes of the field is not known here: name it by \
                                           #[message(opaque = \"label/1\")]",
                    ));
                }
                return Ok(());
            }
            skip_value(&meta)
        })?;
        Ok(Self { opaque, with })
    }
}

/// Refuses `#[message(...)]` where it means nothing.
pub(crate) fn refuse(attributes: &[Attribute]) -> Result<()> {
    match attributes.iter().find(|attribute| attribute.path().is_ident("message")) {
        Some(attribute) => Err(Error::new_spanned(attribute, "#[message(...)] belongs on the type or on a field")),
        None => Ok(()),
    }
}

fn each_meta(
    attributes: &[Attribute],
    name: &str,
    mut read: impl FnMut(ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
        attribute.parse_nested_meta(&mut read)?;
    }
    Ok(())
}

fn set_once<T>(slot: &mut Option<T>, value: T, meta: &ParseNestedMeta<'_>) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("given twice"));
    }
    *slot = Some(value);
    Ok(())
}

fn parse_label(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let label: LitStr = meta.value()?.parse()?;
    if label.value().is_empty() {
        return Err(Error::new_spanned(label, "an empty name says nothing"));
    }
    Ok(label)
}

/// A path, or a text that is one.
fn parse_path(meta: &ParseNestedMeta<'_>) -> Result<Path> {
    let value = meta.value()?;
    if value.peek(LitStr) {
        return value
            .parse::<LitStr>()?
            .parse_with(|input: syn::parse::ParseStream<'_>| input.call(Path::parse_mod_style));
    }
    value.call(Path::parse_mod_style)
}

/// Steps over `= value`, `(...)` or nothing.
fn skip_value(meta: &ParseNestedMeta<'_>) -> Result<()> {
    if meta.input.peek(token::Paren) {
        let content;
        parenthesized!(content in meta.input);
        TokenStream::parse(&content)?;
    } else if meta.input.peek(Token![=]) {
        meta.input.parse::<Token![=]>()?;
        // Whatever it is (`Type`, `"text"`, a path), it parses as a type or as an expression.
        if meta.input.fork().parse::<Type>().is_ok() {
            meta.input.parse::<Type>()?;
        } else {
            meta.input.parse::<syn::Expr>()?;
        }
    }
    Ok(())
}
