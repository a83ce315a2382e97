//! Buffers split among the tasks of one job: the safe way for many threads to write into one buffer.

use super::Pool;

impl Pool {
    /// Cuts each buffer into chunks of as many values as stand beside it, the last one shorter, and calls
    /// `f(i, the chunks number i)` once for each, in one job.
    ///
    /// # Panics
    /// Where a chunk has no values, or the buffers are cut into different numbers of chunks.
    pub fn chunks<T: Send, const N: usize>(
        &self,
        buffers: [(&mut [T], usize); N],
        f: impl Fn(usize, [&mut [T]; N]) + Sync,
    ) {
        let parts = buffers.map(|(buffer, len)| {
            assert!(len > 0, "chunks have values");
            Parts { start: buffer.as_mut_ptr(), values: buffer.len(), len }
        });
        let tasks = parts.first().map_or(0, Parts::count);
        assert!(parts.iter().all(|part| part.count() == tasks), "as many chunks of each buffer");
        self.run(tasks, |task, _| {
            // SAFETY: the pool gives each task number to one call, and the buffers are borrowed until `run` returns.
            f(task, std::array::from_fn(|i| unsafe { parts[i].part(task) }));
        });
    }
}

struct Parts<T> {
    start: *mut T,
    values: usize,
    len: usize,
}

impl<T> Parts<T> {
    fn count(&self) -> usize {
        self.values.div_ceil(self.len)
    }

    /// # Safety
    /// The buffer must be borrowed exclusively for as long as the result lives, and no part asked for twice meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller keeps the parts apart")]
    unsafe fn part(&self, number: usize) -> &mut [T] {
        let first = number * self.len;
        assert!(first < self.values);
        // SAFETY: inside the buffer, since first < values; not aliased, by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), self.len.min(self.values - first)) }
    }
}

// SAFETY: tasks hold different parts, by the contract of `part`.
unsafe impl<T: Send> Sync for Parts<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_given_once() {
        let pool = Pool::new(3);
        let (mut a, mut b) = (vec![0; 10], vec![0; 7]);
        pool.chunks([(&mut a, 3), (&mut b, 2)], |i, [a, b]| {
            a.iter_mut().chain(b).for_each(|value| *value += i + 1);
        });
        assert_eq!(a, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
        assert_eq!(b, [1, 1, 2, 2, 3, 3, 4]);
        pool.chunks([(&mut a[..0], 3)], |_, _| unreachable!("an empty buffer has no chunks"));
    }

    #[test]
    #[should_panic(expected = "as many chunks")]
    fn buffers_are_cut_alike() {
        Pool::new(1).chunks([(&mut [0; 4], 2), (&mut [0; 5], 2)], |_, _| ());
    }
}
