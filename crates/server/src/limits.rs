//! Limits as clients read them: what is left, as each vendor's headers say it. Counting is done in `store`; who is limited how, in
//! `governance`; a refusal is `error.rs`'s.

use std::cmp::Reverse;

use axum::http::header::{HeaderMap, HeaderValue};
use falaj_protocol::Dialect;
use falaj_store::{Per, Remaining, What};

use crate::moment::rfc3339;

/// How a vendor names what is left, and says when it is whole again.
struct Names {
    what: What,
    limit: &'static str,
    remaining: &'static str,
    reset: Reset,
}

enum Reset {
    /// As `1m30s`, from now on.
    After(&'static str),
    /// As RFC 3339 writes moments.
    At(&'static str),
    /// Not said: the window is a minute, and the names say so.
    Minute,
}

/// <https://platform.openai.com/docs/guides/rate-limits>
const OPENAI: &[Names] = &[
    Names {
        what: What::Requests,
        limit: "x-ratelimit-limit-requests",
        remaining: "x-ratelimit-remaining-requests",
        reset: Reset::After("x-ratelimit-reset-requests"),
    },
    Names {
        what: What::Tokens,
        limit: "x-ratelimit-limit-tokens",
        remaining: "x-ratelimit-remaining-tokens",
        reset: Reset::After("x-ratelimit-reset-tokens"),
    },
];

/// Seen in answers of Mistral's API: <https://github.com/mistralai/client-ts/issues/169>
const MISTRAL: &[Names] = &[
    Names {
        what: What::Requests,
        limit: "x-ratelimit-limit-req-minute",
        remaining: "x-ratelimit-remaining-req-minute",
        reset: Reset::Minute,
    },
    Names {
        what: What::Tokens,
        limit: "x-ratelimit-limit-tokens-minute",
        remaining: "x-ratelimit-remaining-tokens-minute",
        reset: Reset::Minute,
    },
];

/// <https://docs.anthropic.com/en/api/rate-limits#response-headers>
const ANTHROPIC: &[Names] = &[
    Names {
        what: What::Requests,
        limit: "anthropic-ratelimit-requests-limit",
        remaining: "anthropic-ratelimit-requests-remaining",
        reset: Reset::At("anthropic-ratelimit-requests-reset"),
    },
    Names {
        what: What::Tokens,
        limit: "anthropic-ratelimit-tokens-limit",
        remaining: "anthropic-ratelimit-tokens-remaining",
        reset: Reset::At("anthropic-ratelimit-tokens-reset"),
    },
];

/// Adds what is left of the tightest limit on requests and on tokens. Where nothing is limited, nothing is said.
pub(crate) fn tell(headers: &mut HeaderMap, dialect: Dialect, remaining: &[Remaining], now_s: u64) {
    let vendors: &[&[Names]] = match dialect {
        Dialect::Mistral => &[OPENAI, MISTRAL],
        Dialect::OpenAi => &[OPENAI],
        Dialect::Anthropic => &[ANTHROPIC],
    };
    for names in vendors.iter().copied().flatten() {
        let fits = |it: &&Remaining| {
            it.limit.what == names.what && (it.limit.per == Per::Minute || !matches!(names.reset, Reset::Minute))
        };
        // Of those that leave as little, the one that does so longest.
        let Some(tightest) = remaining.iter().filter(fits).min_by_key(|it| (it.remaining, Reverse(it.resets_s))) else {
            continue;
        };
        headers.insert(names.limit, HeaderValue::from(tightest.limit.amount));
        headers.insert(names.remaining, HeaderValue::from(tightest.remaining));
        let reset = match names.reset {
            Reset::After(name) => Some((name, duration(tightest.resets_s))),
            Reset::At(name) => Some((name, rfc3339(now_s.saturating_add(tightest.resets_s)))),
            Reset::Minute => None,
        };
        if let Some((name, text)) = reset
            && let Ok(value) = HeaderValue::try_from(text)
        {
            headers.insert(name, value);
        }
    }
}

/// As OpenAI writes it: `59s`, `6m0s`, `26h0m1s`.
fn duration(seconds: u64) -> String {
    let (hours, minutes, left) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{left}s"),
        (0, _) => format!("{minutes}m{left}s"),
        _ => format!("{hours}h{minutes}m{left}s"),
    }
}

#[cfg(test)]
mod tests {
    use falaj_store::{Limit, Scope};

    use super::*;

    fn left(what: What, per: Per, amount: u64, remaining: u64, resets_s: u64) -> Remaining {
        let limit = Limit { id: "l".into(), scope: Scope::Key, scope_id: "k".into(), what, per, amount };
        Remaining { limit, remaining, resets_s }
    }

    fn told(dialect: Dialect, remaining: &[Remaining]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        tell(&mut headers, dialect, remaining, 1_763_834_339);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn each_dialect_says_the_tightest_in_its_own_words() {
        let remaining = [
            left(What::Requests, Per::Day, 100, 7, 3661),
            left(What::Requests, Per::Minute, 10, 9, 60),
            left(What::Tokens, Per::Minute, 5000, 0, 60),
            left(What::Tokens, Per::Month, 90_000, 0, 86_400),
            left(What::Money, Per::Month, 1, 0, 1),
        ];
        let openai = [
            "x-ratelimit-limit-requests: 100",
            "x-ratelimit-limit-tokens: 90000",
            "x-ratelimit-remaining-requests: 7",
            "x-ratelimit-remaining-tokens: 0",
            "x-ratelimit-reset-requests: 1h1m1s",
            "x-ratelimit-reset-tokens: 24h0m0s",
        ];
        assert_eq!(told(Dialect::OpenAi, &remaining), openai);
        let mut mistral: Vec<_> = openai.to_vec();
        mistral.extend([
            "x-ratelimit-limit-req-minute: 10",
            "x-ratelimit-limit-tokens-minute: 5000",
            "x-ratelimit-remaining-req-minute: 9",
            "x-ratelimit-remaining-tokens-minute: 0",
        ]);
        mistral.sort_unstable();
        assert_eq!(told(Dialect::Mistral, &remaining), mistral);
        let anthropic = [
            "anthropic-ratelimit-requests-limit: 10",
            "anthropic-ratelimit-requests-remaining: 9",
            "anthropic-ratelimit-requests-reset: 2025-11-22T17:59:59Z",
        ];
        assert_eq!(told(Dialect::Anthropic, &remaining[1..2]), anthropic);
        assert_eq!(told(Dialect::Mistral, &remaining[4..]), Vec::<String>::new());
    }

    #[test]
    fn durations_are_written_as_clients_read_them() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (360, "6m0s"), (3600, "1h0m0s"), (93_601, "26h0m1s")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
