//! `cargo xtask seed-curves`: draws the losses of several trainings over what they read, so that a size can be chosen by looking.

use std::fs;

use anyhow::{Context, Result};
use falaj_plot::{Axis, Chart, Series, smooth};
use serde_json::Value;

/// `OUT.svg NAME=EVENTS=TOKENS …`: the events that a job leaves in its folder, and the tokens that a step reads.
pub fn run(args: &[String]) -> Result<()> {
    let (out, runs) = args.split_first().context("the picture's path is missing")?;
    let mut series = Vec::new();
    for run in runs {
        let mut parts = run.split('=');
        let (name, path) = (parts.next().unwrap_or_default(), parts.next().context("NAME=EVENTS=TOKENS")?);
        let tokens: f64 = parts.next().context("how many tokens does a step read?")?.parse()?;
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        let (steps, held) = points(&text, tokens / 1e6);
        series.push(Series::faint(steps.clone()));
        series.push(Series::line(name, smooth(&steps, 15)));
        if held.len() > 1 {
            series.push(Series::dots(format!("{name}, held out"), held));
        }
    }
    let chart = Chart {
        title: "falaj-seed: loss by size".to_owned(),
        x: Axis::linear("tokens read, millions"),
        y: Axis::linear("nats per learnt token"),
        series,
    };
    fs::write(out, chart.svg()).with_context(|| out.clone())
}

type Points = Vec<(f64, f64)>;

/// Losses of steps, and of evaluations, over millions of tokens.
fn points(events: &str, millions: f64) -> (Points, Points) {
    let (mut steps, mut held) = (Vec::new(), Vec::new());
    for event in events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (Some(step), Some(loss)) = (event["step"].as_f64(), event["loss"].as_f64()) else { continue };
        match event["event"].as_str() {
            Some("step") => steps.push((step * millions, loss)),
            Some("evaluation") => held.push((step * millions, loss)),
            _ => {}
        }
    }
    (steps, held)
}

#[cfg(test)]
mod tests {
    #[test]
    fn events_become_points_and_half_a_line_is_passed_over() {
        let events = "{\"event\":\"step\",\"step\":2,\"loss\":5.0}\n{\"event\":\"evaluation\",\"step\":2,\"loss\":4.0}\n{\"event\":\"st";
        assert_eq!(super::points(events, 0.5), (vec![(1.0, 5.0)], vec![(1.0, 4.0)]));
    }
}
