//! The same bits, whatever else happens: chunking, company in the batch, threads, page tables, instruction sets.

use falaj_kernels::{Format, Isa, KvFormat, Ops, Pool};
use falaj_model::{Batch, KvCache, Model, Want, Workspace};

use crate::golden::Golden;
use crate::run::{load_gguf, logits};

/// A window and experts; floats, 8-bit blocks and K-quants.
fn files() -> impl Iterator<Item = (Vec<u32>, Vec<u8>)> {
    let goldens = [include_str!("../golden/mistral_window.json"), include_str!("../golden/mixtral.json")];
    goldens.into_iter().map(Golden::parse).zip([Format::BF16, Format::Q8_0]).flat_map(|(golden, format)| {
        let checkpoint = golden.checkpoint();
        [format, Format::Q4_K].map(|format| (golden.tokens.clone(), checkpoint.gguf(|_| format).unwrap()))
    })
}

fn models() -> impl Iterator<Item = (Vec<u32>, Model)> {
    files().map(|(tokens, bytes)| (tokens, load_gguf(bytes, None).unwrap()))
}

#[test]
fn chunks_do_not_change_a_bit() {
    for (tokens, model) in models() {
        let whole = logits(&model, &tokens, KvFormat::F16, tokens.len());
        for chunk in [1, 2, 5, 16, 31] {
            assert!(logits(&model, &tokens, KvFormat::F16, chunk) == whole, "chunks of {chunk}");
        }
    }
}

#[test]
fn instruction_sets_do_not_change_a_bit() {
    for (has_bf16, (tokens, bytes)) in [true, false, false, false].into_iter().zip(files()) {
        let run = |isa| logits(&load_gguf(bytes.clone(), Some(isa)).unwrap(), &tokens, KvFormat::F16, 7);
        let specified = run(Isa::Scalar);
        for isa in Isa::available() {
            // BF16 weights in tiles have an order of their own, and the version says so.
            if Ops::new(isa).numerics_version() == "1" || !has_bf16 {
                assert!(run(isa) == specified, "{isa}");
            }
        }
    }
}

/// A sequence alone, against the same among 31 others that are elsewhere in their texts, on more threads.
#[test]
fn company_and_threads_do_not_change_a_bit() {
    for (tokens, model) in models() {
        let alone = logits(&model, &tokens, KvFormat::F16, tokens.len());
        let (sequences, pages_each) = (32_u32, 2_u32);
        let mut cache = KvCache::new(model.config(), KvFormat::F16, (sequences * pages_each) as usize).unwrap();
        let mut ws = Workspace::new(&model, Pool::new(2), 128, 64).unwrap();
        let mut batch = Batch::default();
        let mine = 17;
        for position in 0..tokens.len() as u32 {
            batch.clear();
            let mut my_row = 0;
            for sequence in 0..sequences {
                // Others hold other texts; every third one brings a chunk of a prompt.
                let rows = if sequence % 3 == 0 && position % 4 == 0 && sequence != mine { 4 } else { 1 };
                if rows == 1 && sequence % 3 == 0 && sequence != mine {
                    continue;
                }
                batch.sequence(&[sequence * 2 + 1, sequence * 2]);
                for p in position..position + rows {
                    let token = if sequence == mine { tokens[p as usize] } else { (p * 7 + sequence) % 256 };
                    let row = batch.push(token, p, if rows == 1 { Want::Logits } else { Want::Nothing });
                    if sequence == mine {
                        my_row = row;
                    }
                }
            }
            model.forward(&mut ws, &mut cache, &batch).unwrap();
            assert!(ws.logits(my_row).unwrap() == alone[position as usize], "position {position}");
        }
    }
}

#[test]
fn rows_want_logits_hidden_states_or_nothing() {
    let golden = Golden::parse(include_str!("../golden/llama_gqa.json"));
    let model = load_gguf(golden.checkpoint().gguf(|_| Format::F32).unwrap(), None).unwrap();
    let mut cache = KvCache::new(model.config(), KvFormat::F32, 1).unwrap();
    let mut ws = Workspace::new(&model, Pool::new(1), 4, 2).unwrap();
    let mut batch = Batch::default();
    batch.sequence(&[0]);
    for (position, want) in [Want::Hidden, Want::Logits, Want::Nothing, Want::Logits].into_iter().enumerate() {
        batch.push(golden.tokens[position], position as u32, want);
    }
    model.forward(&mut ws, &mut cache, &batch).unwrap();
    let all = logits(&model, &golden.tokens[..4], KvFormat::F32, 4);
    assert!(ws.logits(0).is_none() && ws.logits(2).is_none() && ws.logits(4).is_none());
    assert!(ws.logits(1).unwrap() == all[1] && ws.logits(3).unwrap() == all[3]);
    assert!(ws.hidden(2).is_none());
    // The head over a hidden state is the logits.
    let hidden = ws.hidden(0).unwrap();
    let mut row = vec![0.0; model.config().hidden_size];
    for token in [0, 5, 319] {
        model.params().head().dequantize_row(model.ops(), token, &mut row);
        let logit: f64 = row.iter().zip(hidden).map(|(w, h)| f64::from(*w) * f64::from(*h)).sum();
        assert!((logit - f64::from(all[0][token])).abs() < 1e-5);
    }
}
