//! Counters and histograms, written in Prometheus' text format. Small enough that no library is needed: a handful of
//! families, fixed buckets, one lock for the request table that is taken once per request.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route.
    requests: Mutex<BTreeMap<String, Outcomes>>,
    pub time_to_first_token: Histogram,
    pub time_per_token: Histogram,
    pub request_time: Histogram,
    pub prompt_tokens: Counter,
    pub cached_tokens: Counter,
    pub generated_tokens: Counter,
    pub cancelled: Counter,
    pub stream_errors: Counter,
}

/// How many requests ended so, by method and status.
type Outcomes = BTreeMap<(&'static str, u16), u64>;

impl Metrics {
    pub(crate) fn request(&self, route: &str, method: &Method, status: StatusCode) {
        // A method is a client's word: only known ones may become a label.
        let known = ["GET", "POST", "HEAD", "DELETE"].into_iter().find(|known| *known == method.as_str());
        let outcome = (known.unwrap_or("other"), status.as_u16());
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // No text is made for a route that is there already.
        match requests.get_mut(route) {
            Some(outcomes) => *outcomes.entry(outcome).or_default() += 1,
            None => drop(requests.insert(route.to_owned(), [(outcome, 1)].into())),
        }
    }

    /// Everything counted here; the engines' own numbers are written by `health.rs`.
    pub(crate) fn write(&self, out: &mut Exposition) {
        out.family("falaj_http_requests_total", "counter", "Requests answered, by route and status.");
        for (route, outcomes) in &*self.requests.lock().unwrap_or_else(PoisonError::into_inner) {
            for ((method, status), count) in outcomes {
                let status = status.to_string();
                let labels = [("route", route.as_str()), ("method", method), ("status", status.as_str())];
                out.sample("falaj_http_requests_total", &labels, *count as f64);
            }
        }
        out.histogram(
            "falaj_time_to_first_token_seconds",
            "From a request's start to its first token.",
            &self.time_to_first_token,
        );
        out.histogram("falaj_time_per_token_seconds", "Between two tokens of one answer.", &self.time_per_token);
        out.histogram(
            "falaj_generation_seconds",
            "From a request's start to the end of its answer.",
            &self.request_time,
        );
        out.counter("falaj_prompt_tokens_total", "Prompt tokens of accepted requests.", &self.prompt_tokens);
        out.counter(
            "falaj_cached_prompt_tokens_total",
            "Prompt tokens that the prefix cache held.",
            &self.cached_tokens,
        );
        out.counter("falaj_generated_tokens_total", "Tokens generated.", &self.generated_tokens);
        out.counter("falaj_cancelled_total", "Answers given up because the client left.", &self.cancelled);
        out.counter(
            "falaj_stream_errors_total",
            "Answers that ended with an error after they had begun.",
            &self.stream_errors,
        );
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets, in seconds: a token on a laptop is milliseconds, a long answer minutes.
const BOUNDS_S: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS_S.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, time: Duration) {
        let bucket = BOUNDS_S.iter().zip(&self.buckets).find(|(bound, _)| time.as_secs_f64() <= **bound);
        if let Some((_, bucket)) = bucket {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Prometheus' text, version 0.0.4.
#[derive(Debug, Default)]
pub(crate) struct Exposition(pub String);

impl Exposition {
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.family(name, "counter", help);
        self.sample(name, &[], counter.get() as f64);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in BOUNDS_S.iter().zip(&histogram.buckets) {
            below += count.load(Ordering::Relaxed);
            self.sample(&bucket, &[("le", &bound.to_string())], below as f64);
        }
        let count = histogram.count.load(Ordering::Relaxed);
        self.sample(&bucket, &[("le", "+Inf")], count as f64);
        self.sample(&format!("{name}_sum"), &[], histogram.sum_us.load(Ordering::Relaxed) as f64 / 1e6);
        self.sample(&format!("{name}_count"), &[], count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_prometheus() {
        let metrics = Metrics::default();
        metrics.request("/v1/chat/completions", &Method::POST, StatusCode::OK);
        metrics.time_per_token.observe(Duration::from_millis(3));
        let mut out = Exposition::default();
        metrics.write(&mut out);
        for line in [
            r#"falaj_http_requests_total{route="/v1/chat/completions",method="POST",status="200"} 1"#,
            r#"falaj_time_per_token_seconds_bucket{le="0.0025"} 0"#,
            r#"falaj_time_per_token_seconds_bucket{le="0.005"} 1"#,
            r#"falaj_time_per_token_seconds_bucket{le="+Inf"} 1"#,
            "falaj_time_per_token_seconds_sum 0.003",
        ] {
            assert!(out.0.lines().any(|written| written == line), "{line} is not in\n{}", out.0);
        }
    }
}
