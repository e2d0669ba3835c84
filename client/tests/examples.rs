//! Each public item shows how it is used: by an example in its own documentation, or, for a method, by one of its type's in
//! which it is called. Doc tests run the examples; this test says which items have none.
//!
//! It reads the crate's source, so it looks at what a reader of the documentation meets: structs, enums, traits, functions,
//! methods and constants that can be reached from outside. Not asked for an example are variants and fields (their type's shows
//! them) and implementations of traits (`Debug`, `Deref`, `Iterator` mean what they always mean). Items of other crates that have
//! a further name here are shown where they are given it; their methods, there.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{
    Attribute, Expr, ExprLit, Ident, ImplItem, Item, ItemImpl, ItemTrait, ItemUse, Lit, Meta, TraitItem, Type, UseTree,
    Visibility,
};

/// A public item.
#[derive(Debug)]
struct Found {
    name: String,
    /// Of a method: the type or trait that has it.
    of: Option<String>,
    docs: String,
    file: PathBuf,
}

/// What the source of a crate says.
#[derive(Debug, Default)]
struct Source {
    items: Vec<Found>,
    /// Names that can be reached from outside.
    exported: BTreeSet<String>,
    /// Modules that can be.
    open_modules: Vec<PathBuf>,
    /// The crate's own modules at its root.
    own_modules: BTreeSet<String>,
}

impl Source {
    /// Reads all files below a folder.
    fn read(root: &Path) -> Source {
        let mut source = Source::default();
        // The root first: it says which modules are open.
        source.file(Path::new("lib.rs"), &fs::read_to_string(root.join("lib.rs")).unwrap());
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let place = path.strip_prefix(root).unwrap();
                if path.is_dir() {
                    folders.push(path);
                } else if place != Path::new("lib.rs") && path.extension().is_some_and(|it| it == "rs") {
                    source.file(place, &fs::read_to_string(&path).unwrap());
                }
            }
        }
        source
    }

    fn file(&mut self, place: &Path, text: &str) {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        let is_root = place == Path::new("lib.rs");
        let open = is_root || self.open_modules.iter().any(|it| it == place);
        if is_root {
            let modules = file.items.iter().filter_map(|item| if let Item::Mod(it) = item { Some(it) } else { None });
            self.own_modules = modules.map(|it| it.ident.to_string()).collect();
        }
        file.items.iter().for_each(|item| self.item(item, place, open));
    }

    /// `open`: the module can be reached from outside.
    fn item(&mut self, item: &Item, file: &Path, open: bool) {
        match item {
            Item::Struct(it) => self.named(&it.vis, &it.ident, &it.attrs, file, open),
            Item::Enum(it) => self.named(&it.vis, &it.ident, &it.attrs, file, open),
            Item::Type(it) => self.named(&it.vis, &it.ident, &it.attrs, file, open),
            Item::Const(it) => self.named(&it.vis, &it.ident, &it.attrs, file, open),
            Item::Static(it) => self.named(&it.vis, &it.ident, &it.attrs, file, open),
            Item::Fn(it) => self.named(&it.vis, &it.sig.ident, &it.attrs, file, open),
            Item::Trait(it) => self.of_trait(it, file, open),
            Item::Impl(it) => self.implementation(it, file),
            Item::Use(it) if is_public(&it.vis) => self.export(it, file),
            // Written out: a group of names with an example for all.
            Item::Mod(it) if it.content.is_some() => {
                self.named(&it.vis, &it.ident, &it.attrs, file, open && !is_test(&it.attrs));
            }
            Item::Mod(it) if open && is_public(&it.vis) => {
                let module = file.with_file_name(it.ident.to_string());
                self.open_modules.extend([module.with_extension("rs"), module.join("mod.rs")]);
            }
            _ => {}
        }
    }

    /// What is of this crate has its documentation where it is defined; what is of another one, here.
    fn export(&mut self, of: &ItemUse, file: &Path) {
        let mut named = BTreeSet::new();
        exports(&of.tree, &mut named);
        let first = match &of.tree {
            UseTree::Path(path) => &path.ident,
            UseTree::Name(name) => &name.ident,
            _ => panic!("what is exported begins with its crate or module"),
        };
        let foreign = file == Path::new("lib.rs") && !self.own_modules.contains(&first.to_string());
        if foreign && !is_hidden(&of.attrs) {
            let code = examples(&documentation(&of.attrs)).join("\n");
            for name in &named {
                let docs = if mentions(&code, name) { documentation(&of.attrs) } else { String::new() };
                self.items.push(Found { name: name.clone(), of: None, docs, file: file.to_owned() });
            }
        }
        self.exported.extend(named);
    }

    fn named(&mut self, visibility: &Visibility, name: &Ident, attributes: &[Attribute], file: &Path, open: bool) {
        if is_public(visibility) {
            if open {
                self.exported.insert(name.to_string());
            }
            self.add(name, None, attributes, file);
        }
    }

    fn of_trait(&mut self, of: &ItemTrait, file: &Path, open: bool) {
        self.named(&of.vis, &of.ident, &of.attrs, file, open);
        for member in &of.items {
            if let (TraitItem::Fn(method), true) = (member, is_public(&of.vis)) {
                self.add(&method.sig.ident, Some(of.ident.to_string()), &method.attrs, file);
            }
        }
    }

    fn implementation(&mut self, of: &ItemImpl, file: &Path) {
        let (Type::Path(path), None) = (&*of.self_ty, &of.trait_) else { return };
        let name = path.path.segments.last().unwrap().ident.to_string();
        for member in &of.items {
            match member {
                ImplItem::Fn(it) if is_public(&it.vis) => {
                    self.add(&it.sig.ident, Some(name.clone()), &it.attrs, file);
                }
                ImplItem::Const(it) if is_public(&it.vis) => self.add(&it.ident, Some(name.clone()), &it.attrs, file),
                _ => {}
            }
        }
    }

    fn add(&mut self, name: &Ident, of: Option<String>, attributes: &[Attribute], file: &Path) {
        self.items.push(Found { name: name.to_string(), of, docs: documentation(attributes), file: file.to_owned() });
    }

    /// The items that nobody shows how to use.
    fn without_example(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for item in &self.items {
            let owner = item.of.as_ref().unwrap_or(&item.name);
            if !self.exported.contains(owner) || !examples(&item.docs).is_empty() {
                continue;
            }
            let mut of_type = self.items.iter().filter(|it| it.of.is_none() && it.name == *owner);
            let shown = of_type.any(|it| examples(&it.docs).iter().any(|code| uses(code, &item.name)));
            if item.of.is_none() || !shown {
                let path = item.of.as_ref().map_or(item.name.clone(), |of| format!("{of}::{}", item.name));
                missing.push(format!("{path} ({})", item.file.display()));
            }
        }
        missing.sort();
        missing
    }
}

