//! The limits, and how each is met.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use nodeset::{Node, NodeBuilder, NodeEvent, PublishError, Subscriber};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::AnyError;
use super::group;

/// How long something may take that takes microseconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the dispatcher of a case is started with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setting {
    /// Options.
    pub options: &'static [&'static str],
    /// Rules, for a file that becomes its `--policy`.
    pub policy: Option<&'static str>,
    /// The most open descriptors (`ulimit -n`).
    pub descriptors: Option<u64>,
    /// bytes; the longest file (`ulimit -f`)
    pub file_bytes: Option<u64>,
}

impl Setting {
    const fn options(options: &'static [&'static str]) -> Setting {
        Setting { options, policy: None, descriptors: None, file_bytes: None }
    }

    const fn policy(policy: &'static str) -> Setting {
        Setting { policy: Some(policy), ..Setting::options(&[]) }
    }
}

/// Meets a limit; gives what is said then. `Err` when it was not met, or something else went wrong.
type Meet = fn(&Path) -> Result<String, AnyError>;

/// A limit.
#[derive(Debug)]
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// Its dispatcher; `None`: it needs none.
    pub setting: Option<Setting>,
    /// What must be in the error: the limit's name, or what to do.
    pub says: &'static [&'static str],
    /// How it is met.
    meet: Meet,
    /// What it takes that not every machine has.
    pub needs: Needs,
}

/// What a case takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// To become another user: root.
    AnotherUser,
    /// To make a control group with a limit of memory.
    MemoryGroup,
}

impl Case {
    /// Meets it, as the process that does only this.
    pub(super) fn meet(&self, socket: &Path) -> Result<String, AnyError> {
        (self.meet)(socket)
    }
}

