//! A zeroed buffer of plain numbers that starts on a cache line, which is also what 512-bit loads want. A large one
//! comes straight from the system, in huge pages where there are such, and spread over the memory of all NUMA nodes.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use memmap2::MmapMut;

/// A fixed number of `T`, zeroed at creation, 64-byte aligned; from 2 MiB on 2 MiB-aligned. From 256 KiB on it takes memory
/// only as it is first written or read: the first 2 MiB page by page, what follows in huge pages.
pub struct AlignedVec<T: Pod> {
    // INVARIANT: `start` is valid for `len` initialised values and lies in `pages`, or without that was allocated with
    // `layout(len)`, unless len is 0.
    start: NonNull<T>,
    len: usize,
    pages: Option<MmapMut>,
}

/// Numbers for which all-zero bytes are a value and that need no drop.
pub trait Pod: sealed::Sealed + Copy + Send + Sync + 'static {}

const ALIGN: usize = 64;
/// From here on the system is asked. The allocator clears aligned memory by writing it, used or not.
const LAZY: usize = 256 << 10;
/// A huge page of x86-64, and of aarch64 with 4 KiB pages.
const HUGE: usize = 2 << 20;

impl<T: Pod> AlignedVec<T> {
    /// # Panics
    /// Where `len` values are more than the address space holds.
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::dangling(), len, pages: None };
        }
        let layout = Self::layout(len);
        if layout.size() >= LAZY {
            let Some((start, pages)) = system_pages(layout.size()) else { handle_alloc_error(layout) };
            return Self { start: start.cast(), len, pages: Some(pages) };
        }
        // SAFETY: the layout's size is not zero, since len > 0 and no Pod type is zero-sized.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(layout) };
        Self { start, len, pages: None }
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
        // Dropping `pages` unmaps them.
        if self.len > 0 && self.pages.is_none() {
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

/// Zeroed memory of `bytes` from the system, and its start. Only address space until it is touched.
fn system_pages(bytes: usize) -> Option<(NonNull<u8>, MmapMut)> {
    crate::allocations::count();
    if bytes < HUGE {
        let mut pages = MmapMut::map_anon(bytes).ok()?;
        return Some((NonNull::new(pages.as_mut_ptr())?, pages));
    }
    let mut pages = MmapMut::map_anon(bytes.checked_add(HUGE)?).ok()?;
    let offset = pages.as_ptr().align_offset(HUGE);
    let start = NonNull::new(pages.get_mut(offset..offset + bytes)?.as_mut_ptr())?;
    #[cfg(target_os = "linux")]
    {
        // Not the first 2 MiB: a cache for long contexts, or a buffer for many rows, has one such buffer for each layer or
        // step, of which a short request uses the beginning only; clearing 2 MiB of each would be most of its time. And only
        // huge pages that lie wholly inside: the last piece must not cost 2 MiB for a few bytes. A system without huge
        // pages refuses, which costs speed and nothing else.
        if let Some(huge) = (bytes / HUGE * HUGE).checked_sub(HUGE).filter(|&huge| huge > 0) {
            let _ = pages.advise_range(memmap2::Advice::HugePage, offset + HUGE, huge);
        }
        interleave(start, bytes);
    }
    Some((start, pages))
}

/// Spreads untouched memory over the nodes of a machine with several, since threads on all of them will read it. The
/// kernel would put it on the node of whoever touches it first. Does nothing on a machine with one node, and where the
/// system refuses. Not tested on such a machine: none was at hand.
#[cfg(target_os = "linux")]
fn interleave(start: NonNull<u8>, bytes: usize) {
    const MPOL_INTERLEAVE: usize = 3;
    static NODES: std::sync::OnceLock<[u64; 16]> = std::sync::OnceLock::new();
    let nodes = NODES.get_or_init(|| node_mask(crate::topology::memory_nodes(std::path::Path::new("/"))));
    if nodes.iter().any(|&word| word != 0) {
        let max_node = nodes.len() * 64;
        // SAFETY: the range is a mapping of ours that holds nothing yet; the call only sets where its pages will come
        // from, and reads `max_node` bits of `nodes`. Linux, mbind(2).
        unsafe { libc::syscall(libc::SYS_mbind, start.as_ptr(), bytes, MPOL_INTERLEAVE, nodes.as_ptr(), max_node, 0) };
    }
}

/// One bit for each node; none where there is nothing to spread over.
#[cfg(target_os = "linux")]
fn node_mask(nodes: Option<std::collections::BTreeSet<usize>>) -> [u64; 16] {
    let mut mask = [0; 16];
    for node in nodes.filter(|nodes| nodes.len() > 1).into_iter().flatten() {
        // The kernel knows at most 1,024 nodes.
        if let Some(word) = mask.get_mut(node / 64) {
            *word |= 1 << (node % 64);
        }
    }
    mask
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! pod {
    ($($number:ty),*) => { $(impl sealed::Sealed for $number {} impl Pod for $number {})* };
}
pod!(u8, i8, u16, i16, u32, i32, f32);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn is_zeroed_aligned_and_cloned_by_value() {
        for len in [0, 1, 3, 16, 1000, LAZY / 4 - 1, LAZY / 4, HUGE / 4 - 1, HUGE / 4, HUGE / 2 + 5] {
            let mut buffer = AlignedVec::<f32>::new(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&v| v == 0.0));
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(if len < HUGE / 4 { ALIGN } else { HUGE }));
            let copy = buffer.clone();
            buffer.fill(1.0);
            assert!(copy.iter().all(|&v| v == 0.0));
        }
    }

    /// Whether the page that holds `value` is in this process's memory. Source: Linux, admin-guide/mm/pagemap, bit 63.
    #[cfg(target_os = "linux")]
    pub(crate) fn in_memory(value: &u8) -> bool {
        use std::os::unix::fs::FileExt;
        let mut entry = [0; 8];
        let pages = std::fs::File::open("/proc/self/pagemap").unwrap();
        pages.read_exact_at(&mut entry, (std::ptr::from_ref(value).addr() / 4096 * 8) as u64).unwrap();
        u64::from_le_bytes(entry) >> 63 == 1
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_one_takes_memory_only_when_touched() {
        let mut buffer = AlignedVec::<u8>::new(4 * HUGE + 100);
        buffer[0] = 1;
        buffer[4 * HUGE] = 1;
        assert!(in_memory(&buffer[0]));
        assert!(!in_memory(&buffer[2 * HUGE]));
        // The end that fills no huge page is in small ones.
        assert!(in_memory(&buffer[4 * HUGE + 99]));
        // So is the beginning: what uses little of a large buffer pays for little.
        assert!(!in_memory(&buffer[64 * 1024]));
        let mut smaller = AlignedVec::<u8>::new(LAZY);
        smaller[0] = 1;
        assert!(in_memory(&smaller[0]) && !in_memory(&smaller[LAZY - 1]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_several_nodes_are_spread_over() {
        let mask = |nodes: &[usize]| node_mask(Some(nodes.iter().copied().collect()));
        assert_eq!(node_mask(None), [0; 16]);
        assert_eq!(mask(&[0]), [0; 16]);
        assert_eq!(mask(&[0, 2, 65])[..3], [0b101, 0b10, 0]);
        assert_eq!(mask(&[1, 5000])[0], 0b10);
    }
}
