//! A small model that proposes for a large one: same vocabulary, its own cache and buffers, greedy. It runs in the engine
//! thread between steps, all sequences together, one token of each at a time.

use std::sync::Arc;

use falaj_kernels::{KvFormat, Pool};
use falaj_model::{Batch, Config, KvCache, Model, ModelError, PAGE_TOKENS, Want, Workspace};

/// A sequence as the draft model sees it.
pub(crate) trait Proposable {
    /// Never used again for another sequence.
    fn id(&self) -> u64;
    /// All tokens so far.
    fn tokens(&self) -> &[u32];
    /// How many proposals it wants of this model now.
    fn wanted(&self) -> usize;
    /// Those it has.
    fn proposed(&self) -> &[u32];
    /// One more of them.
    fn propose(&mut self, token: u32);
}

/// The draft model and what it needs to run.
pub(crate) struct Draft {
    model: Arc<Model>,
    workspace: Workspace,
    cache: KvCache,
    free: Vec<u32>,
    batch: Batch,
    read: Vec<Read>,
}

/// What the draft model knows of one sequence: the tokens whose keys and values it holds, in its own pages.
struct Read {
    id: u64,
    fed: Vec<u32>,
    pages: Vec<u32>,
    /// The row of the batch under way that gives the next proposal.
    row: Option<usize>,
}

impl Draft {
    /// Rows in which it reads, for up to `sequences` sequences.
    pub(crate) fn rows(sequences: usize) -> usize {
        CATCH_UP_ROWS.max(sequences)
    }

    /// Pages for up to `sequences` sequences of up to `context_tokens` tokens, as far as `cache_bytes` go.
    pub(crate) fn pages(config: &Config, sequences: usize, context_tokens: usize, cache_bytes: usize) -> usize {
        let wanted = sequences * context_tokens.min(config.context_tokens).div_ceil(PAGE_TOKENS);
        wanted.min(cache_bytes / Self::page_bytes(config)).max(1)
    }

    pub(crate) fn page_bytes(config: &Config) -> usize {
        KvCache::page_bytes(config, FORMAT)
    }

    /// For up to `sequences` sequences of up to `context_tokens` tokens, as far as `cache_bytes` go.
    pub(crate) fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        sequences: usize,
        context_tokens: usize,
        cache_bytes: usize,
    ) -> Result<Self, ModelError> {
        let pages = Self::pages(model.config(), sequences, context_tokens, cache_bytes);
        let rows = Self::rows(sequences);
        Ok(Self {
            workspace: Workspace::new(&model, pool, rows, sequences)?,
            cache: KvCache::new(model.config(), FORMAT, pages)?,
            free: (0..pages as u32).rev().collect(),
            batch: Batch::with_capacity(rows, pages),
            read: Vec::with_capacity(sequences),
            model,
        })
    }

    /// Appends to each sequence's proposals up to as many as it wants. One that the draft model has yet to read, or that finds
    /// no page, gets none now; reading goes on at the next call. Forgets sequences that are not in `running`. Returns how many of its
    /// forward passes brought proposals.
    ///
    /// # Errors
    /// What the model's forward pass says.
    pub(crate) fn propose(&mut self, running: &mut [impl Proposable]) -> Result<usize, ModelError> {
        self.forget_others(running);
        let mut rounds = 0;
        for round in 0..running.iter().map(Proposable::wanted).max().unwrap_or(0) {
            self.batch.clear();
            for sequence in running.iter().filter(|sequence| sequence.wanted() > round) {
                let place = self.place_of(sequence.id());
                if round == 0 {
                    self.read_on(place, sequence.tokens());
                } else if sequence.proposed().len() == round {
                    let next = sequence.proposed().last().copied();
                    self.feed(place, next.as_slice(), true);
                }
            }
            if self.batch.is_empty() {
                break;
            }
            self.model.forward(&mut self.workspace, &mut self.cache, &self.batch)?;
            let mut proposed = false;
            for sequence in &mut *running {
                let Some(read) = self.read.iter_mut().find(|read| read.id == sequence.id()) else { continue };
                let row = read.row.take();
                if let Some(logits) = row.and_then(|row| self.workspace.logits(row)) {
                    sequence.propose(self.model.ops().argmax(logits) as u32);
                    proposed = true;
                }
            }
            rounds += usize::from(proposed);
        }
        Ok(rounds)
    }

    fn forget_others(&mut self, running: &[impl Proposable]) {
        let free = &mut self.free;
        self.read.retain_mut(|read| {
            let stays = running.iter().any(|sequence| sequence.id() == read.id);
            if !stays {
                free.append(&mut read.pages);
            }
            stays
        });
    }

    fn place_of(&mut self, id: u64) -> usize {
        self.read.iter().position(|read| read.id == id).unwrap_or_else(|| {
            self.read.push(Read { id, fed: Vec::new(), pages: Vec::new(), row: None });
            self.read.len() - 1
        })
    }

    /// Puts into the batch what the sequence has and the draft model has not read, as far as there is room.
    fn read_on(&mut self, place: usize, tokens: &[u32]) {
        let (Some(before_last), Some(read)) = (tokens.len().checked_sub(1), self.read.get_mut(place)) else { return };
        let agreed = read.fed.iter().zip(tokens).take_while(|(fed, token)| fed == token).count();
        // Proposals that were wrong are overwritten. The last token is read again where it was, for its logits.
        read.fed.truncate(agreed.min(before_last));
        let unread = tokens.get(read.fed.len()..).unwrap_or_default();
        let room = self.workspace.max_rows() - self.batch.rows();
        match unread.get(..room) {
            Some(part) if part.len() < unread.len() => self.feed(place, part, false),
            _ => self.feed(place, unread, true),
        }
    }

    fn feed(&mut self, place: usize, tokens: &[u32], proposes: bool) {
        let Some(read) = self.read.get_mut(place) else { return };
        let end = read.fed.len() + tokens.len();
        if end > self.model.context_tokens() || tokens.len() > self.workspace.max_rows() - self.batch.rows() {
            return;
        }
        while read.pages.len() < end.div_ceil(PAGE_TOKENS) {
            let Some(page) = self.free.pop() else { return };
            read.pages.push(page);
        }
        self.batch.sequence(&read.pages);
        for (number, &token) in tokens.iter().enumerate() {
            let last = proposes && number + 1 == tokens.len();
            let row = self.batch.push(token, read.fed.len() as u32, if last { Want::Logits } else { Want::Nothing });
            read.fed.push(token);
            read.row = last.then_some(row);
        }
    }
}