fn exports(tree: &UseTree, into: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => exports(&path.tree, into),
        UseTree::Group(group) => group.items.iter().for_each(|tree| exports(tree, into)),
        UseTree::Name(name) if name.ident == "self" => {}
        UseTree::Name(name) => drop(into.insert(name.ident.to_string())),
        UseTree::Rename(name) => drop(into.insert(name.ident.to_string())),
        UseTree::Glob(_) => panic!("what is exported is named one by one"),
    }
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    let hides = |attribute: &Attribute| attribute.parse_args::<Ident>().is_ok_and(|it| it == "hidden");
    attributes.iter().any(|attribute| attribute.path().is_ident("doc") && hides(attribute))
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg"))
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn documentation(attributes: &[Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        let Meta::NameValue(pair) = &attribute.meta else { continue };
        if let (true, Expr::Lit(ExprLit { lit: Lit::Str(line), .. })) = (pair.path.is_ident("doc"), &pair.value) {
            text.push_str(&line.value());
            text.push('\n');
        }
    }
    text
}

/// The code of the examples in a documentation that are run, or at least compiled.
fn examples(docs: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<(bool, String)> = None;
    for line in docs.lines() {
        match (line.trim_start().strip_prefix("```"), &mut current) {
            (Some(kind), None) => {
                let compiled = kind.split(',').all(|word| matches!(word.trim(), "" | "rust" | "no_run"));
                current = Some((compiled, String::new()));
            }
            (Some(_), Some(_)) => found.extend(current.take().filter(|(compiled, _)| *compiled).map(|(_, code)| code)),
            (None, Some((_, code))) => {
                code.push_str(line);
                code.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// Whether code has that word.
fn mentions(code: &str, word: &str) -> bool {
    code.split(|it: char| !it.is_alphanumeric() && it != '_').any(|it| it == word)
}

/// Whether code calls that method, or defines it (as that of a trait).
fn uses(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let ends = !after.starts_with(|next: char| next.is_alphanumeric() || next == '_');
        ends && [".", "::", "fn "].iter().any(|prefix| before.ends_with(prefix))
    })
}

#[test]
fn each_public_item_has_an_example() {
    let source = Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(source.items.len() > 200, "only {} items were found", source.items.len());
    let missing = source.without_example();
    assert!(missing.is_empty(), "{} public items have no example:\n{}", missing.len(), missing.join("\n"));
}

#[test]
fn what_has_none_is_found() {
    let mut source = Source::default();
    source.file(
        Path::new("lib.rs"),
        r"
        mod inner;
        pub mod open;
        pub use inner::{Door, Lock};
        /// ```
        /// let window: Window = locks::Key.into();
        /// ```
        pub use locks::{Key, Chain};
        #[doc(hidden)]
        pub use locks::private as __private;
        /// Without one.
        pub mod group {
            pub use locks::Bolt;
        }
        /// Opens all.
        pub fn open_all() {}
        ",
    );
    source.file(
        Path::new("inner.rs"),
        r"
        /// ```
        /// Door::new().shut();
        /// ```
        pub struct Door;
        impl Door {
            /// Shown by the type.
            pub fn new() -> Door { Door }
            pub fn shut(&self) {}
            pub fn shut_all(&self) {}
            /// ```text
            /// knock();
            /// ```
            pub fn knock(&self) {}
            /// ```no_run
            /// door.burn();
            /// ```
            pub fn burn(&self) {}
            fn own(&self) {}
        }
        impl Clone for Door { fn clone(&self) -> Door { Door } }
        pub trait Lock {
            fn turn(&self);
        }
        pub struct NotExported;
        ",
    );
    source.file(Path::new("open.rs"), "pub struct Window; struct Pane; impl Pane { pub fn clean(&self) {} }");
    let expected = [
        "Chain (lib.rs)",
        "Door::knock (inner.rs)",
        "Door::shut_all (inner.rs)",
        "Lock (inner.rs)",
        "Lock::turn (inner.rs)",
        "Window (open.rs)",
        "group (lib.rs)",
        "open_all (lib.rs)",
    ];
    assert_eq!(source.without_example(), expected);
}
