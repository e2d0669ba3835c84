use std::error::Error as _;
use std::fs;
use std::path::Path;

use clap::Parser;

use super::args::BridgeArgs;
use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    bridge: BridgeArgs,
}

fn typed(arguments: &[&str]) -> BridgeArgs {
    Program::parse_from([&["x"], arguments].concat()).bridge
}

fn said(error: &BridgeConfigError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn refused(arguments: &[&str]) -> String {
    said(&typed(arguments).resolve("a").unwrap_err())
}

fn parsed(text: &str) -> Result<BridgeConfig, BridgeConfigError> {
    let mut draft = Draft::default();
    file::parse(Path::new("bridge.toml"), text, &mut draft)?;
    draft.resolve("a")
}

/// A folder with the key pairs `a` to `c`.
fn keys() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        KeyPair::generate().unwrap().save(&place.path().join(name)).unwrap();
    }
    place
}

#[test]
fn nothing_listens_unless_it_is_asked_for() {
    let config = typed(&[]).resolve("not valid as a name").unwrap();
    assert!(!config.is_wanted());
    assert!(config.listen.is_empty() && config.peers.is_empty());
}

#[test]
fn loopback_needs_no_key() {
    let config =
        typed(&["--listen", "127.0.0.1:7411", "--listen", "[::1]:7411", "--peer", "b=127.0.0.1:7412", "--peer", "c"])
            .resolve("a")
            .unwrap();
    assert!(config.is_wanted() && config.key.is_none());
    assert_eq!((&*config.host, config.listen.len()), ("a", 2));
    assert_eq!(config.peers["b"], PeerConfig { address: Some("127.0.0.1:7412".parse().unwrap()), key: None });
    assert_eq!(config.peers["c"], PeerConfig { address: None, key: None });
}

#[test]
fn plain_text_leaves_the_loopback_only_when_told_to() {
    for arguments in [
        ["--listen", "0.0.0.0:7411"],
        ["--listen", "[::]:7411"],
        ["--peer", "b=192.168.1.8:7411"],
        ["--peer", "b=[::ffff:192.168.1.8]:7411"],
    ] {
        let why = refused(&arguments);
        assert!(why.starts_with(arguments[0]) && why.contains("nodeset keygen"), "{why}");
        let told = [&arguments[..], &["--insecure-plaintext"]].concat();
        assert!(typed(&told).resolve("a").unwrap().insecure_plaintext);
    }
}

#[test]
fn keys_go_with_their_peers() {
    let place = keys();
    let at = |name: &str| place.path().join(name).display().to_string();
    let (own, b) = (at("a"), format!("b={}", at("b.pub")));
    let config = typed(&["--listen", "0.0.0.0:7411", "--peer", "b=10.0.0.2:7411", "--key", &own, "--peer-key", &b])
        .resolve("a")
        .unwrap();
    assert_eq!(config.key, Some(KeyPair::read(Path::new(&own)).unwrap()));
    assert_eq!(config.peers["b"].key, Some(PublicKey::read(Path::new(&at("b.pub"))).unwrap()));

    for (arguments, why) in [
        (
            &["--peer", "b=127.0.0.1:1", "--key", &own][..],
            "peer `b` has no key: give its public one (`--peer-key b=FILE`",
        ),
        (&["--peer-key", &b], "this host has no key itself"),
        (&["--peer-key", &format!("b={}", at("a.pub")), "--key", &own], "this host's own key"),
        (&["--peer-key", &b, "--peer-key", &format!("c={}", at("b.pub")), "--key", &own], "have the same key"),
        (&["--peer-key", &b, "--peer-key", &b, "--key", &own], "was named before"),
        (&["--listen", "127.0.0.1:1", "--key", &own, "--insecure-plaintext"], "leave one of the two out"),
        (&["--listen", "127.0.0.1:1", "--key", "/nowhere/a.key"], "--key: the key \"/nowhere/a.key\" cannot be read"),
    ] {
        let told = refused(arguments);
        assert!(told.contains(why), "{arguments:?}: {told}");
    }
}

#[test]
fn names_are_checked() {
    for (arguments, why) in [
        (["--host-name", "a/b", "--peer", "b"], "--host-name"),
        (["--host-name", "local", "--peer", "b"], "`local` means the host one is on"),
        (["--host-name", "b", "--peer", "b"], "`b` is this host"),
        (["--host-name", "a", "--peer", "x y"], "--peer"),
    ] {
        let told = refused(&arguments);
        assert!(told.contains(why), "{told}");
    }
    for arguments in [["--peer", "b=localhost:1"], ["--peer", "b=1.2.3.4"], ["--peer-key", "b"], ["--listen", "7411"]] {
        assert!(Program::try_parse_from([&["x"][..], &arguments].concat()).is_err(), "{arguments:?}");
    }
}

