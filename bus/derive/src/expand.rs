//! Generates the implementation of `Describe`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::{Data, DataEnum, DeriveInput, Error, Fields, GenericParam, Generics, Path, Result, parse_quote};

use crate::attributes::{FieldAttributes, TypeAttributes, refuse};

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let attributes = TypeAttributes::parse(&input.attrs)?;
    let crate_path = &attributes.crate_path;
    let private: Path = parse_quote!(#crate_path::__private);

    let shape = match (&attributes.opaque, &input.data) {
        (Some(_), Data::Struct(_) | Data::Enum(_)) => quote!(#private::Shape::Opaque),
        (None, Data::Struct(data)) => {
            let fields = fields(&private, &data.fields)?;
            quote!(#private::Shape::Struct(types.fields() #fields .finish()))
        }
        (None, Data::Enum(data)) => enumeration(&private, data)?,
        (_, Data::Union(data)) => {
            return Err(Error::new_spanned(
                data.union_token,
                "a union cannot be a message: nobody could tell its variants apart",
            ));
        }
    };
    let name = match attributes.opaque.as_ref().or(attributes.name.as_ref()) {
        Some(name) => name.value(),
        None => input.ident.unraw().to_string(),
    };
    let name = name_with_parameters(&private, &name, &input.generics)?;

    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#private::Describe));
    }
    let ident = &input.ident;
    let (_, type_generics, _) = input.generics.split_for_impl();
    if !input.generics.params.is_empty() {
        let this: syn::Type = parse_quote!(#ident #type_generics);
        generics.make_where_clause().predicates.push(parse_quote!(#this: #private::rkyv::Archive));
    }
    let (impl_generics, _, where_clause) = generics.split_for_impl();

    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #private::Describe for #ident #type_generics #where_clause {
            fn name() -> #private::String {
                #name
            }

            #[allow(unused_variables)]
            fn shape(types: &mut #private::Types) -> #private::Shape {
                #shape
            }
        }
    })
}

/// `Stamped<f64, 3>`.
fn name_with_parameters(private: &Path, name: &str, generics: &Generics) -> Result<TokenStream> {
    let mut format = name.replace('{', "{{").replace('}', "}}");
    let mut parameters = Vec::new();
    for parameter in &generics.params {
        format.push_str(if parameters.is_empty() { "<{}" } else { ", {}" });
        parameters.push(match parameter {
            GenericParam::Type(parameter) => {
                let ident = &parameter.ident;
                quote!(<#ident as #private::Describe>::name())
            }
            GenericParam::Const(parameter) => {
                let ident = &parameter.ident;
                quote!(#ident)
            }
            GenericParam::Lifetime(parameter) => {
                return Err(Error::new_spanned(
                    parameter,
                    "a message owns what it says: use `String` for `&str`, `Vec` for slices; to publish bytes or text \
                     that is borrowed, publish `[u8]` or `str`",
                ));
            }
        });
    }
    if parameters.is_empty() {
        return Ok(quote!(#private::String::from(#name)));
    }
    format.push('>');
    Ok(quote!(#private::format!(#format, #(#parameters),*)))
}

fn enumeration(private: &Path, data: &DataEnum) -> Result<TokenStream> {
    let mut tags = Vec::new();
    let mut variants = Vec::new();
    for (place, variant) in data.variants.iter().enumerate() {
        refuse(&variant.attrs)?;
        let tag = format_ident!("TAG_{place}");
        // The archived enum has the same discriminants in one byte.
        let value = match (&variant.discriminant, place) {
            (Some((_, value)), _) => quote!(#value),
            (None, 0) => quote!(0),
            (None, _) => {
                let before = format_ident!("TAG_{}", place - 1);
                quote!(#before + 1)
            }
        };
        tags.push(quote!(const #tag: u8 = #value;));
        let name = variant.ident.unraw().to_string();
        let fields = fields(private, &variant.fields)?;
        variants.push(quote! {
            #private::Variant {
                name: #private::String::from(#name),
                tag: #tag,
                fields: types.variant_fields() #fields .finish(),
            }
        });
    }
    Ok(quote! {
        #(#tags)*
        #private::Shape::Enum(#private::Vec::from([#(#variants),*]))
    })
}

/// One call for each field, to be chained.
fn fields(private: &Path, fields: &Fields) -> Result<TokenStream> {
    let mut calls = TokenStream::new();
    for (place, field) in fields.iter().enumerate() {
        let name = field.ident.as_ref().map_or_else(|| place.to_string(), |ident| ident.unraw().to_string());
        let FieldAttributes { opaque, with } = FieldAttributes::parse(&field.attrs)?;
        let ty = &field.ty;
        calls.extend(match (opaque, with) {
            (None, _) => quote!(.field::<#ty>(#name)),
            (Some(label), None) => {
                quote!(.opaque::<<#ty as #private::rkyv::Archive>::Archived>(#name, #label))
            }
            (Some(label), Some(with)) => {
                quote!(.opaque::<<#with as #private::rkyv::with::ArchiveWith<#ty>>::Archived>(#name, #label))
            }
        });
    }
    Ok(calls)
}
