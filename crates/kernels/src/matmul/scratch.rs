//! What a thread keeps between tasks so that none of them allocates: a panel in bytes, and tiles of sums.

use std::cell::RefCell;

use crate::buffer::{AlignedVec, Pod};

#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Sums: (rows, 16), of a product and of its gate.
    pub tiles: [AlignedVec<f32>; 2],
    /// Blocks of a panel.
    pub expanded: AlignedVec<u8>,
    /// The same for AMX: signed values alone, scales, minima.
    #[cfg(target_arch = "x86_64")]
    pub signed: AlignedVec<u8>,
    #[cfg(target_arch = "x86_64")]
    pub scales: AlignedVec<f32>,
    #[cfg(target_arch = "x86_64")]
    pub minima: AlignedVec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Calls `f` with this thread's scratch.
pub(crate) fn with(f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(f);
}

/// The first `len` values, whatever they were.
pub(crate) fn grown<T: Pod>(buffer: &mut AlignedVec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        *buffer = AlignedVec::new(len.next_power_of_two());
    }
    &mut buffer[..len]
}
