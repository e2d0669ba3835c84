//! A process with some of the nodes, and what its parent tells it.
//!
//! A crew has a channel of its own for orders, beside that of its [`worker`](crate::measure::worker): each order gets one
//! answer.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nodeset::{Node, NodeEvent, Publisher, Subscriber};
use serde::{Deserialize, Serialize};

use super::plan::{Plan, node_name, topic_name};
use super::talk::{Talk, Window};
use crate::measure::control::Control;
use crate::measure::worker::{Finish, Role, WorkError};
use crate::measure::{Budget, Report, monotonic_ns};
use crate::soak::{self, SoakTask};

/// How long a node waits for the dispatcher.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long all links may take, and a message.
const DEADLINE: Duration = Duration::from_secs(60);
/// The end of a victim as each watcher hears of it: its publication, and its subscription.
pub const ENDS: usize = 2;

/// What a process of `scale` is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// Runs a standalone dispatcher.
    Dispatcher {
        /// Where.
        socket: PathBuf,
    },
    /// Has the nodes of one process of the plan.
    Crew {
        /// The dispatcher.
        socket: PathBuf,
        /// Who publishes what to whom.
        plan: Plan,
        /// Which of its processes this is.
        process: usize,
    },
    /// A node that will be killed.
    Victim {
        /// The dispatcher.
        socket: PathBuf,
        /// Which one.
        number: usize,
        /// Processes with a watcher.
        watchers: usize,
    },
}

/// What a crew does next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// All nodes come, each with its publishers and subscribers.
    Join,
    /// Waits until each publisher has all its subscribers.
    Link,
    /// Publishes one message on each topic.
    Publish,
    /// Receives one message by each subscriber.
    Receive,
    /// Talks on the first so many topics.
    Talk {
        /// topics
        pairs: usize,
        /// messages a second
        rate: u32,
    },
    /// Says what was received since the last time.
    Window,
    /// Stops talking.
    Hush,
    /// Reads the rest.
    Drain {
        /// Topics, and how many messages each got.
        published: Vec<(usize, u64)>,
    },
    /// Its first node subscribes what so many victims publish, and publishes what they subscribe.
    Watch {
        /// victims
        victims: usize,
    },
    /// Waits until the watcher knows that this victim is dead.
    Mourn {
        /// Which one.
        victim: usize,
    },
    /// All nodes leave.
    Leave,
}

/// What a crew answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// So many links, or messages.
    Count(u64),
    /// What was received.
    Window(Window),
    /// Topics, and how many messages each got.
    Published(Vec<(usize, u64)>),
    /// When the watcher knew, on the [monotonic clock](monotonic_ns).
    Knew(Vec<u64>),
}

/// Makes the role of a worker.
///
/// # Errors
///
/// When the dispatcher, or a node and what it needs, cannot be made.
pub fn prepare(task: Task, descriptors: Vec<OwnedFd>) -> Result<Box<dyn Role>, WorkError> {
    match task {
        Task::Dispatcher { socket } => soak::prepare(SoakTask::Dispatcher { socket }, descriptors),
        Task::Crew { socket, plan, process } => {
            let channel = descriptors.into_iter().next().ok_or("the channel is missing; is `ulimit -n` very low?")?;
            Ok(Box::new(Crew { channel: Control::from(channel), nodes: Nodes::new(socket, plan, process) }))
        }
        Task::Victim { socket, number, watchers } => Ok(Box::new(Victim::join(&socket, number, watchers)?)),
    }
}

fn connect(socket: &Path, name: &str) -> Result<Node, WorkError> {
    Ok(Node::builder(name).socket(socket).connect_timeout(CONNECT_TIMEOUT).connect()?)
}

/// What a victim is called.
pub fn victim_name(number: usize) -> String {
    format!("victim-{number}")
}

fn death_topic(victim: usize) -> String {
    format!("death/{victim}")
}

fn life_topic(process: usize) -> String {
    format!("life/{process}")
}

struct Crew {
    channel: Control,
    nodes: Nodes,
}

