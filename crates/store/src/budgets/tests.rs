//! Budgets against a plain model, and under threads.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;

/// A minute before the end of October 2026.
const BEFORE_NOVEMBER_MS: u64 = 1_793_491_200_000 - 60_000;

const SCOPES: [[&str; 3]; 3] = [["o", "w1", "k1"], ["o", "w1", "k2"], ["o", "w2", "k3"]];

fn limit(scope: Scope, scope_id: &str, what: What, per: Per, amount: u64) -> Limit {
    let id = format!("{} {scope_id} {} {}", scope.name(), what.name(), per.name());
    Limit { id: id.into(), scope, scope_id: scope_id.into(), what, per, amount }
}

fn tokens(tokens: u64) -> Amounts {
    Amounts { requests: 1, tokens, ..Amounts::default() }
}

#[test]
fn a_denial_says_which_limit_what_remains_and_when() {
    let limits = vec![
        limit(Scope::Key, "k1", What::Requests, Per::Minute, 2),
        limit(Scope::Workspace, "w1", What::Tokens, Per::Day, 100),
        limit(Scope::Organisation, "o", What::Tokens, Per::Month, 1000),
    ];
    let now = BEFORE_NOVEMBER_MS - 1_500;
    let used = Used { scope: Scope::Organisation, scope_id: "o".into(), per: Per::Month, amounts: tokens(900) };
    let budgets = Budgets::new(limits.clone(), &[used], now);
    let refused = |scopes, amounts, now| *budgets.reserve(scopes, amounts, now).expect_err("no room");
    let first = budgets.reserve(SCOPES[0], tokens(60), now).unwrap();
    let of = |limit: &Limit, remaining, retry_after_s| Exceeded { limit: limit.clone(), remaining, retry_after_s };
    // The month's end, and with it the day's, is 61.5 seconds away: of both that hold equally long, the upper.
    assert_eq!(refused(SCOPES[1], tokens(41), now), of(&limits[2], 40, Some(62)));
    assert_eq!(refused(SCOPES[2], tokens(1001), now), of(&limits[2], 40, None));
    let second = budgets.reserve(SCOPES[0], tokens(0), now).unwrap();
    assert_eq!(refused(SCOPES[0], tokens(0), now), of(&limits[0], 0, Some(2)));
    // Denied as a whole: the key's other limits are as they were.
    let left = |budgets: &Budgets, now| -> Vec<_> {
        budgets.remaining(SCOPES[0], now).iter().map(|it| (it.remaining, it.resets_s)).collect()
    };
    assert_eq!(left(&budgets, now), [(40, 62), (40, 62), (0, 2)]);
    drop(second);
    // More than was reserved: nothing remains until the windows end.
    first.settle(tokens(150));
    assert_eq!(left(&budgets, now), [(0, 62), (0, 62), (1, 2)]);
    assert_eq!(refused(SCOPES[0], tokens(0), now).limit, limits[2]);
    assert_eq!(left(&budgets, BEFORE_NOVEMBER_MS + 60_000), [(1000, 30 * 86_400), (100, 86_400), (2, 60)]);
}

#[test]
fn who_has_no_limit_is_counted_for_the_limit_that_comes() {
    let budgets = Budgets::new(Vec::new(), &[], 0);
    budgets.reserve(SCOPES[0], tokens(70), 0).unwrap().settle(tokens(60));
    let open = budgets.reserve(SCOPES[1], tokens(5), 0).unwrap();
    budgets.replace(vec![limit(Scope::Workspace, "w1", What::Tokens, Per::Month, 100)], 0);
    assert_eq!(budgets.remaining(SCOPES[0], 0)[0].remaining, 35);
    open.settle(tokens(25));
    assert_eq!(budgets.remaining(SCOPES[0], 0)[0].remaining, 15);
    assert!(budgets.remaining(SCOPES[2], 0).is_empty());
}

