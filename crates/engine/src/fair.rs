//! Whose turn it is: weighted virtual token counters (VTC; Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024),
//! one account per tenant. Service is charged over weight, who has had least comes next, and who comes back from idling is lifted to
//! those who did not, so that nobody saves up. Bands come before counters. Counts and decides; the scheduler's `admit.rs` acts.

use std::cmp::Reverse;
use std::collections::VecDeque;

use crate::request::Tenant;
use crate::sequence::Sequence;

/// The accounts of all tenants that wait, run, or did so not long ago.
#[derive(Debug)]
pub(crate) struct Fair {
    accounts: Vec<Account>,
    bands: Vec<Band>,
    /// Accounts to keep, idle ones included.
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    tenant: Tenant,
    /// Service charged, over weight.
    counter: u64,
    /// Sequences, and the requests that those which wait stand for.
    waiting: usize,
    running: usize,
    requests: usize,
    /// Whether it waited a turn ago.
    waited: bool,
}

/// Tenants of one priority.
#[derive(Clone, Copy, Debug, Default)]
struct Band {
    /// The account that had nothing left to wait for last, or what was in it when it was closed.
    last: Option<usize>,
    left: u64,
    /// Sequences that wait, and admissions of higher bands meanwhile.
    waiting: usize,
    passed: u32,
}

impl Fair {
    /// `active`: most sequences that wait or run.
    pub(crate) fn new(active: usize) -> Self {
        let most = active + IDLE;
        Self { accounts: Vec::with_capacity(most), bands: vec![Band::default(); usize::from(u8::MAX) + 1], most }
    }

    /// Counts who waits and runs, and gives newcomers their accounts. Once per turn.
    pub(crate) fn seat(&mut self, waiting: &mut VecDeque<Sequence>, running: &[Sequence]) {
        self.bands.iter_mut().for_each(|band| band.waiting = 0);
        for account in &mut self.accounts {
            account.waited = account.waiting > 0;
            (account.waiting, account.running) = (0, 0);
        }
        for sequence in running {
            if let Some(account) = sequence.account {
                self.accounts[account].running += 1;
            }
        }
        for sequence in waiting.iter_mut() {
            sequence.account =
                sequence.account.filter(|account| self.accounts[*account].tenant.id == sequence.tenant.id);
            if let Some(account) = sequence.account {
                self.join(account);
            }
        }
        for (number, account) in self.accounts.iter().enumerate() {
            if account.waited && account.waiting == 0 {
                self.bands[usize::from(account.tenant.band)].last = Some(number);
            }
        }
        for sequence in waiting.iter_mut().filter(|sequence| sequence.account.is_none()) {
            let account = self.open(sequence.tenant);
            if self.accounts[account].waiting == 0 {
                let floor = self.floor(sequence.tenant.band);
                let counter = &mut self.accounts[account].counter;
                *counter = floor.max(*counter);
            }
            self.join(account);
            sequence.account = Some(account);
        }
    }

    fn join(&mut self, account: usize) {
        let account = &mut self.accounts[account];
        account.waiting += 1;
        self.bands[usize::from(account.tenant.band)].waiting += 1;
    }

    /// What a tenant of this band that did not wait has had at least: as much as the one that waits and has had least; where
    /// nobody waits, as the one that did so last.
    fn floor(&self, band: u8) -> u64 {
        let waits = |account: &&Account| account.waiting > 0 && account.tenant.band == band;
        let Band { last, left, .. } = self.bands[usize::from(band)];
        let last = || last.map_or(left, |account| self.accounts[account].counter);
        self.accounts.iter().filter(waits).map(|account| account.counter).min().unwrap_or_else(last)
    }

