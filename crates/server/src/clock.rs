//! A site's time. It never goes back: when the system's clock is set back it goes on from where it was, as fast as time passes, so that what
//! has expired stays expired, windows of budgets still turn, and the ledger's times keep their order. It follows a clock that is
//! set forward.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, of this site.
pub(crate) fn now_ms() -> u64 {
    SITE.now_ms()
}

/// Seconds since 1970, of this site.
pub(crate) fn now_s() -> u64 {
    SITE.now_ms() / 1000
}

/// As the system's clock has it: for what others have written by theirs.
pub(crate) fn system_s() -> u64 {
    system_ms() / 1000
}

/// By how much the system's clock stands behind this site's time.
pub(crate) fn behind_ms() -> u64 {
    SITE.behind_ms()
}

/// This much has been: the site's time goes on from there.
pub(crate) fn not_before(ms: u64) {
    SITE.not_before(ms);
}

type Reading = fn() -> u64;

static SITE: LazyLock<Clock<Reading, Reading>> = LazyLock::new(|| Clock::new(system_ms, steady_ms));

fn system_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Nobody sets this one.
fn steady_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Both in milliseconds: a clock that may be set, and one that only runs.
struct Clock<W, S> {
    wall: W,
    steady: S,
    /// What the site's time has been ahead of the steady one at most.
    ahead_ms: AtomicI64,
}

impl<W: Fn() -> u64, S: Fn() -> u64> Clock<W, S> {
    fn new(wall: W, steady: S) -> Self {
        Self { wall, steady, ahead_ms: AtomicI64::new(i64::MIN) }
    }

    fn now_ms(&self) -> u64 {
        let steady = signed((self.steady)());
        let ahead = signed((self.wall)()).saturating_sub(steady);
        // Nearly always the one that is there: a write would cost other cores their cache line.
        let most = self.ahead_ms.load(Ordering::Relaxed);
        let ahead = if ahead > most { self.ahead_ms.fetch_max(ahead, Ordering::Relaxed).max(ahead) } else { most };
        u64::try_from(steady.saturating_add(ahead)).unwrap_or_default()
    }

    fn behind_ms(&self) -> u64 {
        let wall = (self.wall)();
        self.now_ms().saturating_sub(wall)
    }

    fn not_before(&self, ms: u64) {
        self.ahead_ms.fetch_max(signed(ms).saturating_sub(signed((self.steady)())), Ordering::Relaxed);
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use falaj_store::{Amounts, Budgets, Limit, Per, Scope, What};

    use super::*;

    #[test]
    fn time_goes_on_when_the_clock_is_set_back() {
        let (wall, steady) = (Cell::new(100_000), Cell::new(5));
        let clock = Clock::new(|| wall.get(), || steady.get());
        assert_eq!((clock.now_ms(), clock.behind_ms()), (100_000, 0));
        wall.set(50_000);
        assert_eq!((clock.now_ms(), clock.behind_ms()), (100_000, 50_000));
        wall.set(60_000);
        steady.set(10_005);
        assert_eq!((clock.now_ms(), clock.behind_ms()), (110_000, 50_000));
        wall.set(200_000);
        assert_eq!((clock.now_ms(), clock.behind_ms()), (200_000, 0), "and follows one that is set forward");
        clock.not_before(300_000);
        steady.set(10_006);
        assert_eq!((clock.now_ms(), clock.behind_ms()), (300_001, 100_001));
        clock.not_before(7);
        assert_eq!(clock.now_ms(), 300_001);
    }

    #[test]
    fn budgets_are_neither_given_twice_nor_stuck() {
        const DAY_MS: u64 = 86_400_000;
        let (wall, steady) = (Cell::new(20 * DAY_MS + 1000), Cell::new(0));
        let clock = Clock::new(|| wall.get(), || steady.get());
        let limit = |per, amount| Limit {
            id: "limit".into(),
            scope: Scope::Workspace,
            scope_id: "w".into(),
            what: What::Requests,
            per,
            amount,
        };
        let budgets = Budgets::new(vec![limit(Per::Minute, 1), limit(Per::Day, 2)], &[], clock.now_ms());
        let ask = || budgets.reserve(["o", "w", "k"], Amounts { requests: 1, ..Amounts::default() }, clock.now_ms());
        let spend = || {
            ask().is_ok_and(|reservation| {
                reservation.settle(Amounts { requests: 1, ..Amounts::default() });
                true
            })
        };
        assert!(spend() && !spend(), "one a minute");
        // Back by two days: neither a new minute nor a new day.
        wall.set(wall.get() - 2 * DAY_MS);
        assert!(!spend());
        steady.set(60_000);
        assert!(spend(), "a minute has passed");
        steady.set(120_000);
        assert!(!spend(), "two a day");
        steady.set(DAY_MS);
        assert!(spend(), "a day has passed");
    }
}
