//! The bridge's part of the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{BridgeConfig, BridgeConfigError, Draft, Origin, file};

/// Which hosts a dispatcher is bridged with, as typed.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Other hosts (docs/operations.md; without these nothing listens and nothing is dialled)")]
pub struct BridgeArgs {
    /// File with the same in TOML: host-name, listen, key, insecure-plaintext, and for each peer name, address, key. Read again
    /// at SIGHUP, as are the keys; what the command line says is added
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Name of this host, as others address it (`node@NAME/topic`) [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<String>,

    /// Listen for other hosts; may be repeated. Off the loopback only with --key
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub listen: Vec<SocketAddr>,

    /// Another host, and where it listens; without an address it has to dial this one. May be repeated; the order in which
    /// hosts start does not matter
    #[arg(long, value_name = "NAME[=ADDRESS:PORT]", value_parser = peer)]
    pub peer: Vec<(String, Option<SocketAddr>)>,

    /// This host's private key (`nodeset keygen`). With it everything is encrypted, and each peer needs its --peer-key
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Public key of a peer; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = peer_key)]
    pub peer_key: Vec<(String, PathBuf)>,

    /// Leave the loopback without keys: whoever is on the way can read and change everything, and be any peer
    #[arg(long)]
    pub insecure_plaintext: bool,
}

impl BridgeArgs {
    /// What follows from these and the file they name, on a host whose system calls it `nodename`.
    ///
    /// # Errors
    ///
    /// What is wrong, and where.
    pub fn resolve(&self, nodename: &str) -> Result<BridgeConfig, BridgeConfigError> {
        let mut draft = Draft::default();
        if let Some(name) = &self.host_name {
            draft.host(name.clone(), Origin::Option("--host-name"));
        }
        for address in &self.listen {
            draft.listen(*address, Origin::Option("--listen"));
        }
        for (name, address) in &self.peer {
            draft.peer(name, *address, None, &Origin::Option("--peer"))?;
        }
        for (name, key) in &self.peer_key {
            draft.peer(name, None, Some(key.clone()), &Origin::Option("--peer-key"))?;
        }
        if let Some(path) = &self.key {
            draft.key(path.clone(), Origin::Option("--key"));
        }
        if self.insecure_plaintext {
            draft.insecure_plaintext(Origin::Option("--insecure-plaintext"));
        }
        if let Some(path) = &self.config {
            file::read(path, &mut draft)?;
        }
        draft.resolve(nodename)
    }
}

/// Names are not looked up: what they mean would depend on the moment.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give an IP address and a port, such as 192.168.1.7:7411 or [fd00::7]:7411".to_owned())
}

fn peer(text: &str) -> Result<(String, Option<SocketAddr>), String> {
    match text.split_once('=') {
        Some((name, place)) => Ok((name.to_owned(), Some(address(place)?))),
        None => Ok((text.to_owned(), None)),
    }
}

fn peer_key(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        _ => Err("give a name and a file, such as b=/etc/nodeset/b.key.pub".to_owned()),
    }
}