#[test]
fn whoever_spent_nothing_this_month_is_forgotten_with_their_limit() {
    let budgets = Budgets::new(vec![limit(Scope::Key, "k1", What::Tokens, Per::Day, 1)], &[], 0);
    drop(budgets.reserve(SCOPES[0], tokens(1), 0));
    let accounts = || -> usize { budgets.accounts.read().unwrap().iter().map(HashMap::len).sum() };
    budgets.replace(Vec::new(), 0);
    assert_eq!(accounts(), 3);
    budgets.replace(Vec::new(), 40 * 86_400_000);
    assert_eq!(accounts(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { who: usize, amounts: Amounts, second: u64 },
    Settle { which: usize, amounts: Amounts },
    Drop { which: usize },
    Replace { amounts: Vec<u64> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let amounts = || {
        (0..3u64, 0..40u64, 0..40u64, 0..40u64).prop_map(|(requests, tokens, money, joules)| Amounts {
            requests,
            tokens,
            money,
            joules,
        })
    };
    let step = prop_oneof![
        // Four minutes around the end of a month, forwards and backwards.
        4 => (0..3usize, amounts(), 0..240u64).prop_map(|(who, amounts, second)| Step::Reserve { who, amounts, second }),
        2 => (any::<prop::sample::Index>(), amounts()).prop_map(|(at, amounts)| Step::Settle { which: at.index(64), amounts }),
        1 => any::<prop::sample::Index>().prop_map(|at| Step::Drop { which: at.index(64) }),
        1 => prop::collection::vec(0..200u64, 12).prop_map(|amounts| Step::Replace { amounts }),
    ];
    prop::collection::vec(step, 1..120)
}

/// Twelve limits, of every kind and at every level.
fn limits(amounts: &[u64]) -> Vec<Limit> {
    let kinds = Scope::ALL
        .iter()
        .zip([["o"; 2], ["w1", "w2"], ["k1", "k3"]])
        .flat_map(|(&scope, ids)| ids.into_iter().flat_map(move |id| [(scope, id, 0), (scope, id, 1)]));
    let limits = kinds.enumerate().map(|(at, (scope, id, second))| {
        let (what, per) = (What::ALL[(at + second) % 4], Per::ALL[at % 3]);
        limit(scope, id, what, per, amounts[at])
    });
    limits.collect()
}

/// Every window there ever was, added up.
#[derive(Default)]
struct Model(HashMap<(Scope, &'static str, Per, u64), Amounts>);

impl Model {
    fn change(&mut self, who: usize, now_ms: u64, change: impl Fn(u64, u64) -> u64, by: Amounts) {
        for (&scope, id) in Scope::ALL.iter().zip(SCOPES[who]) {
            for &per in Per::ALL {
                let count = self.0.entry((scope, id, per, Windows::at(now_ms).of(per).number)).or_default();
                *count = count.each(by, &change);
            }
        }
    }

    fn used(&self, limit: &Limit, now_ms: u64) -> u64 {
        let is = |(scope, id, per, number): &(Scope, &str, Per, u64)| {
            (*scope, *id, *per) == (limit.scope, &*limit.scope_id, limit.per)
                && *number == Windows::at(now_ms).of(limit.per).number
        };
        self.0.iter().filter(|(of, _)| is(of)).map(|(_, used)| used.of(limit.what)).sum()
    }
}

proptest! {
    #[test]
    fn counts_are_those_of_a_plain_model(steps in steps()) {
        let mut bounds = limits(&[100; 12]);
        let budgets = Budgets::new(bounds.clone(), &[], BEFORE_NOVEMBER_MS);
        let mut model = Model::default();
        let mut open = Vec::new();
        for step in steps {
            match step {
                Step::Reserve { who, amounts, second } => {
                    let now = BEFORE_NOVEMBER_MS - 60_000 + second * 1000;
                    let holds = |limit: &&Limit| SCOPES[who].contains(&&*limit.scope_id);
                    let full = |limit: &&Limit| model.used(limit, now) + amounts.of(limit.what) > limit.amount;
                    let refusing: Vec<_> = bounds.iter().filter(holds).filter(full).collect();
                    match budgets.reserve(SCOPES[who], amounts, now) {
                        Ok(reservation) => {
                            prop_assert!(refusing.is_empty(), "{refusing:?} did not refuse");
                            model.change(who, now, u64::wrapping_add, amounts);
                            open.push((who, now, reservation));
                        }
                        Err(exceeded) => prop_assert!(refusing.contains(&&exceeded.limit), "{exceeded:?}"),
                    }
                    for left in budgets.remaining(SCOPES[who], now) {
                        let used = model.used(&left.limit, now);
                        prop_assert_eq!(left.remaining, left.limit.amount.saturating_sub(used), "{:?}", left);
                    }
                }
                Step::Settle { which, amounts } if which < open.len() => {
                    let (who, now, reservation) = open.swap_remove(which);
                    model.change(who, now, u64::wrapping_sub, reservation.reserved());
                    model.change(who, now, u64::wrapping_add, amounts);
                    reservation.settle(amounts);
                }
                Step::Drop { which } if which < open.len() => {
                    let (who, now, reservation) = open.swap_remove(which);
                    model.change(who, now, u64::wrapping_sub, reservation.reserved());
                }
                Step::Replace { amounts } => {
                    bounds = limits(&amounts);
                    budgets.replace(bounds.clone(), BEFORE_NOVEMBER_MS);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn threads_never_pass_a_limit_and_their_sums_are_exact() {
    const LIMITS: [(Scope, &str, u64); 5] = [
        (Scope::Organisation, "o", 5_000),
        (Scope::Workspace, "w1", 3_000),
        (Scope::Workspace, "w2", 3_000),
        (Scope::Key, "k1", 2_000),
        (Scope::Key, "k2", 2_000),
    ];
    let limits = || LIMITS.map(|(scope, id, amount)| limit(scope, id, What::Tokens, Per::Day, amount)).to_vec();
    let budgets = Budgets::new(limits(), &[], 0);
    // What is taken for certain: added after a reservation, subtracted before it goes back.
    let taken = LIMITS.map(|_| AtomicU64::new(0));
    let granted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (budgets, taken, granted) = (&budgets, &taken, &granted);
            scope.spawn(move || {
                let mut random = thread + 1;
                let mut next = |below: u64| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 33) % below
                };
                let mut open: Vec<(usize, Reservation)> = Vec::new();
                let touched = |who: usize, change: &dyn Fn(&AtomicU64, u64) -> u64| {
                    for ((_, id, amount), taken) in LIMITS.iter().zip(taken) {
                        if SCOPES[who].contains(id) {
                            change(taken, *amount);
                        }
                    }
                };
                for _ in 0..20_000 {
                    if next(3) > 0 && open.len() < 30 {
                        let (who, amount) = (next(3) as usize, next(60));
                        // Minutes go by and come back; the day stays.
                        let Ok(reserved) = budgets.reserve(SCOPES[who], tokens(amount), next(3) * 60_000) else {
                            continue;
                        };
                        granted.fetch_add(1, Ordering::Relaxed);
                        touched(who, &|taken, limit| {
                            let taken = taken.fetch_add(amount, Ordering::SeqCst) + amount;
                            assert!(taken <= limit, "{taken} of {limit}");
                            taken
                        });
                        open.push((who, reserved));
                    } else if !open.is_empty() {
                        let at = next(open.len() as u64) as usize;
                        let (who, reserved) = open.swap_remove(at);
                        let back = if next(50) == 0 {
                            next(reserved.reserved().tokens + 1)
                        } else {
                            reserved.reserved().tokens
                        };
                        touched(who, &|taken, _| taken.fetch_sub(back, Ordering::SeqCst));
                        let used = reserved.reserved().tokens - back;
                        reserved.settle(tokens(used));
                    } else if thread == 0 {
                        budgets.replace(limits(), 0);
                    }
                }
                for (who, reserved) in open {
                    touched(who, &|taken, _| taken.fetch_sub(reserved.reserved().tokens, Ordering::SeqCst));
                }
            });
        }
    });
    assert!(granted.load(Ordering::Relaxed) > 1_000);
    for who in SCOPES {
        for left in budgets.remaining(who, 0) {
            let at =
                LIMITS.iter().position(|(scope, id, _)| (*scope, *id) == (left.limit.scope, &*left.limit.scope_id));
            let taken = taken[at.unwrap()].load(Ordering::SeqCst);
            assert_eq!(left.remaining, left.limit.amount - taken, "{:?}", left.limit);
        }
    }
}
