//! A buffer of which tasks write different parts.

use std::marker::PhantomData;
use std::ops::Range;

/// Equal parts, the last one shorter, or any ranges.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    values: usize,
    each: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: tasks hold different parts, by the contracts of `part` and `range`.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Of `each` values.
    pub(crate) fn new(buffer: &'a mut [T], each: usize) -> Self {
        Self { start: buffer.as_mut_ptr(), values: buffer.len(), each, buffer: PhantomData }
    }

    pub(crate) fn count(&self) -> usize {
        self.values.div_ceil(self.each)
    }

    /// # Safety
    /// No two parts or ranges that are used at once may overlap.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub(crate) unsafe fn part(&self, number: usize) -> &mut [T] {
        let first = number * self.each;
        // SAFETY: by the contract.
        unsafe { self.range(first..(first + self.each).min(self.values)) }
    }

    /// # Safety
    /// As [`Parts::part`].
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.values, "a part of the buffer");
        // SAFETY: inside the buffer, which is borrowed; not aliased, by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Where the buffer begins, for tasks whose values lie scattered.
    pub(crate) fn start(&self) -> *mut T {
        self.start
    }
}
