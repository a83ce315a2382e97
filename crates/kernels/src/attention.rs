//! Attention of query rows over a paged key-value store: softmax(q·kᵀ · scale)·v in one pass over the pages, for rows alone and
//! for tiles of rows that share the pages. What is computed, in which order, is said in `tile.rs` and depends on the row
//! alone. How a page looks: `page.rs`.

pub(crate) mod page;
pub(crate) mod pairs;
pub(crate) mod tile;

use std::cell::RefCell;
use std::ops::Range;

use crate::pool::{Parts, Pool};
use page::{Layout, PAGE_TOKENS};
use tile::Scratch;

/// How a store keeps its elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    F32,
    /// Saturating: nothing becomes infinite.
    F16,
    /// Queries and softmax weights are rounded to it too; sums are f32.
    BF16,
    /// −127..=127, with one f32 scale per position, kv head, and keys or values; otherwise as BF16.
    I8,
}

impl KvFormat {
    pub const ALL: [KvFormat; 4] = [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::I8];

    /// Bytes of one kv head's keys and values in one page.
    pub const fn block_bytes(self, head_dim: usize) -> usize {
        Layout::new(self, head_dim).bytes
    }

    /// Whether queries and weights stay as they are.
    const fn is_float(self) -> bool {
        matches!(self, KvFormat::F32 | KvFormat::F16)
    }

    const fn element_bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 | KvFormat::BF16 => 2,
            KvFormat::I8 => 1,
        }
    }
}

/// The keys and values of one layer: (pages, kv_heads, format.block_bytes(head_dim)). All zeros is a valid store; only
/// [`crate::Ops::rotate_and_store`] writes others.
#[derive(Clone, Copy, Debug)]
pub struct KvView<'a> {
    pub format: KvFormat,
    pub pages: &'a [u8],
}

/// One query row: the pages of its sequence in order, and its position. It sees the positions
/// `max(0, position + 1 − window)..=position`, of which page `i` holds those from `16 i` on.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    pub page_table: &'a [u32],
    pub position: u32,
}

/// q: (rows.len(), heads, head_dim); head h reads kv head h / (heads / kv_heads).
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
    pub q: &'a [f32],
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub kv: KvView<'a>,
    pub rows: &'a [AttentionRow<'a>],
    pub window: Option<u32>,
    /// Scores are (q · k) · scale, usually 1 / √head_dim. Above 0.
    pub scale: f32,
}

impl AttentionArgs<'_> {
    /// The positions that a row sees: from the first to the last.
    #[inline(always)]
    fn span(&self, row: usize) -> (usize, usize) {
        let last = self.rows[row].position as usize;
        (self.window.map_or(0, |window| (last + 1).saturating_sub(window as usize)), last)
    }
}

/// Splits rows into tiles, and calls `task(args, rows, kv_head, scratch, out)` for each tile and kv head.
pub(crate) fn attention(
    pool: &Pool,
    args: &AttentionArgs,
    out: &mut [f32],
    task: impl Fn(&AttentionArgs, Range<usize>, usize, &mut Scratch, &Parts<f32>) + Sync,
) {
    check(args, out);
    let group = args.heads / args.kv_heads;
    if out.is_empty() {
        return;
    }
    // A kv head's group of query heads lies together in `out`: part row · kv_heads + kv_head.
    let parts = Parts::new(out, group * args.head_dim);
    TILES.with_borrow_mut(|tiles| {
        // Tiles as large as the threads allow: several for each, so that they end together.
        let per_thread = args.rows.len() * args.kv_heads / (pool.threads() * TASKS_PER_THREAD);
        cut(args.rows, per_thread.clamp(1, (TILE_VECTORS / group).max(1)), tiles);
        pool.run(tiles.len() * args.kv_heads, |task_number, _| {
            let rows = tiles[task_number / args.kv_heads].clone();
            SCRATCH.with_borrow_mut(|scratch| task(args, rows, task_number % args.kv_heads, scratch, &parts));
        });
    });
}

/// Query vectors (rows × heads of a kv head) of a tile: what shares a page while it is in the first-level cache.
const TILE_VECTORS: usize = 64;
const TASKS_PER_THREAD: usize = 4;

thread_local! {
    /// One entry per tile of a batch.
    static TILES: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
    /// Of a size that the model decides.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Runs of up to `most` rows of one sequence, the longest contexts first, so that no thread begins one at the end.
fn cut(rows: &[AttentionRow], most: usize, tiles: &mut Vec<Range<usize>>) {
    tiles.clear();
    let mut start = 0;
    for end in 1..=rows.len() {
        let goes_on = end < rows.len()
            && end - start < most
            && std::ptr::eq(rows[end].page_table, rows[start].page_table)
            && rows[end].position == rows[end - 1].position.wrapping_add(1);
        if !goes_on {
            tiles.push(start..end);
            start = end;
        }
    }
    tiles.sort_unstable_by_key(|tile| std::cmp::Reverse((rows[tile.start].position, tile.start)));
}

fn check(args: &AttentionArgs, out: &[f32]) {
    assert!(args.kv_heads > 0 && args.heads.is_multiple_of(args.kv_heads), "query heads come in groups per kv head");
    assert_eq!(args.q.len(), args.rows.len() * args.heads * args.head_dim, "q is (rows, heads, head_dim)");
    assert_eq!(out.len(), args.q.len(), "the result has the shape of q");
    assert!(args.window != Some(0), "a window lets a token see itself");
    assert!(args.scale > 0.0, "scores grow with q · k");
    let page = args.kv_heads * args.kv.format.block_bytes(args.head_dim);
    let pages = args.kv.pages.len().checked_div(page).unwrap_or(0);
    for row in 0..args.rows.len() {
        let ((first, last), table) = (args.span(row), args.rows[row].page_table);
        let read = table.get(first / PAGE_TOKENS..=last / PAGE_TOKENS);
        assert!(read.is_some(), "position {last} has a page");
        assert!(
            read.is_some_and(|read| read.iter().all(|&number| (number as usize) < pages)),
            "the page is in the store"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_runs_of_one_sequence_longest_first() {
        let (a, b) = ([0u32; 9], [1u32; 9]);
        let row = |page_table, position| AttentionRow { page_table, position };
        let mut rows: Vec<_> = (20..25).map(|position| row(&a[..], position)).collect();
        rows.extend([row(&b[..], 70), row(&b[..], 90), row(&b[..], 91)]);
        let mut tiles = Vec::new();
        cut(&rows, 2, &mut tiles);
        assert_eq!(tiles, [6..8, 5..6, 4..5, 2..4, 0..2]);
    }
}