    /// The account of a tenant, with what it says of itself now. Of too many the idle one that has had least is forgotten.
    fn open(&mut self, tenant: Tenant) -> usize {
        let known = self.accounts.iter().position(|account| account.tenant.id == tenant.id);
        if let Some(number) = known {
            self.accounts[number].tenant = tenant;
            return number;
        }
        let new = Account { tenant, counter: 0, waiting: 0, running: 0, requests: 0, waited: false };
        let idle = |account: &Account| account.waiting + account.running == 0;
        let accounts = self.accounts.iter().enumerate();
        let least = accounts.filter(|(_, account)| idle(account)).min_by_key(|(_, account)| account.counter);
        match least.map(|(number, _)| number) {
            Some(number) if self.accounts.len() >= self.most => {
                let old = std::mem::replace(&mut self.accounts[number], new);
                let band = &mut self.bands[usize::from(old.tenant.band)];
                if band.last == Some(number) {
                    (band.last, band.left) = (None, old.counter);
                }
                number
            }
            _ => {
                self.accounts.push(new);
                self.accounts.len() - 1
            }
        }
    }

    /// Of accounts with a sequence that could run, whose comes next. Of equals who runs less, then in the order given.
    pub(crate) fn next(&self, ready: impl Iterator<Item = usize>) -> Option<usize> {
        ready.min_by_key(|number| {
            let Tenant { band, .. } = self.accounts[*number].tenant;
            let late = self.bands[usize::from(band)].passed >= MOST_PASSED;
            (!late, Reverse(band), self.accounts[*number].counter, self.accounts[*number].running)
        })
    }

    /// The order in which tenants' prompts are read, the first first.
    pub(crate) fn rank(&self, account: Option<usize>) -> (Reverse<u8>, u64, usize) {
        let number = account.unwrap_or(usize::MAX);
        let known = self.accounts.get(number);
        known.map_or((Reverse(0), 0, number), |account| (Reverse(account.tenant.band), account.counter, number))
    }

    /// One of its sequences runs now.
    pub(crate) fn admitted(&mut self, account: Option<usize>) {
        let Some(number) = account else { return };
        let account = &mut self.accounts[number];
        account.running += 1;
        account.waiting = account.waiting.saturating_sub(1);
        let (lower, others) = self.bands.split_at_mut(usize::from(account.tenant.band));
        if let Some(band) = others.first_mut() {
            band.waiting = band.waiting.saturating_sub(1);
            band.passed = 0;
            if account.waiting == 0 {
                band.last = Some(number);
            }
        }
        lower.iter_mut().filter(|band| band.waiting > 0).for_each(|band| band.passed += 1);
    }

    /// One of its sequences waits again.
    pub(crate) fn displaced(&mut self, account: usize) {
        self.accounts[account].running -= 1;
        self.join(account);
    }

    /// It gets `tokens` of this kind.
    pub(crate) fn charge(&mut self, account: Option<usize>, tokens: usize, cost: Cost) {
        if let Some(account) = account.and_then(|account| self.accounts.get_mut(account)) {
            account.counter = account.counter.saturating_add(service(account.tenant, tokens, cost));
        }
    }

    /// It was charged for `tokens` that cost nothing.
    pub(crate) fn refund(&mut self, account: Option<usize>, tokens: usize, cost: Cost) {
        if let Some(account) = account.and_then(|account| self.accounts.get_mut(account)) {
            account.counter = account.counter.saturating_sub(service(account.tenant, tokens, cost));
        }
    }

    /// Whether there is anybody to be fair to.
    pub(crate) fn is_shared(&self) -> bool {
        self.accounts.iter().filter(|account| account.is_active()).nth(1).is_some()
    }

    /// Whether one more sequence leaves it within its share of so many places. Everybody may have one.
    pub(crate) fn may_claim_place(&self, claimant: usize, places: usize) -> bool {
        let Account { tenant, running, .. } = self.accounts[claimant];
        running == 0 || (running as u64 + 1) * self.weights() <= places as u64 * weight(tenant)
    }

    /// Whether it runs nothing and asks for no more than its share of all pages.
    pub(crate) fn may_claim_pages(&self, claimant: usize, needed: usize, pages: usize) -> bool {
        let Account { tenant, running, .. } = self.accounts[claimant];
        running == 0 && needed as u64 * self.weights() <= pages as u64 * weight(tenant)
    }

