//! Which hosts a dispatcher is bridged with, as resolved.
//!
//! It is put together from the command line ([`args`]) and a TOML file ([`mod@file`]) as a [`Draft`] that remembers where each
//! part stands, so that what is wrong is said with its line. Whoever has it read again gives the difference
//! ([`BridgeConfig::changes_to`]) to the bridge.

pub mod args;
pub mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nodeset_bus::topic::{AddressError, check_node_name};
use thiserror::Error;

use super::transport::keys::{KeyError, KeyPair, PublicKey};

/// What a bridge is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// Name of this host, as the others know it.
    pub host: Arc<str>,
    /// Where it listens; empty: nowhere.
    pub listen: BTreeSet<SocketAddr>,
    /// The other hosts, by name. Nobody else may connect.
    pub peers: BTreeMap<Arc<str>, PeerConfig>,
    /// With it, every connection is encrypted and both sides prove who they are; each peer has a key then.
    pub key: Option<KeyPair>,
    /// Plain text may leave the loopback.
    pub insecure_plaintext: bool,
}

/// Another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it is dialled; `None`: it dials us.
    pub address: Option<SocketAddr>,
    /// By what it is known.
    pub key: Option<PublicKey>,
}

/// What is different in a later configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Hosts that were not there.
    pub added: BTreeSet<Arc<str>>,
    /// Hosts that are not there any more.
    pub removed: BTreeSet<Arc<str>>,
    /// Hosts with another address or key: connections to them are made anew.
    pub changed: BTreeSet<Arc<str>>,
    /// Addresses to listen at.
    pub opened: BTreeSet<SocketAddr>,
    /// Addresses at which nobody listens any more.
    pub closed: BTreeSet<SocketAddr>,
    /// This host has another name or key, or none any more: all connections are made anew.
    pub identity: bool,
}

impl BridgeConfig {
    /// Without peers and listening nowhere.
    pub fn none(host: &str) -> BridgeConfig {
        let host = Arc::from(host);
        BridgeConfig { host, listen: BTreeSet::new(), peers: BTreeMap::new(), key: None, insecure_plaintext: false }
    }

    /// Whether there is anything to do.
    pub fn is_wanted(&self) -> bool {
        !self.listen.is_empty() || !self.peers.is_empty()
    }

    /// What has to change for `next` to hold.
    pub fn changes_to(&self, next: &BridgeConfig) -> Changes {
        let names = |config: &BridgeConfig| config.peers.keys().cloned().collect::<BTreeSet<_>>();
        let (before, after) = (names(self), names(next));
        Changes {
            added: &after - &before,
            removed: &before - &after,
            changed: (&before & &after).into_iter().filter(|it| self.peers.get(it) != next.peers.get(it)).collect(),
            opened: &next.listen - &self.listen,
            closed: &self.listen - &next.listen,
            identity: self.host != next.host || self.key != next.key,
        }
    }
}

impl Changes {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

impl fmt::Display for BridgeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.listen {
            writeln!(f, "listen            {address}")?;
        }
        for (name, PeerConfig { address, key }) in &self.peers {
            let address = address.map_or_else(|| "dials this host".to_owned(), |it| it.to_string());
            match key {
                Some(key) => writeln!(f, "peer              {name} {address} {key}")?,
                None => writeln!(f, "peer              {name} {address}")?,
            }
        }
        match &self.key {
            Some(key) => write!(f, "key               {}", key.public()),
            None if self.insecure_plaintext => write!(f, "key               none: plain text, for everybody to read"),
            None => write!(f, "key               none: loopback only"),
        }
    }
}

/// Where a part of the configuration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This option of the command line.
    Option(&'static str),
    /// This line, from 1, of this file.
    Line(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Option(option) => f.write_str(option),
            Origin::Line(path, line) => write!(f, "{}, line {line}", path.display()),
        }
    }
}

/// The parts do not make a configuration. Nothing of it holds; correct it where the text says.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BridgeConfigError {
    /// The file is not there or may not be read.
    #[error("the configuration {path:?} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something is missing, or contradicts something else.
    #[error("{origin}: {why}")]
    Wrong {
        /// Where.
        origin: Origin,
        /// What, and what to do.
        why: String,
    },
    /// A host's name is none.
    #[error("{origin}")]
    Name {
        /// Where.
        origin: Origin,
        /// What is wrong with it.
        #[source]
        source: AddressError,
    },
    /// A key cannot be had.
    #[error("{origin}")]
    Key {
        /// Where.
        origin: Origin,
        /// Why.
        #[source]
        source: KeyError,
    },
}

/// A configuration that is being put together.
#[derive(Debug, Default)]
pub struct Draft {
    host: Option<(String, Origin)>,
    listen: Vec<(SocketAddr, Origin)>,
    peers: BTreeMap<String, PeerDraft>,
    key: Option<(PathBuf, Origin)>,
    insecure_plaintext: Option<Origin>,
}

#[derive(Debug)]
struct PeerDraft {
    origin: Origin,
    address: Option<(SocketAddr, Origin)>,
    key: Option<(PathBuf, Origin)>,
}

impl Draft {
    /// The name of this host; the first one that is given holds.
    pub fn host(&mut self, name: String, origin: Origin) {
        self.host.get_or_insert((name, origin));
    }

    /// This host listens there.
    pub fn listen(&mut self, address: SocketAddr, origin: Origin) {
        self.listen.push((address, origin));
    }

    /// This host's private key; the first one that is given holds.
    pub fn key(&mut self, path: PathBuf, origin: Origin) {
        self.key.get_or_insert((path, origin));
    }

