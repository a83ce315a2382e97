//! Whether there is room for a model, and who must leave to make it. Only the arithmetic: what happens then is
//! `residents.rs`' business.

use super::{Condition, Refusal, State};
use crate::registry::Memory;

#[derive(Debug)]
pub(super) enum Verdict {
    /// Now.
    Fits,
    /// Once these idle ones have gone; busy ones that must go too have been marked.
    Leave(Vec<String>),
    /// Once what is under way has ended.
    Wait,
    Never(Refusal),
}

/// Room for `wanted` (id, bytes), or, without one, for what has turned out larger than it was thought to be.
pub(super) fn settle(state: &mut State, memory: &Memory, wanted: Option<(&str, u64)>) -> Verdict {
    let (wanted_id, need_bytes) = wanted.unwrap_or(("", 0));
    let bound_bytes = memory.bound_bytes;
    let pinned_bytes = state.staying_bytes();
    if wanted.is_some() && need_bytes.saturating_add(pinned_bytes) > bound_bytes {
        return Verdict::Never(Refusal::TooLarge { need_bytes, bound_bytes, pinned_bytes });
    }
    let mut missing_bytes = state.taken_bytes().saturating_add(need_bytes).saturating_sub(bound_bytes);
    if missing_bytes == 0 {
        return Verdict::Fits;
    }
    let mut may_go = Vec::new();
    for (id, resident) in &mut state.models {
        match &mut resident.condition {
            Condition::Unloading => missing_bytes = missing_bytes.saturating_sub(resident.bytes),
            Condition::Loaded(loaded) if !loaded.stays && id != wanted_id => {
                may_go.push((loaded.loans > 0, loaded.used, id, resident.bytes, loaded));
            }
            _ => {}
        }
    }
    // Idle ones first, whenever they were used; among these and among the busy, the least recently used.
    may_go.sort_unstable_by_key(|(busy, used, ..)| (*busy, *used));
    let mut idle = Vec::new();
    for (busy, _, id, bytes, loaded) in may_go {
        if missing_bytes == 0 {
            break;
        }
        missing_bytes = missing_bytes.saturating_sub(bytes);
        // Without a request that waits, nobody is sent away from his work.
        loaded.leaving = wanted.is_some() || !busy;
        if !busy {
            idle.push(id.clone());
        }
    }
    if idle.is_empty() { Verdict::Wait } else { Verdict::Leave(idle) }
}
