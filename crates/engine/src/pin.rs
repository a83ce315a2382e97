//! Beginnings that stay: a system prompt that every request has is computed once and kept until it is unpinned, however
//! crowded the cache is.

use falaj_model::PAGE_TOKENS;

use crate::engine::Engine;
use crate::request::{Request, Sampling, Stream, SubmitError, Tenant};

/// A pinned beginning. Dropping it changes nothing: [`Engine::unpin`] ends it.
#[must_use = "without it the pages can never be had again"]
pub struct Pin {
    pub(crate) id: u64,
    pub(crate) pages: usize,
    /// Tells `Done` when the pages are computed; need not be read.
    pub stream: Stream,
}

/// Why a beginning is not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error("the prefix cache is off; switch it on to pin prompts")]
    NoPrefixCache,
    #[error(
        "a pin of {pages} pages exceeds the {left} that are left beside one full context; give the cache more bytes"
    )]
    TooLarge { pages: usize, left: usize },
}

impl Engine {
    /// Computes the full pages of `tokens` under `salt`, unless they are known, and keeps them until [`Engine::unpin`].
    /// Tokens behind the last full page (16 tokens each) are computed with each request.
    ///
    /// # Errors
    /// As [`Engine::submit`]; and where it would leave too few pages for one sequence of the whole context.
    pub fn pin(&self, tokens: Vec<u32>, salt: u64) -> Result<Pin, PinError> {
        if !self.options().prefix_cache {
            return Err(PinError::NoPrefixCache);
        }
        let pages = tokens.len() / PAGE_TOKENS;
        self.reserve_pinned(pages).map_err(|left| PinError::TooLarge { pages, left })?;
        let request = Request {
            prompt: tokens,
            max_tokens: 0,
            sampling: Sampling::default(),
            stop_tokens: Vec::new(),
            min_tokens: 0,
            constraint: None,
            tenant: Tenant::default(),
            cache_salt: salt,
            adapter: None,
            logprobs: None,
        };
        match self.queue(request, Vec::new(), true) {
            Ok((id, mut streams)) => {
                let stream = streams.pop().ok_or(SubmitError::Stopped)?;
                Ok(Pin { id, pages, stream })
            }
            Err(refusal) => {
                self.end_pin(None, pages);
                Err(refusal.into())
            }
        }
    }

    /// Lets the pages of a pin go the way of all others: they stay known as long as nobody needs the place.
    pub fn unpin(&self, pin: Pin) {
        self.end_pin(Some(pin.id), pin.pages);
    }
}
