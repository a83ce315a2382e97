//! Draws one chart of each kind into a folder, to be looked at: `gallery FOLDER`.

use falaj_plot::{Axis, Bars, Chart, Row, Series, smooth};

fn main() -> std::io::Result<()> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".into()));
    let mut state = 7u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    let loss: Vec<(f64, f64)> =
        (1..3000).map(|step| (f64::from(step), 2.0 + 7.0 / f64::from(step).sqrt() + 0.4 * noise())).collect();
    let valid: Vec<(f64, f64)> =
        (1..=12).map(|at| (f64::from(at * 230), 2.1 + 7.0 / f64::from(at * 230).sqrt())).collect();
    let rate: Vec<(f64, f64)> =
        (0..3000).map(|step| (f64::from(step), 3e-4 * (1.0 - f64::from(step) / 3000.0))).collect();
    let lines = |title: &str, x: &str, y: &str, train: &str, held: &str| Chart {
        title: title.into(),
        x: Axis::linear(x),
        y: Axis::linear(y),
        series: vec![
            Series::faint(loss.clone()),
            Series::line(train, smooth(&loss, 40)),
            Series::dots(held, valid.clone()),
        ],
    };
    let row =
        |label: &str, ours, peer, limit| Row { label: label.into(), values: vec![Some(ours), Some(peer)], mark: limit };
    let files = [
        ("loss.svg", lines("Loss of tiny-finetune", "step", "nats per token", "training", "validation").svg()),
        ("loss-ar.svg", lines("خسارة التدريب tiny-finetune", "الخطوة", "الخسارة (nats)", "التدريب", "التحقق").svg()),
        (
            "rate.svg",
            Chart {
                title: "Learning rate".into(),
                x: Axis::linear("step"),
                y: Axis::linear(""),
                series: vec![Series::line("", rate)],
            }
            .svg(),
        ),
        (
            "scaling.svg",
            Chart {
                title: "Scaling".into(),
                x: Axis::log("parameters"),
                y: Axis::log("bits per byte"),
                series: vec![
                    Series::dots("Arabic", vec![(1e6, 2.4), (3e6, 2.1), (1e7, 1.9), (4e7, 1.7)]),
                    Series::dots("French", vec![(1e6, 2.38), (3e6, 2.0), (1e7, 1.75), (4e7, 1.68)]),
                ],
            }
            .svg(),
        ),
        (
            "bars.svg",
            Bars {
                title: "Decoding alone".into(),
                axis: "tokens/s".into(),
                sides: vec!["Falaj".into(), "llama.cpp".into()],
                mark: "the machine's limit".into(),
                rows: vec![
                    row("decode/q4_0", 47.2, 29.0, Some(55.0)),
                    row("decode/q4_k_m", 44.0, 21.9, Some(52.1)),
                    row("decode/q8_0", 27.0, 24.8, Some(30.0)),
                    row("decode/bf16", 15.1, 14.0, None),
                ],
                ..Bars::default()
            }
            .svg(),
        ),
    ];
    for (name, svg) in files {
        std::fs::write(folder.join(name), svg)?;
    }
    Ok(())
}