    /// Who has more than its share of `whole` (places, or pages), runs more than one sequence, and must give way to `claimant`: of the
    /// lowest band, who has most for its weight. `held`: what an account has.
    pub(crate) fn over(&self, claimant: usize, whole: usize, held: impl Fn(usize) -> usize) -> Option<usize> {
        let (weights, highest) = (self.weights(), self.accounts[claimant].tenant.band);
        let others =
            self.accounts.iter().enumerate().filter(|(number, account)| {
                *number != claimant && account.running > 1 && account.tenant.band <= highest
            });
        let over = others.map(|(number, account)| (number, account.tenant, held(number) as u64));
        let over = over.filter(|(_, tenant, held)| held * weights > whole as u64 * weight(*tenant));
        over.max_by_key(|(_, tenant, held)| (Reverse(tenant.band), held * SCALE / weight(*tenant)))
            .map(|(number, ..)| number)
    }

    /// How soon an account that holds so many pages gives some up where there are none left: the last first.
    pub(crate) fn patience(&self, account: Option<usize>, pages: usize) -> (Reverse<u8>, u64) {
        let tenant = account.and_then(|account| self.accounts.get(account)).map(|account| account.tenant);
        let tenant = tenant.unwrap_or_default();
        (Reverse(tenant.band), pages as u64 * SCALE / weight(tenant))
    }

    /// Writes how many requests wait, by tenant. All of `waiting` have accounts.
    pub(crate) fn requests(&mut self, waiting: &VecDeque<Sequence>, out: &mut Vec<(u64, usize)>) {
        out.clear();
        self.accounts.iter_mut().for_each(|account| account.requests = 0);
        for sequence in waiting {
            if let Some(account) = sequence.account {
                self.accounts[account].requests += sequence.requests();
            }
        }
        let waits = self.accounts.iter().filter(|account| account.requests > 0);
        out.extend(waits.map(|account| (account.tenant.id, account.requests)));
    }

    /// Of all that wait or run.
    fn weights(&self) -> u64 {
        let active = self.accounts.iter().filter(|account| account.is_active());
        active.map(|account| weight(account.tenant)).sum::<u64>().max(1)
    }
}

impl Account {
    fn is_active(&self) -> bool {
        self.waiting + self.running > 0
    }
}

/// What a token is worth: the weights of the paper, near to what sellers of tokens ask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    Prompt = 1,
    Generated = 2,
}

fn service(tenant: Tenant, tokens: usize, cost: Cost) -> u64 {
    tokens as u64 * cost as u64 * SCALE / weight(tenant)
}

fn weight(tenant: Tenant) -> u64 {
    u64::from(tenant.weight.max(1))
}