/// Rows in which the draft model reads a prompt.
const CATCH_UP_ROWS: usize = 128;
/// Of its keys and values: proposals are only guesses, whatever the model itself keeps.
const FORMAT: KvFormat = KvFormat::F16;

#[cfg(test)]
mod tests {
    use falaj_model::synthetic::{synthetic, tiny_config};

    use super::*;

    struct Sequence {
        id: u64,
        tokens: Vec<u32>,
        proposed: Vec<u32>,
    }

    impl Proposable for Sequence {
        fn id(&self) -> u64 {
            self.id
        }
        fn tokens(&self) -> &[u32] {
            &self.tokens
        }
        fn wanted(&self) -> usize {
            4
        }
        fn proposed(&self) -> &[u32] {
            &self.proposed
        }
        fn propose(&mut self, token: u32) {
            self.proposed.push(token);
        }
    }

    #[test]
    fn rounds_that_only_read_bring_nothing() {
        let mut running = [Sequence { id: 1, tokens: (0..200).map(|i| i % 50).collect(), proposed: Vec::new() }];
        let mut draft = draft(40);
        assert_eq!([draft.propose(&mut running).unwrap(), draft.propose(&mut running).unwrap()], [0, 4]);
    }

    fn draft(pages: usize) -> Draft {
        let model = Arc::new(synthetic(&tiny_config(50, 256), 3).unwrap());
        let bytes = pages * KvCache::page_bytes(model.config(), KvFormat::F16);
        Draft::new(model, Arc::new(Pool::new(1)), 2, 256, bytes).unwrap()
    }

    fn proposals(draft: &mut Draft, id: u64, tokens: &[u32]) -> Vec<u32> {
        let mut running = [Sequence { id, tokens: tokens.to_vec(), proposed: Vec::new() }];
        // A prompt takes several calls to read.
        for _ in 0..3 {
            running[0].proposed.clear();
            draft.propose(&mut running).unwrap();
        }
        std::mem::take(&mut running[0].proposed)
    }

    /// Whatever it was fed before, wrong proposals included, it proposes what a fresh one would.
    #[test]
    fn wrong_proposals_leave_no_trace() {
        let mut tokens: Vec<u32> = (0..200).map(|i| i * 7 % 50).collect();
        let mut used = draft(40);
        for more in 0..4 {
            let now = proposals(&mut used, 1, &tokens);
            assert_eq!(now, proposals(&mut draft(40), 1, &tokens));
            assert_eq!(now.len(), 4);
            // One right, the next wrong.
            tokens.push(now[0]);
            tokens.push((now[1] + 1 + more) % 50);
        }
    }

    #[test]
    fn sequences_that_are_gone_leave_their_pages() {
        let tokens: Vec<u32> = (0..40).collect();
        let mut draft = draft(3);
        for id in 0..5 {
            assert_eq!(proposals(&mut draft, id, &tokens).len(), 4, "sequence {id}");
        }
    }

    #[test]
    fn without_pages_there_are_no_proposals() {
        let tokens: Vec<u32> = (0..40).collect();
        assert!(proposals(&mut draft(1), 0, &tokens).is_empty());
    }
}
