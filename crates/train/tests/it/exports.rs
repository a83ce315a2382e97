//! Exports: loaded again, they give the trained model's logits; a wrong one is not published.

use std::fs;
use std::path::PathBuf;

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Rope};
use falaj_train::{Export, ExportFormat, Lora, Record, Settings, Start, Target, TrainError, Trainer};

use crate::small::{arena, batch, config, settings, trainer};

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("falaj-export-{name}-{}", std::process::id()))
}

/// Rows of whole blocks.
fn even(layout: RopeLayout) -> Config {
    let config = config();
    Config {
        hidden_size: 256,
        ffn_size: 512,
        heads: 4,
        head_dim: 64,
        rope: Rope { layout, ..config.rope.clone() },
        ..config
    }
}

fn export(record: &Record) -> Export<'_> {
    Export { base: None, name: "test", base_name: "base", record, probe: &[] }
}

#[test]
fn every_form_gives_the_trained_logits() {
    let record = Record { seed: 7, ..Record::default() };
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let config = even(layout);
        let mut trainer = trainer(&config, settings(24));
        trainer.step(&[batch(&config, &[24], 24, 1)]).unwrap();
        for format in [
            ExportFormat::Safetensors,
            ExportFormat::GgufF16,
            ExportFormat::GgufQ8_0,
            ExportFormat::GgufQ4_0,
            ExportFormat::GgufQ4KM,
        ] {
            let target = folder(&format!("{layout:?}-{format:?}"));
            let distance = export(&record).write(&mut trainer, format, &target).unwrap();
            assert!(distance < 0.4, "{format:?}: {distance}");
            let written: Record = serde_json::from_slice(&fs::read(target.join(Record::FILE)).unwrap()).unwrap();
            assert_eq!(written, record);
            fs::remove_dir_all(target).unwrap();
        }
        assert!(export(&record).write(&mut trainer, ExportFormat::Peft, &folder("none")).is_err());
        assert!(!folder("none").exists());
    }
}

#[test]
fn adapters_leave_alone_or_merged() {
    let record = Record::default();
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let config = even(layout);
        let model = crate::serving::served(&arena(&config), falaj_kernels::Format::F32);
        let (config, base) = (model.config().clone(), model.params().clone());
        let lora =
            Lora { rank: 8, alpha: 16.0, dropout: 0.0, targets: vec![Target::Query, Target::Value, Target::Down] };
        let optimization = falaj_train::Optimization { learning_rate: 1e-2, ..Default::default() };
        let settings = Settings { optimization, ..settings(24) };
        let mut trainer = Trainer::new(Start::Lora { config: config.clone(), base, lora }, settings).unwrap();
        for _ in 0..5 {
            trainer.step(&[batch(&config, &[24], 24, 1)]).unwrap();
        }
        let target = folder(&format!("adapter-{layout:?}"));
        assert_eq!(export(&record).write(&mut trainer, ExportFormat::Peft, &target).unwrap(), 0.0);
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(target.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!(json["target_modules"], serde_json::json!(["q_proj", "v_proj", "down_proj"]));
        export(&record).write(&mut trainer, ExportFormat::Safetensors, &target).unwrap();
        fs::remove_dir_all(target).unwrap();
    }
}

#[test]
fn what_cannot_be_written_leaves_what_was_there() {
    let record = Record::default();
    let target = folder("kept");
    fs::create_dir_all(&target).unwrap();
    fs::write(target.join("old"), "good").unwrap();
    let config = even(RopeLayout::Halves);
    let mut trainer = trainer(&config, settings(24));
    trainer.replace(3, Some(f32::NAN));
    let error = export(&record).write(&mut trainer, ExportFormat::GgufF16, &target).unwrap_err();
    assert!(matches!(error, TrainError::RoundTrip { .. }), "{error}");
    assert_eq!(fs::read_to_string(target.join("old")).unwrap(), "good");
    fs::remove_dir_all(target).unwrap();
}
