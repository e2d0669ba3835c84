//! Who may connect, do what, and have how much.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nodeset_bus::message::Schema;
use nodeset_bus::protocol::*;
use nodeset_dispatcher::registry::Quotas;
use nodeset_dispatcher::{Access, Config};
use rustix::process::Signal;
use support::*;

/// Asks for a subscription; what it is answered.
fn subscribe(node: &mut RawNode, topic: &str) -> Result<(), (RefusalCode, String)> {
    let subscription = SubscriptionId(random());
    let subscribe =
        Subscribe { subscription, topic: topic.to_owned(), schema: None, reliable: true, weight: 1, across_ms: None };
    node.raw.send(&ToDispatcher::Subscribe(subscribe), &[]);
    node.raw
        .expect("an answer", |message| match message {
            ToNode::Subscribed { subscription: id, .. } if *id == subscription => Some(Ok(())),
            ToNode::Refused { about: About::Subscription(id), code, text } if *id == subscription => {
                Some(Err((*code, text.clone())))
            }
            _ => None,
        })
        .0
}

/// Asks for a publication; `Ok` when a log is granted.
fn advertise(node: &mut RawNode, topic: &str, shape: LogShape) -> Result<LogShape, (RefusalCode, String)> {
    let publication = PublicationId(random());
    let schema = Schema::bytes();
    let advertise = Advertise {
        publication,
        epoch: 1,
        topic: topic.to_owned(),
        schema,
        shape,
        slot: None,
        lane: None,
        origin: None,
    };
    node.raw.send(&ToDispatcher::Advertise(advertise), &[]);
    node.raw
        .expect("an answer", |message| match message {
            ToNode::LogGranted { publication: id, shape, .. } if *id == publication => Some(Ok(*shape)),
            ToNode::Refused { about: About::Publication(id), code, text } if *id == publication => {
                Some(Err((*code, text.clone())))
            }
            _ => None,
        })
        .0
}

#[test]
fn a_policy_is_obeyed_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (path, rules) = (directory.path().join("d.sock"), directory.path().join("rules.toml"));
    let uid = rustix::process::geteuid().as_raw();
    let closed = "default = \"allow\"\n[[rule]]\nallow = [\"subscribe\"]\n\n[[rule]]\ndeny = [\"publish\"]\ntopics = [\"closed/**\"]\n";
    fs::write(&rules, closed).unwrap();
    let mut command = Program::command(&path);
    command.arg("--policy").arg(&rules);
    let program = Program::start_with(command, &path);

    let mut node = RawNode::attach(&path, "one");
    subscribe(&mut node, "closed/a").unwrap();
    advertise(&mut node, "open/a", SHAPE).unwrap();
    let (code, said) = advertise(&mut node, "closed/a", SHAPE).unwrap_err();
    assert_eq!(code, RefusalCode::Denied);
    let expected = format!("user {uid} may not publish `closed/a`, because of the rule in {}, line 5", rules.display());
    assert!(said.starts_with(&expected), "{said}");

    // What is wrong changes nothing; what is right holds from then on.
    let reload = |text: &str| {
        fs::write(&rules, text).unwrap();
        program.signal(Signal::HUP);
    };
    reload("default = \"allow\"\n[[rule]]\nallow = [\"everything\"]\n");
    reload("default = \"deny\"\n[[rule]]\nallow = [\"publish\"]\ntopics = [\"closed/*\"]\n");
    wait_until("the new rules", || advertise(&mut node, "closed/a", SHAPE).is_ok());
    let (code, said) = subscribe(&mut node, "closed/a").unwrap_err();
    assert_eq!(code, RefusalCode::Denied);
    assert!(said.contains("may not subscribe `closed/a`") && said.contains("no rule in"), "{said}");
    advertise(&mut node, "closed/a/b", SHAPE).unwrap_err();

    program.signal(Signal::TERM);
    let (status, _) = program.ended();
    assert!(status.success());
}

#[test]
fn rules_that_are_wrong_are_said_when_it_starts() {
    let directory = tempfile::tempdir().unwrap();
    let (path, rules) = (directory.path().join("d.sock"), directory.path().join("rules.toml"));
    let start = || {
        let output = Program::command(&path).arg("--policy").arg(&rules).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = start();
    assert!(said.contains("rules.toml") && said.contains("cannot be read"), "{said}");
    fs::write(&rules, "default = \"deny\"\n[[rule]]\nallow = [\"subscribe\"]\nusers = [\"no such user\"]\n").unwrap();
    let said = start();
    assert!(said.contains("rules.toml, line 2: there is no user `no such user`"), "{said}");
    assert!(!path.exists());
}

#[test]
fn the_mode_is_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d.sock");
    for (arguments, said) in [
        (&["--mode", "060"][..], "three octal digits"),
        (&["--mode", "777"], "three octal digits"),
        (&["--mode", "rw"], "three octal digits"),
        (&["--group", "no such group"], "there is no such group"),
    ] {
        let output = Program::command(&path).args(arguments).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(said), "{arguments:?}: {errors}");
    }

    // The folder is closed to others: then the mode would be a promise that does not hold.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let output = Program::command(&path).args(["--mode", "660"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("cannot enter the folder"), "{errors}");
    assert!(!path.exists());

    let own = rustix::process::getegid().as_raw();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o710)).unwrap();
    let mut command = Program::command(&path);
    command.args(["--group", &own.to_string()]);
    let program = Program::start_with(command, &path);
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o777, found.gid()), (0o660, own));

    // A successor says anew who may connect.
    let mut command = Program::command(&path);
    command.arg("--replace");
    let successor = Program::start_with(command, &path);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert!(program.ended().0.success());
    drop(successor);
}

