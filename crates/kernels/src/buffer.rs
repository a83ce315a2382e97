//! A zeroed buffer of plain numbers that starts on a cache line, which is also what 512-bit loads want.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A fixed number of `T`, 64-byte aligned, zeroed at creation.
pub struct AlignedVec<T: Pod> {
    // INVARIANT: `start` is valid for `len` initialised values and was allocated with `layout(len)`, unless len is 0.
    start: NonNull<T>,
    len: usize,
}

/// Numbers for which all-zero bytes are a value and that need no drop.
pub trait Pod: sealed::Sealed + Copy + Send + Sync + 'static {}

const ALIGN: usize = 64;

impl<T: Pod> AlignedVec<T> {
    /// # Panics
    /// Where `len` values are more than the address space holds.
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero, since len > 0 and no Pod type is zero-sized.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    pub fn from_slice(values: &[T]) -> Self {
        let mut buffer = Self::new(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len).and_then(|layout| layout.align_to(ALIGN)).expect("a buffer fits the address space")
    }
}

impl<T: Pod> Deref for AlignedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: by the invariant; a dangling start is aligned and fine for length 0.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: by the invariant, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod> AsRef<[T]> for AlignedVec<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod> Clone for AlignedVec<T> {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl<T: Pod> Default for AlignedVec<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T: Pod> Drop for AlignedVec<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `new` with this very layout, and never freed elsewhere.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl<T: Pod> fmt::Debug for AlignedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedVec({} values)", self.len)
    }
}

// SAFETY: it owns its values like a Box<[T]>, and every Pod is Send.
unsafe impl<T: Pod> Send for AlignedVec<T> {}
// SAFETY: shared access only reads, and every Pod is Sync.
unsafe impl<T: Pod> Sync for AlignedVec<T> {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! pod {
    ($($number:ty),*) => { $(impl sealed::Sealed for $number {} impl Pod for $number {})* };
}
pod!(u8, i8, u16, i16, u32, i32, f32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_aligned_and_cloned_by_value() {
        for len in [0, 1, 3, 16, 1000] {
            let mut buffer = AlignedVec::<f32>::new(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&v| v == 0.0));
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(ALIGN));
            let copy = buffer.clone();
            buffer.fill(1.0);
            assert!(copy.iter().all(|&v| v == 0.0));
        }
    }
}