/// Counters are whole numbers of so many parts of a token: 2^44 tokens fit at weight 1.
const SCALE: u64 = 1 << 18;
/// Idle tenants whose debts are remembered.
const IDLE: usize = 1024;
/// So many of higher bands are admitted before one of a lower band that waits.
const MOST_PASSED: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::{Pooling, Work};

    fn waiting(tenants: &[(u64, u32, u8)]) -> VecDeque<Sequence> {
        let sequence = |(id, weight, band): &(u64, u32, u8)| {
            let pooling = Pooling { sum: Vec::new(), pooled: 0, cpu: Default::default(), reply: None };
            let tenant = Tenant { id: *id, weight: *weight, band: *band };
            Sequence::new(1, vec![1], 0, Work::Embed(pooling)).with(tenant, None)
        };
        tenants.iter().map(sequence).collect()
    }

    /// Takes the next so often, each `tokens` of service; says whose they were.
    fn serve(fair: &mut Fair, queue: &mut VecDeque<Sequence>, turns: usize, tokens: usize) -> Vec<u64> {
        let mut served = Vec::new();
        for _ in 0..turns {
            fair.seat(queue, &[]);
            let Some(next) = fair.next(queue.iter().filter_map(|sequence| sequence.account)) else { break };
            let place = queue.iter().position(|sequence| sequence.account == Some(next)).unwrap();
            let sequence = queue.remove(place).unwrap();
            fair.admitted(sequence.account);
            fair.charge(sequence.account, tokens, Cost::Prompt);
            served.push(sequence.tenant.id);
        }
        served
    }

    #[test]
    fn who_idled_claims_nothing_of_the_past() {
        let mut fair = Fair::new(8);
        let mut queue = waiting(&[(1, 100, 0); 10]);
        assert_eq!(serve(&mut fair, &mut queue, 6, 50), [1; 6]);
        // The newcomer has had nothing, and gets half from now on, not six turns at once.
        queue.extend(waiting(&[(2, 100, 0); 10]));
        assert_eq!(serve(&mut fair, &mut queue, 6, 50), [1, 2, 1, 2, 1, 2]);
        // Nobody waits any more; who comes then begins where the last one stopped.
        queue.clear();
        fair.seat(&mut queue, &[]);
        queue.extend(waiting(&[(3, 100, 0), (3, 100, 0), (3, 100, 0), (1, 100, 0), (1, 100, 0)]));
        assert_eq!(serve(&mut fair, &mut queue, 5, 50), [3, 1, 3, 1, 3]);
    }

    #[test]
    fn debts_outlive_idling() {
        let mut fair = Fair::new(8);
        let mut queue = waiting(&[(1, 100, 0), (2, 100, 0)]);
        assert_eq!(serve(&mut fair, &mut queue, 1, 500), [1]);
        // It goes away and comes back: the other one's turn is still first, up to what is owed.
        fair.seat(&mut queue, &[]);
        queue.extend(waiting(&[(1, 100, 0), (2, 100, 0), (2, 100, 0), (2, 100, 0)]));
        assert_eq!(serve(&mut fair, &mut queue, 5, 250), [2, 2, 1, 2, 2]);
    }

    #[test]
    fn weights_divide_and_bands_come_first_but_not_for_ever() {
        let mut fair = Fair::new(8);
        let mut queue = waiting(&[(1, 100, 0); 40]);
        queue.extend(waiting(&[(2, 300, 0); 40]));
        let served = serve(&mut fair, &mut queue, 40, 30);
        assert_eq!(served.iter().filter(|id| **id == 2).count(), 30);

        let mut fair = Fair::new(8);
        let mut queue = waiting(&[(1, 100, 0); 4]);
        queue.extend(waiting(&[(2, 1, 3); 60]));
        let served = serve(&mut fair, &mut queue, 51, 30);
        let places: Vec<usize> = (0..served.len()).filter(|place| served[*place] == 1).collect();
        assert_eq!(places, [16, 33, 50]);
    }

    #[test]
    fn places_are_given_up_to_the_share_and_not_back() {
        let mut fair = Fair::new(8);
        let running = |ids: &[(u64, u32, u8)], fair: &mut Fair| {
            let mut queue = waiting(ids);
            fair.seat(&mut queue, &[]);
            Vec::from(queue)
        };
        // One has six of six places when another comes.
        let mut greedy = running(&[(1, 100, 0); 6], &mut fair);
        let mut queue = waiting(&[(2, 100, 0); 6]);
        fair.seat(&mut queue, &greedy);
        let claimant = queue[0].account.unwrap();
        let mut given = 0;
        while fair.may_claim_place(claimant, 6)
            && let Some(victim) = fair.over(claimant, 6, |account| fair.accounts[account].running)
        {
            greedy.pop();
            fair.displaced(victim);
            fair.admitted(Some(claimant));
            given += 1;
        }
        assert_eq!((given, greedy.len()), (3, 3));
        let victim = greedy[0].account.unwrap();
        assert!(!fair.may_claim_place(victim, 6));
        // A higher band gives way to none below it.
        let high = running(&[(3, 100, 9); 6], &mut fair);
        let mut queue = waiting(&[(4, 100, 0)]);
        fair.seat(&mut queue, &high);
        let claimant = queue[0].account.unwrap();
        assert!(fair.may_claim_place(claimant, 6));
        assert_eq!(fair.over(claimant, 6, |account| fair.accounts[account].running), None);
    }

    #[test]
    fn tenants_are_forgotten_when_there_are_too_many() {
        let mut fair = Fair::new(2);
        for id in 0..5000 {
            fair.seat(&mut waiting(&[(id, 100, 0)]), &[]);
        }
        assert_eq!(fair.accounts.len(), 2 + IDLE);
    }
}
