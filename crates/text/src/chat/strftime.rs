//! Dates in chat templates (`strftime_now`), in UTC: only what templates print, no locale.

/// Formats seconds since 1970. Unknown directives stay as they are.
pub(crate) fn strftime(format: &str, now_s: i64) -> String {
    let days = now_s.div_euclid(86_400);
    let second = now_s.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let weekday = usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0);
    let name = |list: &[&'static str], at: usize| list.get(at).copied().unwrap_or("");
    let month_at = usize::try_from(month - 1).unwrap_or(0);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let two = |value: i64| if bare { value.to_string() } else { format!("{value:02}") };
        let hour12 = (second / 3600 + 11) % 12 + 1;
        match directive {
            Some('Y') => out.push_str(&format!("{year:04}")),
            Some('y') => out.push_str(&two(year.rem_euclid(100))),
            Some('m') => out.push_str(&two(month)),
            Some('d') => out.push_str(&two(day)),
            Some('H') => out.push_str(&two(second / 3600)),
            Some('I') => out.push_str(&two(hour12)),
            Some('M') => out.push_str(&two(second / 60 % 60)),
            Some('S') => out.push_str(&two(second % 60)),
            Some('p') => out.push_str(if second < 43_200 { "AM" } else { "PM" }),
            Some('B') => out.push_str(name(&MONTHS, month_at)),
            Some('b') => out.push_str(name(&MONTHS, month_at).get(..3).unwrap_or("")),
            Some('A') => out.push_str(name(&WEEKDAYS, weekday)),
            Some('a') => out.push_str(name(&WEEKDAYS, weekday).get(..3).unwrap_or("")),
            Some('F') => out.push_str(&format!("{year:04}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)),
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}

/// Days since 1970 to (year, month, day). Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days.clamp(-1_000_000_000, 1_000_000_000) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(strftime("%A %d %B %Y %H:%M:%S", 951_782_400), "Tuesday 29 February 2000 00:00:00");
        assert_eq!(strftime("%Y-%m-%d %-I %p %b %%", 1_732_291_200), "2024-11-22 4 PM Nov %");
    }
}