/// A case that needs a dispatcher and nothing else.
const fn case(name: &'static str, setting: Setting, says: &'static [&'static str], meet: Meet) -> Case {
    Case { name, setting: Some(setting), says, meet, needs: Needs::Nothing }
}

/// All of them.
pub const CASES: &[Case] = &[
    // Of the whole dispatcher.
    case("--max-nodes", Setting::options(&["--max-nodes", "2"]), &["2 nodes", "--max-nodes"], nodes),
    case(
        "--max-publications",
        Setting::options(&["--max-publications", "2"]),
        &["2 publications", "--max-publications"],
        publications,
    ),
    case(
        "--max-subscriptions",
        Setting::options(&["--max-subscriptions", "2"]),
        &["2 subscriptions", "--max-subscriptions"],
        subscriptions,
    ),
    case("--max-topics", Setting::options(&["--max-topics", "2"]), &["2 topics", "--max-topics"], publications),
    case("--max-links", Setting::options(&["--max-links", "1"]), &["1 links", "--max-links"], links),
    case(
        "--max-log-bytes",
        Setting::options(&["--max-log-bytes", "1048576"]),
        &["1048576 bytes", "--max-log-bytes"],
        long_log,
    ),
    // Of each user.
    case("--user-nodes", Setting::options(&["--user-nodes", "2"]), &["has 2 nodes", "--user-nodes"], nodes),
    case(
        "--user-publications",
        Setting::options(&["--user-publications", "2"]),
        &["has 2 publications", "--user-publications"],
        publications,
    ),
    case(
        "--user-subscriptions",
        Setting::options(&["--user-subscriptions", "2"]),
        &["has 2 subscriptions", "--user-subscriptions"],
        subscriptions,
    ),
    case("--user-topics", Setting::options(&["--user-topics", "2"]), &["has 2 topics", "--user-topics"], publications),
    case(
        "--user-segments",
        Setting::options(&["--user-segments", "3"]),
        &["has 3 segments", "--user-segments"],
        publications,
    ),
    case("--user-bytes", Setting::options(&["--user-bytes", "8388608"]), &["8388608", "--user-bytes"], long_log),
    // Rights.
    case("policy: publish", Setting::policy(RULES), &["may not publish `secret/a`", "policy.toml, line 2"], |socket| {
        refused_publication(socket, "secret/a")
    }),
    case(
        "policy: subscribe",
        Setting::policy(RULES),
        &["may not subscribe `open/b`", "no rule in", "policy.toml"],
        refused_subscription,
    ),
    Case {
        needs: Needs::AnotherUser,
        ..case("--mode", Setting::options(&[]), &["no permission", "d.sock", "--dispatcher"], another_user)
    },
    Case {
        setting: None,
        ..case("length of the socket's path", Setting::options(&[]), &["107", "shorter"], long_path)
    },
    // Of one publication or subscription.
    case("longest message", Setting::options(&[]), &["too long", "at most"], long_message),
    case("blocks of a log", Setting::options(&[]), &["is full", "node `reader`"], full_log),
    case("blocks held by samples", Setting::options(&[]), &["1024 blocks"], held_samples),
    case("another type", Setting::options(&[]), &["`typed`", "bytes here, text there"], another_type),
    case("unique name", Setting::options(&[]), &["is called `one` already", "process"], taken_name),
    // Of the kernel.
    case("ulimit -n, of a node", Setting::options(&[]), &["ulimit -n"], few_descriptors),
    case(
        "ulimit -n, of the dispatcher",
        Setting { descriptors: Some(64), ..Setting::options(&[]) },
        &["ulimit -n"],
        many_nodes,
    ),
    case(
        "ulimit -f, of the dispatcher",
        Setting { file_bytes: Some(32 << 20), ..Setting::options(&[]) },
        &["ulimit -f"],
        long_log,
    ),
    case("ulimit -v, of a node", Setting::options(&[]), &["memory", "mapp"], little_address_space),
    Case {
        needs: Needs::MemoryGroup,
        ..case("memory.max", Setting::options(&[]), &["memory.max", "is full"], little_memory)
    },
];

const RULES: &str = r#"default = "deny"
[[rule]]
deny = ["publish"]
topics = ["secret/**"]
[[rule]]
allow = ["publish"]
"#;

/// Tries `again` until it fails.
fn until_refused<T, E: Into<AnyError>>(mut again: impl FnMut(usize) -> Result<T, E>) -> Result<String, AnyError> {
    let mut had = Vec::new();
    for number in 0..4096 {
        match again(number) {
            Ok(one) => had.push(one),
            Err(error) => return Ok(chain(error.into().as_ref())),
        }
    }
    Err("nothing was refused".into())
}

/// An error with its causes, as programs show it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if !text.contains(&cause.to_string()) {
            text = format!("{text}: {cause}");
        }
        source = cause.source();
    }
    text
}

/// What is said of something that had to fail.
fn refusal<T>(outcome: Result<T, impl Into<AnyError>>) -> Result<String, AnyError> {
    match outcome {
        Ok(_) => Err("it was not refused".into()),
        Err(error) => Ok(chain(error.into().as_ref())),
    }
}

fn node(socket: &Path, name: &str) -> NodeBuilder {
    Node::builder(name).socket(socket)
}

fn nodes(socket: &Path) -> Result<String, AnyError> {
    until_refused(|number| node(socket, &format!("node-{number}")).connect())
}

fn publications(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    until_refused(|number| node.publisher::<[u8]>(format!("topic/{number}")).blocks(4).create())
}

fn subscriptions(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    until_refused(|number| node.subscriber::<[u8]>(format!("topic/{number}")).create())
}

/// A link is nobody's request: that there is none is told as an event.
fn links(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    let (sender, refusals) = mpsc::channel();
    node.on_event(move |event| {
        if let NodeEvent::Refused { reason } = event {
            // Nobody listens once the first has come.
            let _ = sender.send(reason.clone());
        }
    });
    let _publisher = node.publisher::<[u8]>("topic").create()?;
    let subscribe = || node.subscriber::<[u8]>("topic").link_timeout(Duration::from_millis(100)).create();
    let _subscribers = [subscribe()?, subscribe()?];
    Ok(refusals.recv_timeout(DEADLINE)?)
}

fn long_log(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    // 64 MiB.
    refusal(node.publisher::<[u8]>("topic").block_len(1 << 20).blocks(64).create())
}

