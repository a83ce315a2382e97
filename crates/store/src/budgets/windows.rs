//! The minute, the day and the month of a moment, in UTC (proleptic Gregorian calendar, no leap seconds, as Unix time has it).

use super::Per;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;

/// From the first millisecond to the one behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minutes or days since 1970, or months since the year 0: no two windows of a kind share it.
    pub number: u64,
    pub from_ms: u64,
    pub until_ms: u64,
}

impl Window {
    /// Seconds until it ends, at least 1.
    pub fn left_s(&self, now_ms: u64) -> u64 {
        self.until_ms.saturating_sub(now_ms).div_ceil(1000).max(1)
    }
}

/// The windows that hold one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    pub now_ms: u64,
    minute: Window,
    day: Window,
    month: Window,
}

impl Windows {
    pub fn at(now_ms: u64) -> Self {
        let fixed = |length_ms: u64| {
            let number = now_ms / length_ms;
            Window { number, from_ms: number * length_ms, until_ms: number.saturating_add(1).saturating_mul(length_ms) }
        };
        let month = month(now_ms / DAY_MS);
        let start_ms = |month: u64| first_day(month).saturating_mul(DAY_MS);
        Self {
            now_ms,
            minute: fixed(MINUTE_MS),
            day: fixed(DAY_MS),
            month: Window { number: month, from_ms: start_ms(month), until_ms: start_ms(month + 1) },
        }
    }

    pub fn of(&self, per: Per) -> Window {
        match per {
            Per::Minute => self.minute,
            Per::Day => self.day,
            Per::Month => self.month,
        }
    }
}

// Years that begin in March have their odd day last. 400 of them have 146,097 days; 1 March of the year 0 is 719,468 days
// before 1970.
const DAYS_BEFORE_1970: u64 = 719_468;
const DAYS_OF_400_YEARS: u64 = 146_097;

/// Months since January of the year 0.
fn month(days: u64) -> u64 {
    let days = days + DAYS_BEFORE_1970;
    let (centuries, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let since_march = (5 * day_of_year + 2) / 153;
    (centuries * 400 + year) * 12 + since_march + 2
}

/// Days from 1970 to the first of a month, for months from 1970 on.
fn first_day(month: u64) -> u64 {
    let since_march = month - 2;
    let (year, since_march) = (since_march / 12, since_march % 12);
    let (centuries, year) = (year / 400, year % 400);
    let days = centuries * DAYS_OF_400_YEARS + 365 * year + year / 4 - year / 100 + (153 * since_march + 2) / 5;
    days - DAYS_BEFORE_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_and_end_where_the_calendar_says() {
        // By `date -u -d '2026-11-01' +%s` and its kin.
        for (now_s, from_s, until_s) in [
            (0, 0, 2_678_400),
            (951_782_400, 949_363_200, 951_868_800),       // 29 February 2000
            (1_795_435_200, 1_793_491_200, 1_796_083_200), // 23 November 2026
            (1_798_761_599, 1_796_083_200, 1_798_761_600), // the last second of 2026
            (1_798_761_600, 1_798_761_600, 1_801_440_000), // the first of 2027
            (4_107_542_399, 4_105_123_200, 4_107_542_400), // 28 February 2100, no leap year
        ] {
            let month = Windows::at(now_s * 1000).of(Per::Month);
            assert_eq!((month.from_ms / 1000, month.until_ms / 1000), (from_s, until_s), "{now_s}");
        }
    }

    #[test]
    fn every_day_for_five_hundred_years_lies_in_its_month() {
        let mut last = Windows::at(0).of(Per::Month);
        for day in 0..182_622 {
            let windows = Windows::at(day * DAY_MS + 12_345);
            let month = windows.of(Per::Month);
            assert!((month.from_ms..month.until_ms).contains(&windows.now_ms), "day {day}");
            assert!(month == last || month.from_ms == last.until_ms && month.number == last.number + 1, "day {day}");
            assert!((28..=31).contains(&((month.until_ms - month.from_ms) / DAY_MS)));
            last = month;
        }
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let windows = Windows::at(u64::MAX);
        assert!(windows.of(Per::Month).until_ms >= windows.of(Per::Month).from_ms);
    }
}