impl Role for Crew {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        let started_ns = monotonic_ns();
        while let Some((order, _)) = self.channel.receive::<Order>()? {
            let answer = self.nodes.obey(order)?;
            self.channel.send(&answer, &[])?;
        }
        Ok(Report { started_ns, ended_ns: monotonic_ns(), ..Report::default() })
    }
}

/// One node with what it publishes and subscribes, each beside the number of its topic.
struct Member {
    node: Node,
    publishers: Vec<(usize, Publisher<[u8]>)>,
    subscribers: Vec<(usize, Subscriber<[u8]>)>,
}

impl Member {
    fn join(socket: &Path, plan: Plan, number: usize) -> Result<Member, WorkError> {
        let node = connect(socket, &node_name(number))?;
        let publisher = |topic| Ok((topic, node.publisher(topic_name(topic)).deadline(DEADLINE).create()?));
        let publishers = plan.published_by(number).map(publisher).collect::<Result<_, WorkError>>()?;
        let subscriber = |topic| Ok((topic, node.subscriber(topic_name(topic)).reliable().create()?));
        let subscribers = plan.subscribed_by(number).map(subscriber).collect::<Result<_, WorkError>>()?;
        Ok(Member { node, publishers, subscribers })
    }
}

struct Nodes {
    socket: PathBuf,
    plan: Plan,
    process: usize,
    members: Vec<Member>,
    talk: Talk,
    watcher: Option<Watcher>,
}

impl Nodes {
    fn new(socket: PathBuf, plan: Plan, process: usize) -> Nodes {
        Nodes { socket, plan, process, members: Vec::new(), talk: Talk::default(), watcher: None }
    }

    fn obey(&mut self, order: Order) -> Result<Answer, WorkError> {
        Ok(match order {
            Order::Join => self.join()?,
            Order::Link => Answer::Count(self.link()?),
            Order::Publish => Answer::Count(self.publish()?),
            Order::Receive => Answer::Count(self.receive()?),
            Order::Talk { pairs, rate } => self.talk(pairs, rate),
            Order::Window => Answer::Window(self.talk.window()),
            Order::Hush => Answer::Published(self.talk.hush()?),
            Order::Drain { published } => Answer::Count(self.talk.drain(&published)?),
            Order::Watch { victims } => {
                let first = self.members.first().ok_or("told to watch before there is a node")?;
                self.watcher = Some(Watcher::of(&first.node, self.process, victims)?);
                Answer::Done
            }
            Order::Mourn { victim } => {
                let watcher = self.watcher.as_ref().ok_or("told to mourn before it watches")?;
                Answer::Knew(watcher.mourn(victim)?)
            }
            Order::Leave => {
                self.watcher = None;
                self.members.clear();
                Answer::Done
            }
        })
    }

    /// All at once, as programs that are started together.
    fn join(&mut self) -> Result<Answer, WorkError> {
        let (plan, socket) = (self.plan, &self.socket);
        let members = std::thread::scope(|scope| {
            let numbers = plan.nodes_of(self.process);
            let threads: Vec<_> =
                numbers.map(|number| scope.spawn(move || Member::join(socket, plan, number))).collect();
            let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| "a node's thread panicked")?);
            joined.collect::<Result<Vec<_>, WorkError>>()
        })?;
        self.members = members;
        Ok(Answer::Done)
    }

    fn link(&self) -> Result<u64, WorkError> {
        let deadline = Instant::now() + DEADLINE;
        let publishers = self.members.iter().flat_map(|member| &member.publishers);
        let mut links = 0;
        for (_, publisher) in publishers {
            let left = deadline.saturating_duration_since(Instant::now());
            links += publisher.wait_for_subscribers(self.plan.subscribers, left)? as u64;
        }
        Ok(links)
    }

    fn publish(&mut self) -> Result<u64, WorkError> {
        let mut published = 0;
        for (topic, publisher) in self.members.iter_mut().flat_map(|member| &mut member.publishers) {
            publisher.publish(&topic.to_le_bytes())?;
            published += 1;
        }
        Ok(published)
    }

    fn receive(&mut self) -> Result<u64, WorkError> {
        let mut received = 0;
        for (topic, subscriber) in self.members.iter_mut().flat_map(|member| &mut member.subscribers) {
            let name = topic_name(*topic);
            let sample = subscriber.receive_timeout(DEADLINE)?.ok_or_else(|| format!("nothing came on `{name}`"))?;
            if sample.payload() != topic.to_le_bytes() || sample.missed_before() != 0 {
                return Err(format!("another message came on `{name}` than was published").into());
            }
            received += 1;
        }
        Ok(received)
    }

    fn talk(&mut self, pairs: usize, rate: u32) -> Answer {
        // Readers first: each is linked already, so none misses anything.
        for member in &mut self.members {
            for (topic, subscriber) in take(&mut member.subscribers, pairs) {
                self.talk.read(topic, subscriber);
            }
        }
        for member in &mut self.members {
            for (topic, publisher) in take(&mut member.publishers, pairs) {
                self.talk.publish(topic, publisher, rate);
            }
        }
        Answer::Done
    }
}

