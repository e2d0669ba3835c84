//! The servers that a client knows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nodeset_bus::log::RequestMark;
use nodeset_bus::message::Message;
use tracing::debug;

use super::names::{self, EndId};
use crate::error::{AdvertiseError, PublishError, ReceiveError};
use crate::publisher::{BegunPublisher, Publisher, PublisherBuilder};
use crate::session::Handle;
use crate::subscriber::Subscriber;
use crate::wait::WaitStrategy;

/// See the module.
pub(super) struct Servers<Req: Message + ?Sized> {
    known: Vec<KnownServer<Req>>,
    /// Which one is asked next.
    turn: usize,
    /// Changes of links, of offers and of replies, that `known` knows of.
    changes: (u64, u64),
    plan: CallPlan,
}

/// How requests are published.
pub(super) struct CallPlan {
    pub(super) handle: Arc<Handle>,
    pub(super) topic: Arc<str>,
    pub(super) client: EndId,
    pub(super) block_len: u32,
    pub(super) timestamps: bool,
    pub(super) wait: WaitStrategy,
}

/// One of them.
pub(super) struct KnownServer<Req: Message + ?Sized> {
    /// Where it is offered.
    offer: Arc<str>,
    /// Its node.
    pub(super) node: Arc<str>,
    /// Where its replies come.
    pub(super) replies: Arc<str>,
    /// The link of its replies is there, and so the one of requests.
    linked: bool,
    calls: Calls<Req>,
}

/// The way to a server.
enum Calls<Req: Message + ?Sized> {
    Begun(Box<BegunPublisher<Req>>),
    Open(Box<Publisher<Req>>),
    Refused(Option<AdvertiseError>),
}

impl<Req: Message + ?Sized> Servers<Req> {
    pub(super) fn new(plan: CallPlan) -> Servers<Req> {
        Servers { known: Vec::new(), turn: 0, changes: (0, 0), plan }
    }

    /// How many are known, whether they can be asked or not.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// How many can be asked.
    pub(super) fn usable(&self) -> usize {
        self.known.iter().filter(|server| server.is_usable()).count()
    }

    pub(super) fn get(&self, at: usize) -> &KnownServer<Req> {
        &self.known[at]
    }

    /// Whether nobody came or went. Looks at no log: the next frame of replies is in a line that the server wrote last, and to
    /// have it brought before a request is sent would cost as much as a message.
    #[inline]
    pub(super) fn are_current<Rep: Message + ?Sized>(
        &self,
        offers: &Subscriber<Rep>,
        replies: &Subscriber<Rep>,
    ) -> bool {
        !offers.has_arrivals()
            && !replies.has_arrivals()
            && (offers.link_changes(), replies.link_changes()) == self.changes
            && !self.known.iter().any(|server| matches!(server.calls, Calls::Begun(_)))
    }

    /// Looks who came and went. What was said meanwhile answers nothing any more.
    pub(super) fn update<Rep: Message + ?Sized>(
        &mut self,
        offers: &mut Subscriber<Rep>,
        replies: &mut Subscriber<Rep>,
    ) -> Result<(), ReceiveError> {
        drain(offers)?;
        drain(replies)?;
        let changes = (offers.link_changes(), replies.link_changes());
        if changes != self.changes {
            self.changes = changes;
            self.meet(offers, replies);
        }
        self.known.iter_mut().for_each(KnownServer::take_answer);
        Ok(())
    }

    #[cold]
    fn meet<Rep: Message + ?Sized>(&mut self, offers: &Subscriber<Rep>, replies: &Subscriber<Rep>) {
        let Servers { known, plan, .. } = self;
        known.retain(|server| has_port(offers, &server.offer));
        for port in &offers.ports {
            let offer = &port.publisher.topic;
            if known.iter().any(|server| server.offer == *offer) {
                continue;
            }
            let Some(id) = EndId::last_of(offer) else { continue };
            let calls = match plan.publisher(id).begin() {
                Ok(begun) => Calls::Begun(Box::new(begun)),
                Err(error) => Calls::Refused(Some(error)),
            };
            known.push(KnownServer {
                offer: Arc::clone(offer),
                node: Arc::clone(&port.publisher.node),
                replies: names::reply(&plan.topic, plan.client, id).into(),
                linked: false,
                calls,
            });
        }
        for server in known {
            let port = replies.ports.iter().find(|port| port.publisher.topic == server.replies);
            server.linked = port.is_some();
            if let Some(port) = port {
                // The same text, shared: whose reply it is is seen by its address.
                server.replies = Arc::clone(&port.publisher.topic);
            }
        }
    }

