//! Whether there is room for a model, and who must leave to make it. Only the arithmetic: what happens then is
//! `residents.rs`' business.

use super::Refusal;
use super::state::{Condition, Resident, State};
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

/// Who wants room, and over which base, which must stay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) id: &'a str,
    pub(super) need_bytes: u64,
    pub(super) base: Option<&'a str>,
}

/// Room for `wanted`, or, without one, for what has turned out larger than it was thought to be.
pub(super) fn settle(state: &mut State, memory: &Memory, wanted: Option<Wanted>) -> Verdict {
    let (need_bytes, base) = wanted.map_or((0, None), |wanted| (wanted.need_bytes, wanted.base));
    let bound_bytes = memory.bound_bytes;
    let pinned_bytes = staying_bytes(state, base);
    if wanted.is_some() && need_bytes.saturating_add(pinned_bytes) > bound_bytes {
        return Verdict::Never(Refusal::TooLarge { need_bytes, bound_bytes, pinned_bytes });
    }
    let mut missing_bytes = state.taken_bytes().saturating_add(need_bytes).saturating_sub(bound_bytes);
    if missing_bytes == 0 {
        return Verdict::Fits;
    }
    let mut may_go = Vec::new();
    for (id, resident) in &state.models {
        match &resident.condition {
            Condition::Unloading => missing_bytes = missing_bytes.saturating_sub(resident.bytes),
            Condition::Loaded(loaded) if may_leave(state, id, wanted) => {
                // A base is as busy as the busiest of its adapters, which leave before it.
                let busy = loaded.loans > 0 || adapters(state, id).any(|id| is_busy(state, id));
                may_go.push((busy, loaded.used, id.clone()));
            }
            _ => {}
        }
    }
    // Idle ones first, whenever they were used; among these and among the busy, the least recently used.
    may_go.sort_unstable();
    let (mut idle, mut gone) = (Vec::new(), Vec::new());
    for (busy, _, id) in may_go {
        if missing_bytes == 0 {
            break;
        }
        let before: Vec<String> = adapters(state, &id).map(str::to_owned).collect();
        let last = before.is_empty();
        for id in before.into_iter().chain([id]) {
            if gone.contains(&id) {
                continue;
            }
            let Some(resident) = state.models.get_mut(&id) else { continue };
            let Condition::Loaded(loaded) = &mut resident.condition else { continue };
            missing_bytes = missing_bytes.saturating_sub(resident.bytes);
            // Without a request that waits, nobody is sent away from his work.
            loaded.leaving = wanted.is_some() || !busy;
            // A base goes when its adapters have gone.
            if loaded.loans == 0 && (wanted.is_some() || !busy) && (last || resident.base.is_some()) {
                idle.push(id.clone());
            }
            gone.push(id);
        }
    }
    if idle.is_empty() { Verdict::Wait } else { Verdict::Leave(idle) }
}

/// Of what never leaves, or must not leave for an adapter over `base`.
pub(super) fn staying_bytes(state: &State, base: Option<&str>) -> u64 {
    let stays = |id: &String| base == Some(id.as_str()) || adapters(state, id).any(|id| is_pinned(state, id));
    let of = |(id, resident): (&String, &Resident)| match &resident.condition {
        Condition::Loaded(loaded) if loaded.stays || stays(id) => resident.bytes,
        _ => 0,
    };
    state.models.iter().map(of).fold(0, u64::saturating_add)
}

fn may_leave(state: &State, id: &str, wanted: Option<Wanted>) -> bool {
    let wanted_too = wanted.is_some_and(|wanted| wanted.id == id || wanted.base == Some(id));
    let held = |id: &str| is_pinned(state, id) || is_loading(state, id);
    !wanted_too && !held(id) && !adapters(state, id).any(held)
}

/// Those over `id`.
fn adapters<'a>(state: &'a State, id: &'a str) -> impl Iterator<Item = &'a str> {
    let over = move |(_, resident): &(&String, &Resident)| resident.base.as_deref() == Some(id);
    state.models.iter().filter(over).map(|(id, _)| id.as_str())
}

fn is_busy(state: &State, id: &str) -> bool {
    matches!(state.models.get(id).map(|resident| &resident.condition), Some(Condition::Loaded(loaded)) if loaded.loans > 0)
}

fn is_pinned(state: &State, id: &str) -> bool {
    matches!(state.models.get(id).map(|resident| &resident.condition), Some(Condition::Loaded(loaded)) if loaded.stays)
}

fn is_loading(state: &State, id: &str) -> bool {
    matches!(state.models.get(id).map(|resident| &resident.condition), Some(Condition::Loading { .. }))
}
