//! What formats cost: the perplexity of a GGUF's model over a text, brought into each format, against the same values in
//! f32 with an f32 cache. `cargo run --release -p falaj-model --example perplexity -- MODEL.gguf TOKENS [WINDOW [COUNT]]`,
//! where TOKENS is a file of little-endian 32-bit token ids. With `--kv` what formats of the cache cost instead, the weights
//! as they come. Errors are standard errors of the mean over windows, of differences window by window.

use falaj_artifact::gguf::{Gguf, GgufWriter};
use falaj_artifact::{Digest, Dtype, ModelFiles, Verified};
use falaj_kernels::{Format, KvFormat, Ops, Pool};
use falaj_model::{KvCache, LoadOptions, PAGE_TOKENS, load, perplexity};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let (flags, words): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let mut args = words.into_iter();
    let usage = "usage: perplexity MODEL.gguf TOKENS [WINDOW [COUNT]] [--kv]";
    let source = std::fs::read(args.next().ok_or(usage)?)?;
    let tokens = std::fs::read(args.next().ok_or(usage)?)?;
    let tokens: Vec<u32> = tokens.as_chunks().0.iter().map(|id| u32::from_le_bytes(*id)).collect();
    let window = args.next().map_or(Ok(512), |text| text.parse())?;
    let count = args.next().map_or(Ok(usize::MAX), |text| text.parse())?;
    let tokens = &tokens[..tokens.len().min(count)];

    let threads = Pool::available_threads();
    match flags.as_slice() {
        [] => {}
        [flag] if flag == "--kv" => return caches(source.leak(), tokens, window, threads),
        _ => return Err(usage.into()),
    }
    let formats = [
        (Format::Q8_0, Dtype::Q8_0),
        (Format::Q4_0, Dtype::Q4_0),
        (Format::Q4_K, Dtype::Q4_K),
        (Format::BF16, Dtype::BF16),
    ];
    println!("format     cache  perplexity   to the reference");
    for (format, dtype) in formats {
        let bytes: &'static [u8] = in_format(&source, format, dtype)?.leak();
        let files = Verified::<ModelFiles>::embedded(bytes, Digest::of(bytes))?;
        let reference = load(&files, LoadOptions { dequantize: true, ..LoadOptions::default() })?;
        let reference = perplexity(&reference, tokens, window, KvFormat::F32, threads)?;
        println!("{:10} {:6} {:.5}", format!("{format}"), "f32 *", reference.value());
        let model = load(&files, LoadOptions::default())?;
        for cache in [KvFormat::F32, KvFormat::F16] {
            let found = perplexity(&model, tokens, window, cache, threads)?;
            let share = found.value() / reference.value() - 1.0;
            println!(
                "{:10} {:6} {:.5}     {:+.4} %",
                format!("{format}"),
                format!("{cache:?}"),
                found.value(),
                100.0 * share
            );
        }
    }
    println!("* every matrix dequantised to f32; {} predictions, windows of {window}", tokens.len());
    Ok(())
}

/// What the formats of the cache cost.
fn caches(gguf: &'static [u8], tokens: &[u32], window: usize, threads: usize) -> Result<(), Failure> {
    let files = Verified::<ModelFiles>::embedded(gguf, Digest::of(gguf))?;
    let model = load(&files, LoadOptions::default())?;
    let mut reference: Vec<f64> = Vec::new();
    println!("cache   bytes a token  perplexity (error)  to f32 (error)");
    for cache in [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::I8] {
        let losses = tokens
            .chunks_exact(window)
            .map(|window| Ok(perplexity(&model, window, window.len(), cache, threads)?.nll))
            .collect::<Result<Vec<f64>, Failure>>()?;
        if reference.is_empty() {
            reference.clone_from(&losses);
        }
        let (nll, error) = mean(losses.iter().copied());
        let (more, more_error) = mean(losses.iter().zip(&reference).map(|(loss, of)| loss - of));
        let bytes = KvCache::page_bytes(model.config(), cache) / PAGE_TOKENS;
        println!(
            "{:6} {bytes:10}  {:12.4} ({:.4})  {:+.4} % ({:.4} %)",
            format!("{cache:?}"),
            nll.exp(),
            nll.exp() * error,
            100.0 * more.exp_m1(),
            100.0 * more_error
        );
    }
    println!("{} windows of {window} tokens", reference.len());
    Ok(())
}

/// And its standard error.
fn mean(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, (variance / count).sqrt())
}

/// The file with every matrix in `format`.
fn in_format(source: &[u8], format: Format, dtype: Dtype) -> Result<Vec<u8>, Failure> {
    let ops = Ops::best();
    let gguf = Gguf::parse(source)?;
    let mut writer = GgufWriter::new(gguf.str("general.architecture")?);
    for (key, value) in &gguf.metadata {
        writer = writer.set(key, value.clone());
    }
    let mut data = Vec::new();
    for (name, entry) in &gguf.tensors {
        let bytes = entry.bytes(source).ok_or("a tensor lies outside the file")?;
        let cols = *entry.shape.last().ok_or("a tensor has no dimensions")?;
        if entry.shape.len() == 1 || dtype == entry.dtype {
            writer = writer.tensor(name, entry.dtype, &entry.shape)?;
            data.push(bytes.to_vec());
            continue;
        }
        let from = Format::ALL.into_iter().find(|format| format.to_string() == entry.dtype.to_string());
        let mut values = vec![0.0; entry.elements()];
        ops.dequantize_row(from.ok_or("a tensor has a format that is not read")?, bytes, &mut values);
        let mut out = vec![0; format.row_bytes(cols).ok_or("rows are no whole blocks")? * (values.len() / cols)];
        ops.quantize_row(format, &values, &mut out);
        writer = writer.tensor(name, dtype, &entry.shape)?;
        data.push(out);
    }
    Ok(writer.write(Vec::new(), data)?)
}