    /// None can be asked: waits for what the dispatcher says about one whose way is being made, and returns why it will not be.
    pub(super) fn await_answers(&mut self, deadline: Instant) -> Result<(), AdvertiseError> {
        for server in &mut self.known {
            server.calls = match std::mem::replace(&mut server.calls, Calls::Refused(None)) {
                Calls::Begun(begun) => Calls::Open(Box::new(begun.finish_by(deadline)?)),
                Calls::Refused(Some(error)) => return Err(error),
                other => other,
            };
        }
        Ok(())
    }

    /// One whose way could not be made is tried again when it is asked for the next time.
    pub(super) fn forget_refused(&mut self) {
        self.known.retain(|server| !matches!(server.calls, Calls::Refused(_)));
        self.changes = (0, 0);
    }

    /// Sends a request to the one whose turn it is, if it takes it now. Says which one it was.
    #[inline]
    pub(super) fn send_at_once(&mut self, request: &Req, mark: RequestMark) -> Result<Option<usize>, PublishError> {
        let at = if self.turn < self.known.len() { self.turn } else { 0 };
        let Some(calls) = self.known.get_mut(at).and_then(KnownServer::usable) else { return Ok(None) };
        match calls.publish_marked(request, mark, Duration::ZERO) {
            Ok(_) => {
                self.turn = at + 1;
                Ok(Some(at))
            }
            Err(PublishError::Full { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request to one of them, in turn; one that does not read its requests is passed over. When none does, it is
    /// waited for the first one. Says which one it was; `None` if there is none.
    #[cold]
    pub(super) fn send(
        &mut self,
        request: &Req,
        mark: RequestMark,
        until: Option<Instant>,
    ) -> Result<Option<usize>, PublishError> {
        let mut full = None;
        for step in 0..self.known.len() {
            let at = (self.turn + step) % self.known.len();
            let Some(calls) = self.known[at].usable() else { continue };
            match calls.publish_marked(request, mark, Duration::ZERO) {
                Ok(_) => {
                    self.turn = at + 1;
                    return Ok(Some(at));
                }
                Err(PublishError::Full { .. }) => full = full.or(Some(at)),
                Err(error) => return Err(error),
            }
        }
        let Some(at) = full else { return Ok(None) };
        let Some(calls) = self.known[at].usable() else { return Ok(None) };
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        calls.publish_marked(request, mark, left)?;
        self.turn = at + 1;
        Ok(Some(at))
    }
}

impl CallPlan {
    fn publisher<Req: Message + ?Sized>(&self, server: EndId) -> PublisherBuilder<Req> {
        let topic = names::call(&self.topic, server, self.client);
        PublisherBuilder::new(Arc::clone(&self.handle), &topic)
            .block_len(self.block_len)
            .timestamps(self.timestamps)
            .wait(self.wait)
    }
}

impl<Req: Message + ?Sized> KnownServer<Req> {
    fn is_usable(&self) -> bool {
        self.linked && matches!(self.calls, Calls::Open(_))
    }

    #[inline]
    fn usable(&mut self) -> Option<&mut Publisher<Req>> {
        match &mut self.calls {
            Calls::Open(publisher) if self.linked => Some(publisher),
            _ => None,
        }
    }

    fn take_answer(&mut self) {
        if let Calls::Begun(_) = self.calls {
            self.calls = match std::mem::replace(&mut self.calls, Calls::Refused(None)) {
                Calls::Begun(begun) => match begun.try_finish() {
                    Ok(Ok(publisher)) => Calls::Open(Box::new(publisher)),
                    Ok(Err(error)) => Calls::Refused(Some(error)),
                    Err(begun) => Calls::Begun(begun),
                },
                other => other,
            };
        }
    }
}

/// Takes links that came and ended, and messages that nobody waits for.
fn drain<T: Message + ?Sized>(subscriber: &mut Subscriber<T>) -> Result<(), ReceiveError> {
    loop {
        match subscriber.poll() {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => {}
            Err(error @ ReceiveError::Wait(_)) => return Err(error),
            // Of a request that is over.
            Err(error) => debug!(event = "stale_reply", %error),
        }
    }
}

/// Whether somebody publishes on that topic.
pub(super) fn has_port<T: Message + ?Sized>(subscriber: &Subscriber<T>, topic: &Arc<str>) -> bool {
    subscriber.ports.iter().any(|port| port.publisher.topic == *topic)
}
