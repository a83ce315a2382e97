//! The rows of one forward pass: prompt chunks and single decode steps of many sequences, mixed. Owned and reused, so that a
//! step allocates nothing.

use std::ops::Range;
use std::sync::Arc;

use falaj_kernels::AttentionRow;

use crate::Adapter;

/// Rows of one step. The rows of one sequence are pushed in the order of their positions.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) wants: Vec<Want>,
    /// Per row: where its sequence's page table lies in `pages`.
    pub(crate) tables: Vec<Range<usize>>,
    pub(crate) pages: Vec<u32>,
    /// Those of any row, each once, and per row which of them it has.
    pub(crate) adapters: Vec<Arc<Adapter>>,
    pub(crate) adapter_of: Vec<u32>,
    table: Range<usize>,
    adapter: u32,
}

/// What a row is computed for, beside its keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Nothing,
    /// (V): scores of the next token.
    Logits,
    /// (D): the last hidden state, after the final norm.
    Hidden,
}

impl Default for Batch {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl Batch {
    pub(crate) const NO_ADAPTER: u32 = u32::MAX;

    /// Room for `rows` rows and `pages` page-table entries without a further allocation.
    pub fn with_capacity(rows: usize, pages: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            wants: Vec::with_capacity(rows),
            tables: Vec::with_capacity(rows),
            pages: Vec::with_capacity(pages),
            adapters: Vec::with_capacity(rows.min(MOST_SEQUENCES)),
            adapter_of: Vec::with_capacity(rows),
            table: 0..0,
            adapter: Self::NO_ADAPTER,
        }
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.wants.clear();
        self.tables.clear();
        self.pages.clear();
        self.adapters.clear();
        self.adapter_of.clear();
        self.table = 0..0;
        self.adapter = Self::NO_ADAPTER;
    }

    /// Begins the rows of a sequence: page `pages[i]` of the cache holds its positions from `i * PAGE_TOKENS`.
    pub fn sequence(&mut self, pages: &[u32]) {
        let start = self.pages.len();
        self.pages.extend_from_slice(pages);
        self.table = start..self.pages.len();
        self.adapter = Self::NO_ADAPTER;
    }

    /// Rows of the sequence begun last are computed with `adapter`, from the next one on.
    pub fn adapt(&mut self, adapter: &Arc<Adapter>) {
        let known = self.adapters.iter().position(|known| Arc::ptr_eq(known, adapter));
        let number = known.unwrap_or_else(|| {
            self.adapters.push(Arc::clone(adapter));
            self.adapters.len() - 1
        });
        self.adapter = number as u32;
    }

    /// Adds a row to the sequence begun last; returns its number, by which the workspace holds what it wants.
    pub fn push(&mut self, token: u32, position: u32, want: Want) -> usize {
        self.tokens.push(token);
        self.positions.push(position);
        self.wants.push(want);
        self.tables.push(self.table.clone());
        self.adapter_of.push(self.adapter);
        self.tokens.len() - 1
    }

    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// What attention needs to know of each row.
    pub(crate) fn attention_rows<'a>(&'a self, rows: &mut Vec<AttentionRow<'a>>) {
        rows.clear();
        let tables = self.tables.iter().map(|table| self.pages.get(table.clone()).unwrap_or_default());
        rows.extend(
            self.positions.iter().zip(tables).map(|(&position, page_table)| AttentionRow { page_table, position }),
        );
    }

    pub(crate) fn count(&self, want: Want) -> usize {
        self.wants.iter().filter(|wanted| **wanted == want).count()
    }
}

/// Room for the adapters of so many; more of them allocate once.
const MOST_SEQUENCES: usize = 64;