/// Takes those of the topics below `pairs`.
fn take<T>(ends: &mut Vec<(usize, T)>, pairs: usize) -> Vec<(usize, T)> {
    let (taken, kept) = std::mem::take(ends).into_iter().partition(|(topic, _)| *topic < pairs);
    *ends = kept;
    taken
}

/// A node that hears of its peers' deaths.
struct Watcher {
    ends: Receiver<(String, u64)>,
    _publisher: Publisher<[u8]>,
    _subscribers: Vec<Subscriber<[u8]>>,
}

impl Watcher {
    fn of(node: &Node, process: usize, victims: usize) -> Result<Watcher, WorkError> {
        let (sender, ends) = channel();
        node.on_event(move |event| {
            if let NodeEvent::LinkEnded { peer, .. } = event {
                // The receiver is gone when nobody watches any more.
                let _ = sender.send((peer.to_string(), monotonic_ns()));
            }
        });
        let publisher = node.publisher(life_topic(process)).create()?;
        let subscriber = |victim| Ok(node.subscriber(death_topic(victim)).reliable().create()?);
        let subscribers = (0..victims).map(subscriber).collect::<Result<_, WorkError>>()?;
        Ok(Watcher { ends, _publisher: publisher, _subscribers: subscribers })
    }

    fn mourn(&self, victim: usize) -> Result<Vec<u64>, WorkError> {
        let name = victim_name(victim);
        (0..ENDS)
            .map(|_| {
                let (peer, at_ns) =
                    self.ends.recv_timeout(DEADLINE).map_err(|_| format!("nobody said that {name} died"))?;
                if peer == name { Ok(at_ns) } else { Err(format!("{peer} is said to have died, not {name}").into()) }
            })
            .collect()
    }
}

/// Linked to every watcher in both directions, until it is killed.
struct Victim {
    _publisher: Publisher<[u8]>,
    _subscribers: Vec<Subscriber<[u8]>>,
}

impl Victim {
    fn join(socket: &Path, number: usize, watchers: usize) -> Result<Victim, WorkError> {
        let node = connect(socket, &victim_name(number))?;
        let subscriber = |process| {
            let mut subscriber = node.subscriber(life_topic(process)).reliable().link_timeout(DEADLINE).create()?;
            if subscriber.publishers() == 1 { Ok(subscriber) } else { Err("it is not linked to its watcher".into()) }
        };
        let subscribers = (0..watchers).map(subscriber).collect::<Result<_, WorkError>>()?;
        let publisher = node.publisher(death_topic(number)).create()?;
        publisher.wait_for_subscribers(watchers, DEADLINE)?;
        Ok(Victim { _publisher: publisher, _subscribers: subscribers })
    }
}

impl Role for Victim {
    fn run(&mut self, _budget: Budget, _finish: &Finish<'_>) -> Result<Report, WorkError> {
        Err("a victim has nothing to do but to be killed".into())
    }
}
