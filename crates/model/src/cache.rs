//! Keys and values of past positions, in pages. Who holds which page is the caller's business (`engine::pages`); a page's
//! content is undefined until it is written.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "pages and sizes were checked before the batch began")
)]

use falaj_kernels::{AlignedVec, KvFormat, KvView, Ops};

use crate::{Config, ModelError};

/// Positions per page.
pub const PAGE_TOKENS: usize = 16;

/// Per layer, `keys` and `values`: (pages, K, PAGE_TOKENS, E), so that one head's keys of a page are contiguous.
pub struct KvCache {
    layers: Vec<(Store, Store)>,
    pages: usize,
    kv_heads: usize,
    head_dim: usize,
}

enum Store {
    F16(AlignedVec<u16>),
    F32(AlignedVec<f32>),
}

impl KvCache {
    /// A cache of `pages` pages. The system gives the memory as pages are first written.
    ///
    /// # Errors
    /// A size that overflows, or that the system refuses at once.
    pub fn new(config: &Config, format: KvFormat, pages: usize) -> Result<Self, ModelError> {
        let per_page = config.kv_heads * PAGE_TOKENS * config.head_dim;
        let bytes = Self::page_bytes(config, format) as u128 * pages as u128;
        // Asked for in one piece and given back: the buffers themselves would abort the process. No page of it is touched.
        // The black box keeps the compiler from leaving out what looks unused.
        let mut probe = Vec::<u8>::new();
        let mut refused = |bytes: u128| std::hint::black_box(&mut probe).try_reserve_exact(bytes as usize).is_err();
        if bytes > isize::MAX as u128 || refused(bytes) {
            return Err(ModelError::TooLarge { what: "the cache", bytes });
        }
        let store = || match format {
            KvFormat::F16 => Store::F16(AlignedVec::new(pages * per_page)),
            KvFormat::F32 => Store::F32(AlignedVec::new(pages * per_page)),
        };
        let layers = (0..config.layers).map(|_| (store(), store())).collect();
        Ok(Self { layers, pages, kv_heads: config.kv_heads, head_dim: config.head_dim })
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(config: &Config, format: KvFormat) -> usize {
        PAGE_TOKENS * config.cache_bytes_per_token(format.element_bytes())
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Copies a page's content in all layers.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let per_page = self.kv_heads * PAGE_TOKENS * self.head_dim;
        let (from, to) = (from as usize * per_page, to as usize * per_page);
        for (keys, values) in &mut self.layers {
            for store in [keys, values] {
                match store {
                    Store::F16(all) => all.copy_within(from..from + per_page, to),
                    Store::F32(all) => all.copy_within(from..from + per_page, to),
                }
            }
        }
    }

    /// A page's content in all layers, [`KvCache::page_bytes`] long.
    pub fn read_page(&self, page: u32, out: &mut [u8]) {
        let per_page = self.kv_heads * PAGE_TOKENS * self.head_dim;
        let start = page as usize * per_page;
        let mut out = out.iter_mut();
        let mut put = |bytes: &[u8]| bytes.iter().zip(&mut out).for_each(|(byte, out)| *out = *byte);
        for (keys, values) in &self.layers {
            for store in [keys, values] {
                match store {
                    Store::F16(all) => all[start..start + per_page].iter().for_each(|value| put(&value.to_le_bytes())),
                    Store::F32(all) => all[start..start + per_page].iter().for_each(|value| put(&value.to_le_bytes())),
                }
            }
        }
    }

    /// The inverse of [`KvCache::read_page`].
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) {
        let per_page = self.kv_heads * PAGE_TOKENS * self.head_dim;
        let start = page as usize * per_page;
        let (mut halves, mut words) = (bytes.as_chunks().0.iter(), bytes.as_chunks().0.iter());
        for (keys, values) in &mut self.layers {
            for store in [keys, values] {
                match store {
                    Store::F16(all) => {
                        let values = halves.by_ref().map(|bytes| u16::from_le_bytes(*bytes));
                        all[start..start + per_page].iter_mut().zip(values).for_each(|(to, value)| *to = value);
                    }
                    Store::F32(all) => {
                        let values = words.by_ref().map(|bytes| f32::from_le_bytes(*bytes));
                        all[start..start + per_page].iter_mut().zip(values).for_each(|(to, value)| *to = value);
                    }
                }
            }
        }
    }

    /// Writes one position's keys and values, (K, E) each.
    pub(crate) fn write(&mut self, ops: &Ops, layer: usize, page: usize, slot: usize, key: &[f32], value: &[f32]) {
        let (kv_heads, e) = (self.kv_heads, self.head_dim);
        let (keys, values) = &mut self.layers[layer];
        for (store, source) in [(keys, key), (values, value)] {
            for (head, vector) in source.chunks_exact(e).enumerate() {
                let start = ((page * kv_heads + head) * PAGE_TOKENS + slot) * e;
                match store {
                    Store::F16(to) => ops.to_f16(vector, &mut to[start..start + e]),
                    Store::F32(to) => to[start..start + e].copy_from_slice(vector),
                }
            }
        }
    }

    /// All keys and all values of a layer.
    pub(crate) fn layer(&self, layer: usize) -> (KvView<'_>, KvView<'_>) {
        let (keys, values) = &self.layers[layer];
        (keys.view(), values.view())
    }
}

impl Store {
    fn view(&self) -> KvView<'_> {
        match self {
            Store::F16(values) => KvView::F16(values),
            Store::F32(values) => KvView::F32(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_beyond_the_memory_is_an_error() {
        let config = crate::synthetic::tiny_config(50, 256);
        // More than the address space of any process, less than what overflows.
        let pages = (1 << 50) / KvCache::page_bytes(&config, KvFormat::F16);
        assert!(matches!(KvCache::new(&config, KvFormat::F16, pages), Err(ModelError::TooLarge { .. })));
    }
}
