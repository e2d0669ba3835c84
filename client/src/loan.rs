//! Loans: messages that are written in place.

use std::fmt;
use std::ops::{Deref, DerefMut};

use nodeset_bus::outlet::OpenFrame;

/// Room for one message in shared memory. Dropped instead of sent, it is as if it had never been.
///
/// ```
/// use nodeset::Node;
///
/// let node = Node::builder("camera").instance("doc-loan").embedded().connect()?;
/// let mut publisher = node.publisher::<[u8]>("camera/image").create()?;
/// let mut subscriber = node.subscriber::<[u8]>("camera/image").create()?;
/// let mut image = publisher.loan(640 * 480)?;
/// image[0] = 255;
/// image.send();
/// assert_eq!(subscriber.receive()?.len(), 640 * 480);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a loan that is dropped was not sent"]
pub struct Loan<'a> {
    frame: OpenFrame<'a>,
    len: usize,
}

impl<'a> Loan<'a> {
    #[inline(always)]
    pub(crate) fn new(mut frame: OpenFrame<'a>) -> Loan<'a> {
        let len = frame.bytes_mut().len();
        Loan { frame, len }
    }

    /// Publishes it. Returns its sequence number. Never waits.
    #[inline(always)]
    pub fn send(self) -> u64 {
        let len = self.len;
        self.frame.commit(len)
    }

    /// Publishes its first `len` bytes, for those who asked for more than they needed.
    ///
    /// ```
    /// # let node = nodeset::Node::builder("camera").instance("doc-send-first").embedded().connect()?;
    /// let mut publisher = node.publisher::<[u8]>("camera/jpeg").create()?;
    /// let mut subscriber = node.subscriber::<[u8]>("camera/jpeg").create()?;
    /// let mut image = publisher.loan_uninit(1_000_000)?; // at most
    /// let jpeg = b"packed";
    /// image[..jpeg.len()].copy_from_slice(jpeg);
    /// image.send_first(jpeg.len());
    /// assert_eq!(&*subscriber.receive()?, b"packed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// When `len` is more than was loaned.
    #[inline]
    pub fn send_first(self, len: usize) -> u64 {
        assert!(len <= self.len, "{len} bytes of a loan of {} cannot be sent", self.len);
        self.frame.commit(len)
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.frame.bytes()
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.frame.bytes_mut()
    }
}

impl fmt::Debug for Loan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").field("len", &self.len).finish_non_exhaustive()
    }
}
