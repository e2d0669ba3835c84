//! What lies between the two hosts, and can be cut.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::measure::worker::WorkError;
use crate::programs::check;
use crate::proxy::Proxy;

/// Names of the hosts.
pub(super) const HOSTS: [&str; 2] = ["a", "b"];
/// Of the range that is set aside for tests of network devices (RFC 2544).
const ADDRESSES: [&str; 2] = ["198.18.0.1", "198.18.0.2"];
/// Name of the interface in each namespace.
const INTERFACE: &str = "nodeset0";
const LISTEN: &str = "198.18.0.1:7411";

/// See the module.
pub(super) enum Network {
    Namespaces(Namespaces),
    Loopback(Proxy, Option<String>),
}

impl Network {
    /// Namespaces, if there is the right to make them and they are wanted.
    pub(super) fn make(loopback: bool) -> Result<Network, WorkError> {
        let why_not = match (!loopback).then(Namespaces::make) {
            Some(Ok(namespaces)) => return Ok(Network::Namespaces(namespaces)),
            Some(Err(error)) => Some(error.to_string()),
            None => None,
        };
        Ok(Network::Loopback(Proxy::start()?, why_not))
    }

    /// Whether what crosses it must be encrypted.
    pub(super) fn leaves_loopback(&self) -> bool {
        matches!(self, Network::Namespaces(_))
    }

    /// Where host 0 is to listen.
    pub(super) fn listen(&self) -> &str {
        match self {
            Network::Namespaces(_) => LISTEN,
            Network::Loopback(..) => "127.0.0.1:0",
        }
    }

    /// Host 0 listens there.
    pub(super) fn is_listened_to(&self, address: &str) {
        if let Network::Loopback(proxy, _) = self {
            proxy.forward_to(address);
        }
    }

    /// What host 1 is to dial.
    pub(super) fn dial(&self) -> &str {
        match self {
            Network::Namespaces(_) => LISTEN,
            Network::Loopback(proxy, _) => proxy.address(),
        }
    }

    /// A program on that host.
    pub(super) fn command(&self, host: usize, program: &Path) -> Command {
        match self {
            Network::Namespaces(namespaces) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespaces.names[host]]).arg(program);
                command
            }
            Network::Loopback(..) => Command::new(program),
        }
    }

    /// Nothing crosses any more, and nobody is told.
    pub(super) fn cut(&self) -> Result<(), WorkError> {
        match self {
            Network::Namespaces(namespaces) => namespaces.set_link("down"),
            Network::Loopback(proxy, _) => {
                proxy.cut();
                Ok(())
            }
        }
    }

    /// Things cross again.
    pub(super) fn mend(&self) -> Result<(), WorkError> {
        match self {
            Network::Namespaces(namespaces) => namespaces.set_link("up"),
            Network::Loopback(proxy, _) => {
                proxy.mend();
                Ok(())
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::Namespaces(Namespaces { names: [a, b] }) => {
                write!(f, "network namespaces {a} and {b}, {} and {}, encrypted", ADDRESSES[0], ADDRESSES[1])
            }
            Network::Loopback(_, Some(why)) => {
                write!(f, "two ports on the loopback; network namespaces are left out: {why}")
            }
            Network::Loopback(_, None) => write!(f, "two ports on the loopback"),
        }
    }
}

/// Two network namespaces with a link between them, removed in the end.
pub(super) struct Namespaces {
    names: [String; 2],
}

impl Namespaces {
    fn make() -> Result<Namespaces, WorkError> {
        let namespaces = Namespaces { names: HOSTS.map(|host| format!("nodeset-{}-{host}", std::process::id())) };
        let [a, b] = &namespaces.names;
        // Each interface is made where it belongs: this host's own network is not touched.
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["link", "add", "name", INTERFACE, "netns", a, "type", "veth", "peer", "name", INTERFACE, "netns", b])?;
        for (name, address) in namespaces.names.iter().zip(ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", INTERFACE])?;
            ip(&["-n", name, "link", "set", INTERFACE, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(namespaces)
    }

    fn set_link(&self, state: &str) -> Result<(), WorkError> {
        ip(&["-n", &self.names[0], "link", "set", INTERFACE, state])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            // One that could not be made is not there.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), WorkError> {
    check(Command::new("ip").args(arguments))
}
