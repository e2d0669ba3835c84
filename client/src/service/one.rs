//! Servers and clients of a node: those that are made, and those that the node keeps.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nodeset_bus::message::Message;

use super::exchange::Part;
use super::{Client, ClientBuilder, Request, ServerBuilder};
use crate::error::{RequestError, ServeError};
use crate::handlers::HandlerId;
use crate::node::Node;
use crate::sample::{OwnedSample, Sample};

impl Node {
    /// Begins to make a server of `topic`: it answers requests of type `Req` with `Rep`.
    ///
    /// ```no_run
    /// # let node = nodeset::Node::builder("planner").connect()?;
    /// let mut server = node.server::<str, f64>("route/length").create()?;
    /// loop {
    ///     let request = server.receive()?;
    ///     match request.message() {
    ///         "" => drop(request), // its client is told that there is no answer
    ///         route => {
    ///             let length = route.len() as f64;
    ///             request.reply(&length)?;
    ///         }
    ///     }
    /// }
    /// # #[allow(unreachable_code)]
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn server<Req: Message + ?Sized, Rep: Message + ?Sized>(
        &self,
        topic: impl AsRef<str>,
    ) -> ServerBuilder<Req, Rep> {
        ServerBuilder::new(&self.handle, topic.as_ref())
    }

    /// Begins to make a client of `topic`, for those who ask often.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # let node = nodeset::Node::builder("planner").connect()?;
    /// let mut client = node.client::<str, f64>("route/length").create()?;
    /// let length = client.request("Ghent", Duration::from_millis(100))?;
    /// println!("{length:?}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client<Req: Message + ?Sized, Rep: Message + ?Sized>(
        &self,
        topic: impl AsRef<str>,
    ) -> ClientBuilder<Req, Rep> {
        ClientBuilder::new(&self.handle, topic.as_ref())
    }

    /// Answers each request on `topic` with what `handler` returns, while [`run`](Self::run) runs. The server is one with the
    /// defaults; [`handle_requests`](Self::handle_requests) takes any, and handlers that answer several times or not at all.
    ///
    /// A handler that panics stops nothing: that is reported as by [`on`](Self::on), and its client gets
    /// [`RequestError::Unanswered`] at once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Node, Sample};
    ///
    /// let node = Node::builder("squares").instance("doc-serve").embedded().connect()?;
    /// node.serve("square", |number: Sample<'_, i64>| number.to_native().pow(2))?;
    /// let (running, stop) = (node.clone(), node.stop_handle());
    /// let running = std::thread::spawn(move || running.run());
    ///
    /// let square = node.request::<i64, i64>("square", &7, Duration::from_secs(10))?;
    /// assert_eq!(*square, 49);
    /// stop.stop();
    /// running.join().expect("handlers do not end their thread")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`ServeError`].
    pub fn serve<Req, Rep>(
        &self,
        topic: impl AsRef<str>,
        mut handler: impl FnMut(Sample<'_, Req>) -> Rep + Send + 'static,
    ) -> Result<HandlerId, ServeError>
    where
        Req: Message + ?Sized + 'static,
        Rep: Message + 'static,
    {
        let server = self.server::<Req, Rep>(topic).create()?;
        Ok(self.handle_requests(server, move |request: Request<'_, Req, Rep>| {
            let (sample, mut answering) = request.split();
            answering.send(&handler(sample), Part::Last)
        }))
    }

    /// Makes a request on `topic` and waits for the reply, at most for `deadline`, which begins with the call: also while no
    /// server is there.
    ///
    /// The node keeps what it needs for it: the first request of a kind, and the first one that a further thread makes at the same
    /// time, takes about 0.7 ms more than the others (`cargo bench --bench request`). [`client`](Self::client) is for those
    /// who want to have that in their own hands, or several replies a request.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # let node = nodeset::Node::builder("planner").connect()?;
    /// let length = node.request::<str, f64>("route/length", "Ghent", Duration::from_millis(100))?;
    /// println!("{length:?}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub fn request<Req, Rep>(
        &self,
        topic: impl AsRef<str>,
        request: &Req,
        deadline: Duration,
    ) -> Result<OwnedSample<Rep>, RequestError>
    where
        Req: Message + ?Sized + 'static,
        Rep: Message + ?Sized + 'static,
    {
        let topic = topic.as_ref();
        let mut client = match self.clients.take::<Client<Req, Rep>>(topic) {
            Some(client) => client,
            None => Box::new(self.client(topic).create()?),
        };
        let reply = client.request(request, deadline).and_then(|sample| Ok(sample.into_owned()?));
        self.clients.put(topic, client);
        reply
    }
}

/// Clients that nobody uses just now, by what they are and their topic.
#[derive(Default)]
pub(crate) struct Clients {
    idle: Mutex<Idle>,
}

type Idle = HashMap<(TypeId, Box<str>), Vec<Box<dyn Any + Send>>>;

impl Clients {
    fn take<C: Any + Send>(&self, topic: &str) -> Option<Box<C>> {
        let client = self.lock().get_mut(&(TypeId::of::<C>(), topic.into()))?.pop()?;
        client.downcast().ok()
    }

    fn put<C: Any + Send>(&self, topic: &str, client: Box<C>) {
        self.lock().entry((TypeId::of::<C>(), topic.into())).or_default().push(client);
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
