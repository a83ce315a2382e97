//! The rows of one forward pass: prompt chunks and single decode steps of many sequences, mixed. Owned and reused, so that a
//! step allocates nothing.

use std::ops::Range;

use falaj_kernels::AttentionRow;

/// Rows of one step. The rows of one sequence are pushed in the order of their positions.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) wants: Vec<Want>,
    /// Per row: where its sequence's page table lies in `pages`.
    pub(crate) tables: Vec<Range<usize>>,
    pub(crate) pages: Vec<u32>,
    table: Range<usize>,
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

impl Batch {
    /// Room for `rows` rows and `pages` page-table entries without a further allocation.
    pub fn with_capacity(rows: usize, pages: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(rows),
            positions: Vec::with_capacity(rows),
            wants: Vec::with_capacity(rows),
            tables: Vec::with_capacity(rows),
            pages: Vec::with_capacity(pages),
            table: 0..0,
        }
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.wants.clear();
        self.tables.clear();
        self.pages.clear();
        self.table = 0..0;
    }

    /// Begins the rows of a sequence: page `pages[i]` of the cache holds its positions from `i * PAGE_TOKENS`.
    pub fn sequence(&mut self, pages: &[u32]) {
        let start = self.pages.len();
        self.pages.extend_from_slice(pages);
        self.table = start..self.pages.len();
    }

    /// Adds a row to the sequence begun last; returns its number, by which the workspace holds what it wants.
    pub fn push(&mut self, token: u32, position: u32, want: Want) -> usize {
        self.tokens.push(token);
        self.positions.push(position);
        self.wants.push(want);
        self.tables.push(self.table.clone());
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
