//! What leads to a member of a wait set, and what a wait found.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// A member of a [`WaitSet`](crate::WaitSet), whatever it is. Never given to another member of any set.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Timer, WaitSet};
///
/// let mut set = WaitSet::new()?;
/// let tea = set.attach(Timer::after(Duration::ZERO))?.id();
/// let eggs = set.attach(Timer::after(Duration::from_secs(3600)))?.id();
/// assert_ne!(tea, eggs);
/// assert_eq!(set.wait()?.into_iter().next(), Some(tea));
/// # Ok::<(), nodeset::WaitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub(super) set: u64,
    pub(super) index: usize,
    pub(super) generation: u32,
}

impl Id {
    /// Whether it is of that set and generation.
    pub(super) fn is(self, set: u64, generation: u32) -> bool {
        (self.set, self.generation) == (set, generation)
    }
}

/// Leads to a member of a [`WaitSet`](crate::WaitSet) that is an `S`: `set[key]`.
///
/// ```
/// use std::time::Duration;
/// use nodeset::{Timer, WaitSet};
///
/// let mut set = WaitSet::new()?;
/// let key = set.attach(Timer::after(Duration::ZERO))?;
/// assert!(set.wait()?.into_iter().eq([key.id()]));
/// assert!(set[key].due().is_none());
/// assert!(set.detach(key).is_some() && set.get(key).is_none());
/// # Ok::<(), nodeset::WaitError>(())
/// ```
pub struct Key<S> {
    id: Id,
    member: PhantomData<fn() -> S>,
}

impl<S> Key<S> {
    pub(super) fn new(id: Id) -> Key<S> {
        Key { id, member: PhantomData }
    }

    /// The same, without what it is.
    pub fn id(self) -> Id {
        self.id
    }
}

// By hand: a derive would ask the same of `S`.

impl<S> Clone for Key<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Key<S> {}

impl<S> PartialEq for Key<S> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<S> Eq for Key<S> {}

impl<S> Hash for Key<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<S> fmt::Debug for Key<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.id).finish()
    }
}

/// What a wait found, each member once, in the order of their places in the set.
///
/// ```
/// use std::collections::HashMap;
/// use std::time::Duration;
/// use nodeset::{Timer, WaitSet};
///
/// let mut set = WaitSet::new()?;
/// let tea = set.attach(Timer::after(Duration::ZERO))?;
/// let eggs = set.attach(Timer::after(Duration::from_secs(3600)))?;
/// let ready = set.wait()?;
/// // Ask for one,
/// assert!(ready.has(tea) && !ready.has(eggs));
/// // or go through all.
/// let names = HashMap::from([(tea.id(), "tea"), (eggs.id(), "eggs")]);
/// let done: Vec<_> = ready.into_iter().map(|id| names[&id]).collect();
/// assert_eq!(done, ["tea"]);
/// # Ok::<(), nodeset::WaitError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ready {
    ids: Vec<Id>,
}

impl Ready {
    pub(super) fn add(&mut self, id: Id) {
        self.ids.push(id);
    }

    pub(super) fn sorted(mut self) -> Ready {
        self.ids.sort_unstable();
        self
    }

    /// Whether that one is ready.
    pub fn has<S>(&self, key: Key<S>) -> bool {
        self.ids.binary_search(&key.id).is_ok()
    }

    /// Nothing is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Timer, WaitSet};
    ///
    /// let mut set = WaitSet::new()?;
    /// assert!(set.wait_timeout(Duration::ZERO)?.is_empty());
    /// set.attach(Timer::after(Duration::ZERO))?;
    /// assert!(!set.wait_timeout(Duration::ZERO)?.is_empty());
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many are.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nodeset::{Timer, WaitSet};
    ///
    /// let mut set = WaitSet::new()?;
    /// for _ in 0..3 {
    ///     set.attach(Timer::after(Duration::ZERO))?;
    /// }
    /// assert_eq!(set.wait()?.len(), 3);
    /// # Ok::<(), nodeset::WaitError>(())
    /// ```
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

impl IntoIterator for Ready {
    type Item = Id;
    type IntoIter = std::vec::IntoIter<Id>;

    fn into_iter(self) -> Self::IntoIter {
        self.ids.into_iter()
    }
}

impl<'a> IntoIterator for &'a Ready {
    type Item = Id;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, Id>>;

    fn into_iter(self) -> Self::IntoIter {
        self.ids.iter().copied()
    }
}
