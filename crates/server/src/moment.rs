//! Dates as clients write and read them, and seconds since 1970 as everything here keeps them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Of `2026-11-23T01:02:03Z`, with a fraction or an offset or neither: then it is UTC.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let moment = text.parse::<Timestamp>().ok().or_else(|| {
        let civil: DateTime = text.parse().ok()?;
        Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
    });
    u64::try_from(moment?.as_second()).ok()
}

/// As RFC 3339 writes it, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2000-02-29T00:00:00+00:00"), Some(951_782_400));
        assert_eq!(parse("2025-11-22T19:59:59.123+02:00"), Some(1_763_834_399));
        assert_eq!(parse("2025-11-22T17:59:59"), Some(1_763_834_399));
        for none in ["2025-13-01T00:00:00Z", "yesterday", "١٩٧٠-٠١-٠١T00:00:00Z", "1969-12-31T00:00:00Z"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn moments_are_written() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_763_834_399), "2025-11-22T17:59:59Z");
    }
}
