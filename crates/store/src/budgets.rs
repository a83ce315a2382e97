//! Budgets in memory: what may still be spent, exact under concurrency. A reservation must fit every limit of its
//! organisation, workspace and key, or nothing is taken. Windows are fixed and in UTC (`budgets/windows.rs`); what was used of
//! them before a restart comes from [`crate::Meter::used`]. Start at [`Budgets`].

#[cfg(test)]
mod tests;
mod windows;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use self::windows::{Window, Windows};
use crate::LimitOf;

/// At whose level a limit holds; each level lies within the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Organisation,
    Workspace,
    Key,
}

/// What is limited. Money in millionths of the site's currency, energy in microjoules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Requests,
    Tokens,
    Money,
    Joules,
}

/// The window that a limit holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    Minute,
    Day,
    Month,
}

macro_rules! names {
    ($type:ident: $($name:literal $value:ident),+) => {
        impl $type {
            pub const ALL: &[Self] = &[$(Self::$value),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $name),+ }
            }

            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.name() == name)
            }
        }
    };
}

names!(Scope: "organisation" Organisation, "workspace" Workspace, "key" Key);
names!(What: "requests" Requests, "tokens" Tokens, "money" Money, "joules" Joules);
names!(Per: "minute" Minute, "day" Day, "month" Month);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub id: Arc<str>,
    pub scope: Scope,
    pub scope_id: Arc<str>,
    pub what: What,
    pub per: Per,
    pub amount: u64,
}

impl Limit {
    /// As the site's state keeps it; `None` for words that it does not let in.
    pub fn read(kept: &LimitOf) -> Option<Self> {
        Some(Self {
            id: kept.id.as_str().into(),
            scope: Scope::named(&kept.scope)?,
            scope_id: kept.scope_id.as_str().into(),
            what: What::named(&kept.what)?,
            per: Per::named(&kept.per)?,
            amount: kept.amount,
        })
    }
}

/// How much of each. Money in millionths, energy in microjoules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub requests: u64,
    pub tokens: u64,
    pub money: u64,
    pub joules: u64,
}

impl Amounts {
    pub fn of(&self, what: What) -> u64 {
        match what {
            What::Requests => self.requests,
            What::Tokens => self.tokens,
            What::Money => self.money,
            What::Joules => self.joules,
        }
    }

    fn each(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            requests: combine(self.requests, other.requests),
            tokens: combine(self.tokens, other.tokens),
            money: combine(self.money, other.money),
            joules: combine(self.joules, other.joules),
        }
    }
}

/// What was used of a window that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    pub scope: Scope,
    pub scope_id: Arc<str>,
    pub per: Per,
    pub amounts: Amounts,
}

/// The limit that a reservation does not fit; of several, the one that holds longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub limit: Limit,
    pub remaining: u64,
    /// When its window ends. `None`: it asks for more than a whole window holds, and no waiting helps.
    pub retry_after_s: Option<u64>,
}

/// What is left of a limit now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    pub limit: Limit,
    pub remaining: u64,
    /// Until its window ends.
    pub resets_s: u64,
}

/// All budgets of a site. Cheap to share behind an `Arc`.
#[derive(Debug, Default)]
pub struct Budgets {
    /// By scope, then by id. Whoever spends has an account, limited or not: a limit that comes later finds its counts.
    accounts: RwLock<[HashMap<Arc<str>, Arc<Account>>; 3]>,
}

/// Taken from all limits above a request. Dropped without [`Reservation::settle`], it is given back whole.
#[derive(Debug)]
#[must_use = "dropped, it is given back"]
pub struct Reservation {
    accounts: [Arc<Account>; 3],
    windows: Windows,
    reserved: Amounts,
}

/// One organisation's, workspace's or key's counts. Whoever holds several locks took them in the order of [`Scope`].
#[derive(Debug, Default)]
struct Account(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    limits: Vec<Limit>,
    recent: Recents,
}

/// By kind of window.
#[derive(Debug, Default)]
struct Recents {
    minutes: Recent,
    days: Recent,
    months: Recent,
}

/// Counts of the windows used last, the newest first: a clock that is set back by less finds what it left. Further back
/// it counts from nothing.
#[derive(Debug, Default)]
struct Recent([Option<(u64, Amounts)>; 4]);

impl Budgets {
    /// `used`: what the current windows hold already.
    pub fn new(limits: Vec<Limit>, used: &[Used], now_ms: u64) -> Self {
        let budgets = Self::default();
        let windows = Windows::at(now_ms);
        for it in used {
            let account = budgets.account(it.scope, &it.scope_id);
            let mut counts = account.locked();
            let count = counts.recent.of(it.per).at(windows.of(it.per).number);
            *count = count.each(it.amounts, u64::saturating_add);
        }
        budgets.replace(limits, now_ms);
        budgets
    }

    /// Holds these limits from now on, in place of all earlier ones. Counts stay.
    pub fn replace(&self, limits: Vec<Limit>, now_ms: u64) {
        let month = Windows::at(now_ms).of(Per::Month).number;
        let mut by_scope: [HashMap<Arc<str>, Vec<Limit>>; 3] = Default::default();
        for limit in limits {
            if let Some(of_scope) = by_scope.get_mut(limit.scope as usize) {
                of_scope.entry(Arc::clone(&limit.scope_id)).or_default().push(limit);
            }
        }
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        for (accounts, mut limits) in accounts.iter_mut().zip(by_scope) {
            accounts.retain(|id, account| {
                let mut counts = account.locked();
                counts.limits = limits.remove(id).unwrap_or_default();
                // Whoever spent nothing this month and has no limit leaves nothing to remember.
                !counts.limits.is_empty() || Arc::strong_count(account) > 1 || counts.recent.of(Per::Month).has(month)
            });
            for (id, limits) in limits {
                accounts.insert(id, Arc::new(Account(Mutex::new(Counts { limits, ..Counts::default() }))));
            }
        }
    }

