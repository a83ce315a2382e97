//! The allocator: one that counts, per thread, for tests that show what a hot path does not do (programs use the system's), and
//! what programs ask of theirs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting. A test binary names it as its `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

impl CountingAllocator {
    /// How often the calling thread allocated, or made an allocation larger or smaller, since it began. Large buffers of this
    /// crate count too, which come from the system.
    pub fn count() -> u64 {
        COUNT.get()
    }
}

/// Also where memory comes past the allocator.
pub(crate) fn count() {
    // A plain cell without a destructor: it is there as long as its thread is.
    COUNT.set(COUNT.get() + 1);
}

// SAFETY: every call goes to the system's allocator with the caller's arguments; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the system's.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Gives the system back what the allocator keeps of freed memory, on all threads: after work that leaves much of it, as reading
/// a large vocabulary does. Takes milliseconds. Only with glibc, whose allocator would keep it for good.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it locks the allocator's arenas and touches free memory only. malloc_trim(3): safe among threads.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::buffer::tests::in_memory;

    #[test]
    fn freed_memory_goes_and_what_is_used_stays() {
        // Every second one lives on, so that none of the rest is given back by itself.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..64).map(|i| Some(vec![i; 100_000])).collect();
        let freed: Vec<*const u8> =
            blocks.iter().step_by(2).map(|block| &raw const block.as_ref().unwrap()[50_000]).collect();
        blocks.iter_mut().step_by(2).for_each(|block| drop(block.take()));
        // SAFETY: only the address is used, to ask the system about the page.
        let there = || freed.iter().filter(|&&at| in_memory(unsafe { &*at })).count();
        let before = there();
        trim_heap();
        assert!(there() < before.max(1), "{} of {before}", there());
        assert!((1_u8..).step_by(2).zip(blocks.iter().flatten()).all(|(i, block)| block.iter().all(|&b| b == i)));
    }
}