#[test]
fn a_file_says_the_same() {
    let place = keys();
    let path = place.path().join("bridge.toml");
    let text = "host-name = \"x\"\nlisten = [\"0.0.0.0:7411\"]\nkey = \"a\"\n\n[[peer]]\nname = \"b\"\naddress = \"10.0.0.2:7411\"\nkey = \"b.pub\"\n";
    fs::write(&path, text).unwrap();
    let at = |name: &str| place.path().join(name).display().to_string();
    let from_file = typed(&["--config", path.to_str().unwrap()]).resolve("a").unwrap();
    let peer_key = format!("b={}", at("b.pub"));
    let own = at("a");
    let from_options = typed(&[
        "--host-name",
        "x",
        "--listen",
        "0.0.0.0:7411",
        "--key",
        &own,
        "--peer",
        "b=10.0.0.2:7411",
        "--peer-key",
        &peer_key,
    ]);
    assert_eq!(from_file, from_options.resolve("a").unwrap());

    let both =
        typed(&["--config", path.to_str().unwrap(), "--host-name", "y", "--peer-key", &format!("c={}", at("c.pub"))]);
    let both = both.resolve("a").unwrap();
    assert_eq!((&*both.host, both.peers.len()), ("y", 2));
    let twice = refused(&["--config", path.to_str().unwrap(), "--peer-key", &peer_key]);
    assert!(twice.contains("line 5: peer `b` was named before (--peer-key)"), "{twice}");
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    for (text, line, why) in [
        ("nonsense = 1\n", 1, "unknown field `nonsense`"),
        ("\nlisten = [\n\"127.0.0.1:1\",\n\"elsewhere\"]\n", 4, "give an IP address and a port"),
        ("listen = [\"0.0.0.0:7411\"]\n", 1, "nodeset keygen"),
        ("\n[[peer]]\naddress = \"127.0.0.1:1\"\n", 2, "missing field `name`"),
        ("\n[[peer]]\nname = \"b\"\naddress = \"10.0.0.2:1\"\n", 2, "nodeset keygen"),
        ("[[peer]]\nname = \"b\"\n[[peer]]\nname = \"b\"\n", 3, "was named before (bridge.toml, line 1)"),
        ("[[peer]]\nname = \"a\"\n", 1, "`a` is this host"),
        ("\nkey = \"nowhere.key\"\n", 2, "\"nowhere.key\" cannot be read"),
        ("insecure-plaintext = \"yes\"\n", 1, "invalid type"),
    ] {
        let told = said(&parsed(text).unwrap_err());
        assert!(told.starts_with(&format!("bridge.toml, line {line}")) && told.contains(why), "{text:?}: {told}");
    }
    let told = said(&typed(&["--config", "/nowhere/bridge.toml"]).resolve("a").unwrap_err());
    assert!(told.contains("/nowhere/bridge.toml"), "{told}");
}

#[test]
fn the_difference_is_what_changed() {
    let before = parsed(
        "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[[peer]]\nname = \"b\"\n[[peer]]\nname = \"c\"\naddress = \"127.0.0.1:9\"\n",
    )
    .unwrap();
    assert!(before.changes_to(&before).is_empty());
    let after = parsed(
        "listen = [\"127.0.0.1:2\", \"127.0.0.1:3\"]\n[[peer]]\nname = \"d\"\n[[peer]]\nname = \"c\"\naddress = \"127.0.0.1:8\"\n",
    )
    .unwrap();
    let names = |name: &str| BTreeSet::from([Arc::from(name)]);
    let ports = |port: u16| BTreeSet::from([SocketAddr::from(([127, 0, 0, 1], port))]);
    let expected = Changes {
        added: names("d"),
        removed: names("b"),
        changed: names("c"),
        opened: ports(3),
        closed: ports(1),
        identity: false,
    };
    assert_eq!(before.changes_to(&after), expected);
    let mut renamed = before.clone();
    renamed.host = Arc::from("z");
    assert_eq!(before.changes_to(&renamed), Changes { identity: true, ..Changes::default() });
    assert!(!before.changes_to(&renamed).is_empty());
}
