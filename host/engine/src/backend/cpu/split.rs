//! A slice that the chunks of a job write at places that don't overlap.
#![expect(unsafe_code, reason = "threads share one output without a lock")]

use std::{marker::PhantomData, ops::Range, slice};

/// A mutable slice that many threads hold.
pub(super) struct Split<'a, T> {
    start: *mut T,
    len: usize,
    whole: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out nothing but `&mut T` parts, under `part`'s contract.
unsafe impl<T: Send> Sync for Split<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Split<'_, T> {}

impl<'a, T> Split<'a, T> {
    /// Shares out `whole`.
    pub(super) fn new(whole: &'a mut [T]) -> Self {
        Self { start: whole.as_mut_ptr(), len: whole.len(), whole: PhantomData }
    }

    /// The elements of `range`; panics if it is out of bounds.
    ///
    /// # Safety
    ///
    /// While the part lives no other part that overlaps it is asked for.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller keeps parts apart")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part of {} elements", self.len);
        // SAFETY: the range is within the slice, borrowed for `'a`; the caller keeps parts apart.
        unsafe { slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