#[test]
fn each_quota_is_refused_by_its_name() {
    let none = Quotas::default();
    let deep = LogShape { block_len: 65_536, blocks: 64 };
    let page = nodeset_bus::page::NODE_PAGE_LEN;
    for (quotas, option) in [
        (Quotas { publications: Some(1), ..none }, "--user-publications"),
        (Quotas { topics: Some(1), ..none }, "--user-topics"),
        (Quotas { segments: Some(2), ..none }, "--user-segments"),
        (Quotas { bytes: Some(page + (4 << 20)), ..none }, "--user-bytes"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let running = Running::start_with(Config { quotas, ..config(directory.path()) });
        let mut node = RawNode::attach(&running.path, "one");
        advertise(&mut node, "a", SHAPE).unwrap();
        let (code, said) = advertise(&mut node, "b", deep).unwrap_err();
        assert_eq!(code, RefusalCode::Limit);
        assert!(said.contains(option), "{option}: {said}");
        // Once something has ended there is room again.
        drop(node);
        wait_for_rows(&running.path, "an empty table", <[Listing]>::is_empty);
        let mut node = RawNode::attach(&running.path, "one");
        advertise(&mut node, "b", SHAPE).unwrap();
    }

    let directory = tempfile::tempdir().unwrap();
    let quotas = Quotas { subscriptions: Some(1), nodes: Some(2), bytes: Some(64 << 20), ..none };
    let running = Running::start_with(Config { quotas, ..config(directory.path()) });
    let mut node = RawNode::attach(&running.path, "one");
    subscribe(&mut node, "a").unwrap();
    assert!(subscribe(&mut node, "b").unwrap_err().1.contains("--user-subscriptions"));
    let granted = advertise(&mut node, "a", LogShape { block_len: 65_536, blocks: 0 }).unwrap();
    assert_eq!(u64::from(granted.block_len) * u64::from(granted.blocks), 4 << 20, "a sixteenth");
    let _second = RawNode::attach(&running.path, "two");
    let mut third = Raw::connect(&running.path);
    let (pipe, _life_line) = rustix::pipe::pipe().unwrap();
    third.send(&ToDispatcher::Hello(Hello::new(NodeId(random()), "three")), &[std::os::fd::AsFd::as_fd(&pipe)]);
    let (code, said) = third.expect_refused(About::Session);
    assert!(code == RefusalCode::Limit && said.contains("has 2 nodes") && said.contains("--user-nodes"), "{said}");
}

const SOCKET: &str = "NODESET_TEST_SOCKET";
const NOBODY: u32 = 65_534;

/// What another user can do there; `None` where nobody can be made another user.
fn as_another_user(path: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start a program as another user");
        return None;
    }
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "what_another_user_does", "--ignored", "--nocapture"]).env(SOCKET, path);
    match command.uid(NOBODY).gid(NOBODY).output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) => {
            println!("skipped: nothing can be started as another user: {error}");
            None
        }
    }
}

#[test]
#[ignore = "another test runs it, as another user"]
fn what_another_user_does() {
    let Some(path) = std::env::var_os(SOCKET) else { return };
    let path = Path::new(&path);
    if let Err(error) = Raw::try_connect(path) {
        println!("did not connect: {error}");
        return;
    }
    let mut node = RawNode::attach(path, "other");
    println!("subscribe a: {:?}", subscribe(&mut node, "a"));
    println!("publish a: {:?}", advertise(&mut node, "a", SHAPE));
    println!("publish secret: {:?}", advertise(&mut node, "secret", SHAPE));
    println!("end");
}

#[test]
fn another_user_does_what_it_may() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let rules = directory.path().join("rules.toml");
    fs::write(&rules, "default = \"allow\"\n[[rule]]\ndeny = [\"publish\"]\ngroups = [65534]\ntopics = [\"secret\"]\n")
        .unwrap();
    let policy = nodeset_dispatcher::policy::file::read(&rules).unwrap();

    let running = Running::start(directory.path());
    let Some(said) = as_another_user(&running.path) else { return };
    assert!(said.contains("did not connect: Permission denied"), "{said}");
    running.stop();

    let access = Access { mode: 0o666, group: None };
    let running = Running::start_with(Config { access, policy, ..config(directory.path()) });
    let mut own = RawNode::attach(&running.path, "own");
    advertise(&mut own, "secret", SHAPE).unwrap();
    let said = as_another_user(&running.path).unwrap();
    for line in ["subscribe a: Ok(())", "publish a: Ok(", "publish secret: Err((Denied, ", "line 2", "end"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    running.stop();

    // A quarter, unless it is said otherwise: one of four topics.
    let limits = nodeset_dispatcher::registry::Limits { topics: 4, ..config(directory.path()).limits };
    let running = Running::start_with(Config { access, limits, ..config(directory.path()) });
    let said = as_another_user(&running.path).unwrap();
    for line in ["subscribe a: Ok(())", "publish secret: Err((Limit, ", "--user-topics"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}
