//! Buffers split among the tasks of one job: the safe way for many threads to write into one buffer.

use super::{Parts, Pool};

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
            Parts::new(buffer, len)
        });
        let tasks = parts.first().map_or(0, Parts::count);
        assert!(parts.iter().all(|part| part.count() == tasks), "as many chunks of each buffer");
        self.run(tasks, |task, _| {
            // SAFETY: the pool gives each task number to one call, and the buffers are borrowed until `run` returns.
            f(task, std::array::from_fn(|i| unsafe { parts[i].part(task) }));
        });
    }
}

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
