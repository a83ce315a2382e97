//! Keys and values of past positions, in pages. Who holds which page is the caller's business (`engine::pages`); a page's
//! content is undefined until it is written.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "pages and sizes were checked before the batch began")
)]

use std::ops::Range;

use falaj_kernels::{AlignedVec, KvFormat, KvView};

use crate::{Config, ModelError};

/// Positions per page.
pub const PAGE_TOKENS: usize = falaj_kernels::PAGE_TOKENS;

/// Per layer: (pages, K, bytes of a block), where a block holds a page's keys and values of one head.
pub struct KvCache {
    layers: Vec<AlignedVec<u8>>,
    format: KvFormat,
    pages: usize,
    /// Bytes of one page in one layer.
    layer_page: usize,
}

impl KvCache {
    /// A cache of `pages` pages. The system gives the memory as pages are first written.
    ///
    /// # Errors
    /// A size that overflows, or that the system refuses at once.
    pub fn new(config: &Config, format: KvFormat, pages: usize) -> Result<Self, ModelError> {
        let bytes = Self::page_bytes(config, format) as u128 * pages as u128;
        // Asked for in one piece and given back: the buffers themselves would abort the process. No page of it is touched.
        // The black box keeps the compiler from leaving out what looks unused.
        let mut probe = Vec::<u8>::new();
        let mut refused = |bytes: u128| std::hint::black_box(&mut probe).try_reserve_exact(bytes as usize).is_err();
        if bytes > isize::MAX as u128 || refused(bytes) {
            return Err(ModelError::TooLarge { what: "the cache", bytes });
        }
        let layer_page = layer_page_bytes(config, format);
        let layers = (0..config.layers).map(|_| AlignedVec::new(pages * layer_page)).collect();
        Ok(Self { layers, format, pages, layer_page })
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(config: &Config, format: KvFormat) -> usize {
        config.layers * layer_page_bytes(config, format)
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Copies what page `from` holds, in all layers, over page `to`.
    ///
    /// # Panics
    /// Where the cache has no such page; also in the two below.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to) = (self.place(from), self.place(to));
        for layer in &mut self.layers {
            layer.copy_within(from.clone(), to.start);
        }
    }

    /// What a page holds in all layers, as a cache of the same model and format takes it back. out: [`Self::page_bytes`].
    ///
    /// # Panics
    /// Where `out` has another length.
    pub fn read_page(&self, page: u32, out: &mut [u8]) {
        assert_eq!(out.len(), self.layers.len() * self.layer_page, "a page of all layers");
        let place = self.place(page);
        for (layer, out) in self.layers.iter().zip(out.chunks_exact_mut(self.layer_page.max(1))) {
            out.copy_from_slice(&layer[place.clone()]);
        }
    }

    /// The inverse. The caller vouches for the bytes: what attention makes of others is not defined, but never unsafe.
    ///
    /// # Panics
    /// Where `bytes` has another length.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.layers.len() * self.layer_page, "a page of all layers");
        let place = self.place(page);
        for (layer, bytes) in self.layers.iter_mut().zip(bytes.chunks_exact(self.layer_page.max(1))) {
            layer[place.clone()].copy_from_slice(bytes);
        }
    }

    fn place(&self, page: u32) -> Range<usize> {
        let start = page as usize * self.layer_page;
        start..start + self.layer_page
    }

    /// All pages of a layer.
    pub(crate) fn layer(&self, layer: usize) -> KvView<'_> {
        KvView { format: self.format, pages: &self.layers[layer] }
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [u8] {
        &mut self.layers[layer]
    }
}

fn layer_page_bytes(config: &Config, format: KvFormat) -> usize {
    config.kv_heads * format.block_bytes(config.head_dim)
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

    #[test]
    fn pages_are_copied_and_come_back() {
        let config = crate::synthetic::tiny_config(50, 256);
        for format in KvFormat::ALL {
            let mut cache = KvCache::new(&config, format, 3).unwrap();
            let bytes: Vec<u8> = (0..KvCache::page_bytes(&config, format)).map(|i| (i * 7 % 251) as u8).collect();
            cache.write_page(2, &bytes);
            cache.copy_page(2, 0);
            let mut out = vec![0; bytes.len()];
            for (page, expected) in [(0, &bytes), (1, &vec![0; bytes.len()]), (2, &bytes)] {
                cache.read_page(page, &mut out);
                assert!(out == *expected, "{format:?} page {page}");
            }
        }
    }
}