    /// Takes `wanted` from every limit of the organisation, the workspace and the key, or nothing.
    ///
    /// # Errors
    /// Which limit it does not fit.
    pub fn reserve(&self, scopes: [&str; 3], wanted: Amounts, now_ms: u64) -> Result<Reservation, Box<Exceeded>> {
        let accounts = self.of(scopes);
        let windows = Windows::at(now_ms);
        let mut all = accounts.each_ref().map(|account| account.locked());
        let mut worst: Option<Exceeded> = None;
        for counts in &mut all {
            for exceeded in counts.exceeded(&windows, wanted) {
                // None is for ever.
                let longer = |worst: &Exceeded| match (worst.retry_after_s, exceeded.retry_after_s) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(known), Some(new)) => new > known,
                };
                if worst.as_ref().is_none_or(longer) {
                    worst = Some(exceeded);
                }
            }
        }
        if let Some(exceeded) = worst {
            return Err(Box::new(exceeded));
        }
        for counts in &mut all {
            counts.change(&windows, |used| used.each(wanted, u64::saturating_add));
        }
        drop(all);
        Ok(Reservation { accounts, windows, reserved: wanted })
    }

    /// What is left of each limit that holds for this key.
    pub fn remaining(&self, scopes: [&str; 3], now_ms: u64) -> Vec<Remaining> {
        let windows = Windows::at(now_ms);
        let mut remaining = Vec::new();
        for account in self.of(scopes) {
            let mut counts = account.locked();
            let Counts { limits, recent } = &mut *counts;
            remaining.extend(limits.iter().map(|limit| Remaining {
                remaining: limit.amount.saturating_sub(recent.used(limit, &windows)),
                resets_s: windows.of(limit.per).left_s(now_ms),
                limit: limit.clone(),
            }));
        }
        remaining
    }

    fn of(&self, scopes: [&str; 3]) -> [Arc<Account>; 3] {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        let known = |at: usize| Some(Arc::clone(accounts.get(at)?.get(*scopes.get(at)?)?));
        if let (Some(organisation), Some(workspace), Some(key)) = (known(0), known(1), known(2)) {
            return [organisation, workspace, key];
        }
        drop(accounts);
        let [organisation, workspace, key] = scopes;
        [
            self.account(Scope::Organisation, organisation),
            self.account(Scope::Workspace, workspace),
            self.account(Scope::Key, key),
        ]
    }

    fn account(&self, scope: Scope, id: &str) -> Arc<Account> {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        let Some(of_scope) = accounts.get_mut(scope as usize) else { return Arc::default() };
        if let Some(account) = of_scope.get(id) {
            return Arc::clone(account);
        }
        Arc::clone(of_scope.entry(id.into()).or_default())
    }
}

impl Reservation {
    /// What it came to, more or less than was reserved. Counts in the windows of the reservation.
    pub fn settle(mut self, used: Amounts) {
        self.exchange(used);
    }

    pub fn reserved(&self) -> Amounts {
        self.reserved
    }

    fn exchange(&mut self, used: Amounts) {
        if used != self.reserved {
            for account in &self.accounts {
                let back = |count: Amounts| count.each(self.reserved, u64::saturating_sub);
                account.locked().change(&self.windows, |count| back(count).each(used, u64::saturating_add));
            }
        }
        // Nothing is left to give back when it is dropped.
        self.reserved = Amounts::default();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.exchange(Amounts::default());
    }
}

impl Account {
    fn locked(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics while holding it; if it did, the counts are whole between statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recents {
    fn of(&mut self, per: Per) -> &mut Recent {
        match per {
            Per::Minute => &mut self.minutes,
            Per::Day => &mut self.days,
            Per::Month => &mut self.months,
        }
    }

    fn used(&mut self, limit: &Limit, windows: &Windows) -> u64 {
        self.of(limit.per).at(windows.of(limit.per).number).of(limit.what)
    }
}

impl Recent {
    /// The counts of a window, which is now the newest. What it pushes out was used longest ago.
    fn at(&mut self, number: u64) -> &mut Amounts {
        let is = |slot: &Option<(u64, Amounts)>| slot.is_some_and(|(known, _)| known == number);
        let at = self.0.iter().position(is).unwrap_or(self.0.len() - 1);
        if let Some(newer) = self.0.get_mut(..=at) {
            newer.rotate_right(1);
        }
        let [newest, ..] = &mut self.0;
        if !is(newest) {
            *newest = None;
        }
        &mut newest.get_or_insert((number, Amounts::default())).1
    }

    fn has(&self, number: u64) -> bool {
        self.0.iter().flatten().any(|(known, _)| *known == number)
    }
}

impl Counts {
    fn exceeded(&mut self, windows: &Windows, wanted: Amounts) -> impl Iterator<Item = Exceeded> {
        let Self { limits, recent } = self;
        limits.iter().filter_map(move |limit| {
            let remaining = limit.amount.checked_sub(recent.used(limit, windows));
            let wanted = wanted.of(limit.what);
            if remaining.is_some_and(|remaining| wanted <= remaining) {
                return None;
            }
            let window = windows.of(limit.per);
            let retry_after_s = (wanted <= limit.amount).then(|| window.left_s(windows.now_ms));
            Some(Exceeded { limit: limit.clone(), remaining: remaining.unwrap_or(0), retry_after_s })
        })
    }

    fn change(&mut self, windows: &Windows, change: impl Fn(Amounts) -> Amounts) {
        for &per in Per::ALL {
            let count = self.recent.of(per).at(windows.of(per).number);
            *count = change(*count);
        }
    }
}
