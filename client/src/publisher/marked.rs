//! Publishing requests and replies: messages whose frames say of which request they are.

use std::time::Duration;

use nodeset_bus::log::{Extensions, Reach, RequestMark};
use nodeset_bus::message::Message;
use nodeset_bus::outlet::{Outlet, OutletError};

use super::Publisher;
use crate::error::PublishError;

impl<T: Message + ?Sized> Publisher<T> {
    /// As [`publish`](Self::publish), of or about a request; waits at most for `deadline`.
    #[inline(always)]
    pub(crate) fn publish_marked(
        &mut self,
        message: &T,
        request: RequestMark,
        deadline: Duration,
    ) -> Result<u64, PublishError> {
        let extensions = Extensions { request: Some(request), ..Extensions::NONE };
        match self.outlet.publish_extended_at_once(message, extensions) {
            Some(sequence) => Ok(sequence),
            None => self.publish_marked_uncommonly(message, extensions, deadline),
        }
    }

    /// A block ends, or somebody has to be waited for.
    #[inline(never)]
    fn publish_marked_uncommonly(
        &mut self,
        message: &T,
        extensions: Extensions,
        deadline: Duration,
    ) -> Result<u64, PublishError> {
        match self.outlet.try_publish_extended(message, extensions, Reach::Prompt) {
            Ok(sequence) => Ok(sequence),
            Err(error) => {
                self.deadline = deadline;
                self.retry(error, |outlet, reach| outlet.try_publish_extended(message, extensions, reach))
            }
        }
    }

    /// A message without bytes, whatever `T` is: only its mark counts.
    pub(crate) fn publish_mark(&mut self, request: RequestMark, deadline: Duration) -> Result<u64, PublishError> {
        let extensions = Extensions { request: Some(request), ..Extensions::NONE };
        let attempt = |outlet: &mut Outlet, reach| match outlet.try_open_extended(0, extensions, reach) {
            Ok(frame) => Ok(frame.commit(0)),
            Err(no_room) => Err(OutletError::NoRoom(no_room)),
        };
        match attempt(&mut self.outlet, Reach::Prompt) {
            Ok(sequence) => Ok(sequence),
            Err(error) => {
                self.deadline = deadline;
                self.retry(error, attempt)
            }
        }
    }
}
