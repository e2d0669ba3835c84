//! The bridge's configuration as a TOML file.
//!
//! ```toml
//! host-name = "a"
//! listen = ["192.168.1.7:7411"]
//! key = "a.key"                       # beside this file, or a whole path
//!
//! [[peer]]
//! name = "b"
//! address = "192.168.1.8:7411"        # without: it dials this host
//! key = "b.key.pub"
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{BridgeConfigError, Draft, Origin, args};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Text {
    host_name: Option<Spanned<String>>,
    #[serde(default)]
    listen: Vec<Spanned<String>>,
    key: Option<Spanned<PathBuf>>,
    insecure_plaintext: Option<Spanned<bool>>,
    #[serde(default)]
    peer: Vec<Spanned<PeerText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerText {
    name: String,
    address: Option<Spanned<String>>,
    key: Option<PathBuf>,
}

/// Reads the file at `path` into `draft`.
pub(super) fn read(path: &Path, draft: &mut Draft) -> Result<(), BridgeConfigError> {
    let text = fs::read_to_string(path).map_err(|source| BridgeConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text, draft)
}

pub(super) fn parse(path: &Path, text: &str, draft: &mut Draft) -> Result<(), BridgeConfigError> {
    let place = Place { path, text };
    let parsed: Text = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        BridgeConfigError::Wrong { origin: place.origin(at), why: error.message().to_owned() }
    })?;
    if let Some(name) = parsed.host_name {
        let origin = place.origin(name.span().start);
        draft.host(name.into_inner(), origin);
    }
    for address in parsed.listen {
        let origin = place.origin(address.span().start);
        draft.listen(place.address(&address)?, origin);
    }
    if let Some(key) = parsed.key {
        let origin = place.origin(key.span().start);
        draft.key(place.beside(key.into_inner()), origin);
    }
    if let Some(insecure) = parsed.insecure_plaintext.filter(|it| *it.get_ref()) {
        draft.insecure_plaintext(place.origin(insecure.span().start));
    }
    for peer in parsed.peer {
        let origin = place.origin(peer.span().start);
        let PeerText { name, address, key } = peer.into_inner();
        let address = address.map(|it| place.address(&it)).transpose()?;
        draft.peer(&name, address, key.map(|it| place.beside(it)), &origin)?;
    }
    Ok(())
}

struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    /// The line that byte `at` is in.
    fn origin(&self, at: usize) -> Origin {
        let line = 1 + self.text.bytes().take(at).filter(|&byte| byte == b'\n').count();
        Origin::Line(self.path.to_owned(), line)
    }

    fn address(&self, text: &Spanned<String>) -> Result<SocketAddr, BridgeConfigError> {
        args::address(text.get_ref()).map_err(|why| BridgeConfigError::Wrong {
            origin: self.origin(text.span().start),
            why: format!("`{}` is no address: {why}", text.get_ref()),
        })
    }

    /// Paths are meant from the folder of the file.
    fn beside(&self, path: PathBuf) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}