    /// Plain text may leave the loopback.
    pub fn insecure_plaintext(&mut self, origin: Origin) {
        self.insecure_plaintext.get_or_insert(origin);
    }

    /// There is another host.
    ///
    /// # Errors
    ///
    /// Something of it was said before.
    pub fn peer(
        &mut self,
        name: &str,
        address: Option<SocketAddr>,
        key: Option<PathBuf>,
        origin: &Origin,
    ) -> Result<(), BridgeConfigError> {
        let peer = self.peers.entry(name.to_owned()).or_insert_with(|| PeerDraft {
            origin: origin.clone(),
            address: None,
            key: None,
        });
        // Address and key of a command line stand in two options.
        let again = (peer.origin != *origin
            && matches!((&peer.origin, origin), (Origin::Line(..), _) | (_, Origin::Line(..))))
            || (address.is_some() && peer.address.is_some())
            || (key.is_some() && peer.key.is_some());
        if again {
            let why = format!("peer `{name}` was named before ({}): leave one of them out", peer.origin);
            return Err(BridgeConfigError::Wrong { origin: origin.clone(), why });
        }
        peer.address = peer.address.take().or(address.map(|it| (it, origin.clone())));
        peer.key = peer.key.take().or(key.map(|it| (it, origin.clone())));
        Ok(())
    }

    /// What follows, on a host whose system calls it `nodename`. Reads the keys.
    ///
    /// # Errors
    ///
    /// Something is missing, contradicts something else or would leave the loopback in plain text.
    pub fn resolve(self, nodename: &str) -> Result<BridgeConfig, BridgeConfigError> {
        let wanted = !self.listen.is_empty() || !self.peers.is_empty();
        let (host, host_origin) = self.host.unwrap_or_else(|| (nodename.to_owned(), Origin::Option("--host-name")));
        if wanted {
            check_host(&host, &host_origin)?;
        }
        let key = match &self.key {
            Some((path, origin)) => {
                Some(KeyPair::read(path).map_err(|source| BridgeConfigError::Key { origin: origin.clone(), source })?)
            }
            None => None,
        };
        if let (Some(_), Some(origin)) = (&key, &self.insecure_plaintext) {
            return Err(wrong(origin, "there is a key, so everything is encrypted: leave one of the two out"));
        }
        let plain = key.is_none().then_some(self.insecure_plaintext.is_some());
        let mut config =
            BridgeConfig { insecure_plaintext: self.insecure_plaintext.is_some(), key, ..BridgeConfig::none(&host) };
        for (address, origin) in self.listen {
            check_address(address, plain, &origin)?;
            config.listen.insert(address);
        }
        let mut keys = BTreeMap::new();
        for (name, draft) in self.peers {
            let peer = draft.resolve(&name, &config, plain)?;
            if let Some(same) = peer.key.and_then(|key| keys.insert(key, name.clone())) {
                return Err(wrong(
                    &draft.origin,
                    format!("peers `{same}` and `{name}` have the same key: give each its own"),
                ));
            }
            config.peers.insert(Arc::from(name), peer);
        }
        Ok(config)
    }
}

impl PeerDraft {
    fn resolve(&self, name: &str, config: &BridgeConfig, plain: Option<bool>) -> Result<PeerConfig, BridgeConfigError> {
        check_host(name, &self.origin)?;
        if *name == *config.host {
            return Err(wrong(&self.origin, format!("`{name}` is this host: name another one, or change --host-name")));
        }
        if let Some((address, origin)) = &self.address {
            check_address(*address, plain, origin)?;
        }
        let key = match (&self.key, &config.key) {
            (Some((path, origin)), Some(own)) => {
                let key = PublicKey::read(path)
                    .map_err(|source| BridgeConfigError::Key { origin: origin.clone(), source })?;
                if key == own.public() {
                    return Err(wrong(origin, format!("that is this host's own key: give the one made on `{name}`")));
                }
                Some(key)
            }
            (Some((_, origin)), None) => {
                return Err(wrong(
                    origin,
                    "this host has no key itself: make one (`nodeset keygen`) and give it with --key",
                ));
            }
            (None, Some(_)) => {
                return Err(wrong(
                    &self.origin,
                    format!(
                        "peer `{name}` has no key: give its public one (`--peer-key {name}=FILE`, or `key` in the file)"
                    ),
                ));
            }
            (None, None) => None,
        };
        Ok(PeerConfig { address: self.address.as_ref().map(|it| it.0), key })
    }
}

fn wrong(origin: &Origin, why: impl Into<String>) -> BridgeConfigError {
    BridgeConfigError::Wrong { origin: origin.clone(), why: why.into() }
}

fn check_host(name: &str, origin: &Origin) -> Result<(), BridgeConfigError> {
    check_node_name(name).map_err(|source| BridgeConfigError::Name { origin: origin.clone(), source })?;
    if name == "local" {
        return Err(wrong(origin, "`local` means the host one is on: give another name"));
    }
    Ok(())
}

/// `plain`: nothing is encrypted, and whether that may leave the loopback.
fn check_address(address: SocketAddr, plain: Option<bool>, origin: &Origin) -> Result<(), BridgeConfigError> {
    if plain == Some(false) && !address.ip().to_canonical().is_loopback() {
        return Err(wrong(
            origin,
            format!(
                "{address} is not on this host, and there is no key: make one on each host (`nodeset keygen`) and give them \
                 with --key and --peer-key; or have everything readable and changeable on its way with --insecure-plaintext"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
