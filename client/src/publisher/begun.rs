//! Making a publisher without waiting for the dispatcher.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::TryRecvError;
use nodeset_bus::message::Message;
use nodeset_bus::outlet::Outlet;
use nodeset_bus::protocol::PublicationId;

use super::{Asked, HandOver, Publisher, PublisherBuilder};
use crate::error::AdvertiseError;
use crate::session::{Command, Handle};

/// A publisher that was asked for. Dropped, it is not wanted any more.
pub(crate) struct BegunPublisher<T: Message + ?Sized> {
    builder: PublisherBuilder<T>,
    topic: Arc<str>,
    asked: Asked,
    withdrawal: Withdrawal,
    since: Instant,
}

impl<T: Message + ?Sized> BegunPublisher<T> {
    pub(super) fn new(builder: PublisherBuilder<T>, topic: Arc<str>, asked: Asked) -> BegunPublisher<T> {
        let withdrawal = Withdrawal { handle: Arc::clone(&builder.handle), id: Some(asked.id) };
        BegunPublisher { builder, topic, asked, withdrawal, since: Instant::now() }
    }

    /// The publisher, once the dispatcher has answered; else itself. Never waits.
    pub(crate) fn try_finish(self: Box<Self>) -> Result<Result<Publisher<T>, AdvertiseError>, Box<Self>> {
        match self.asked.answer.try_recv() {
            Ok(Ok(outlet)) => Ok(Ok(self.finish(*outlet))),
            Ok(Err(error)) => Ok(Err(error)),
            Err(TryRecvError::Empty) => Err(self),
            Err(TryRecvError::Disconnected) => Ok(Err(AdvertiseError::Closed)),
        }
    }

    /// Waits for the dispatcher's answer.
    pub(crate) fn finish_by(self, deadline: Instant) -> Result<Publisher<T>, AdvertiseError> {
        match self.asked.answer.recv_deadline(deadline) {
            Ok(outlet) => Ok(self.finish(*outlet?)),
            Err(error) if error.is_timeout() => {
                Err(AdvertiseError::TimedOut { topic: self.builder.topic, waited: self.since.elapsed() })
            }
            Err(_) => Err(AdvertiseError::Closed),
        }
    }

    fn finish(self, mut outlet: Outlet) -> Publisher<T> {
        let BegunPublisher { builder, topic, asked, mut withdrawal, .. } = self;
        withdrawal.id = None;
        outlet.set_stamping(builder.plan.timestamps);
        Publisher {
            outlet,
            topic,
            id: asked.id,
            shared: asked.shared,
            handle: builder.handle,
            plan: builder.plan,
            hand_over: HandOver::No,
            deadline: builder.deadline,
            wait: builder.wait,
            impatient_until: None,
            messages: PhantomData,
        }
    }
}

/// Takes a publication back that was asked for, unless it became a publisher's.
struct Withdrawal {
    handle: Arc<Handle>,
    id: Option<PublicationId>,
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.handle.core.command(Command::Withdraw(id));
        }
    }
}