fn refused_publication(socket: &Path, topic: &str) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    let _allowed = node.publisher::<[u8]>("open/a").create()?;
    refusal(node.publisher::<[u8]>(topic).create())
}

fn refused_subscription(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    refusal(node.subscriber::<[u8]>("open/b").create())
}

/// Is started as another user.
fn another_user(socket: &Path) -> Result<String, AnyError> {
    refusal(node(socket, "one").connect())
}

fn long_path(socket: &Path) -> Result<String, AnyError> {
    refusal(node(&socket.with_file_name("x".repeat(120)), "one").connect())
}

fn long_message(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    let mut publisher = node.publisher::<[u8]>("topic").block_len(4096).blocks(4).create()?;
    refusal(publisher.publish(&vec![0; 64 << 10]))
}

/// A publisher with a reliable subscriber that never reads.
fn stopped_reader(socket: &Path) -> Result<(Node, Node, Subscriber<[u8]>), AnyError> {
    let (writer, reader) = (node(socket, "writer").connect()?, node(socket, "reader").connect()?);
    let subscriber = reader.subscriber::<[u8]>("topic").reliable().create()?;
    Ok((writer, reader, subscriber))
}

fn full_log(socket: &Path) -> Result<String, AnyError> {
    let (writer, _reader, _subscriber) = stopped_reader(socket)?;
    let mut publisher = writer.publisher::<[u8]>("topic").blocks(4).create()?;
    until_refused(|_| publisher.try_publish(&[0; 1024]))
}

fn held_samples(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    let mut publisher = node.publisher::<[u8]>("topic").block_len(4096).create()?;
    let mut subscriber = node.subscriber::<[u8]>("topic").reliable().create()?;
    // Each in a block of its own.
    until_refused(|_| -> Result<_, AnyError> {
        publisher.publish(&[0; 4000])?;
        Ok(subscriber.receive()?.into_owned()?)
    })
}

fn another_type(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    let _publisher = node.publisher::<str>("typed").create()?;
    refusal(node.subscriber::<[u8]>("typed").create())
}

fn taken_name(socket: &Path) -> Result<String, AnyError> {
    let _first = node(socket, "one").unique().connect()?;
    refusal(node(socket, "one").unique().connect())
}

fn limit_own(resource: Resource, most: u64) -> Result<(), AnyError> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

fn few_descriptors(socket: &Path) -> Result<String, AnyError> {
    limit_own(Resource::Nofile, 64)?;
    let node = node(socket, "one").connect()?;
    until_refused(|number| node.publisher::<[u8]>(format!("topic/{number}")).blocks(4).create())
}

/// Its dispatcher has few descriptors.
fn many_nodes(socket: &Path) -> Result<String, AnyError> {
    until_refused(|number| node(socket, &format!("node-{number}")).connect_timeout(DEADLINE).connect())
}

fn little_address_space(socket: &Path) -> Result<String, AnyError> {
    let node = node(socket, "one").connect()?;
    limit_own(Resource::As, 1 << 30)?;
    // 256 MiB each.
    until_refused(|number| node.publisher::<[u8]>(format!("topic/{number}")).block_len(1 << 20).blocks(256).create())
}

/// Its control group has 64 MiB; all that is published stays, since nobody reads it.
fn little_memory(socket: &Path) -> Result<String, AnyError> {
    group::enter()?;
    let (writer, _reader, _subscriber) = stopped_reader(socket)?;
    let mut publisher = writer.publisher::<[u8]>("topic").block_len(64 << 10).blocks(4096).create()?;
    let message = vec![7; 60 << 10];
    let mut published = 0;
    loop {
        match publisher.try_publish(&message) {
            Ok(_) => published += message.len(),
            Err(error @ PublishError::Full { .. }) => {
                // It is nearly used up, and not given up at the first doubt.
                let used = published >> 20;
                return if used < 24 { Err(format!("full after {used} MiB").into()) } else { Ok(error.to_string()) };
            }
            Err(error) => return Err(error.into()),
        }
    }
}
