//! Whole jobs: resumed equals uninterrupted, cancelled and ended early, and what goes wrong is said.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use falaj_protocol::jobs::Progress;
use falaj_train::run::{Learning, Outcome, Plan, Steps, Surroundings, run};
use falaj_train::{MicroBatch, Optimization, Settings, TrainError, Trainer};

use crate::small::{batch, config, settings, trainer};

struct Data {
    /// The step at which the process is killed, as it were: data that cannot be read.
    dies: Option<u64>,
    /// What is held out has nothing to do with what is learnt.
    foreign: bool,
}

impl Steps for Data {
    fn step(&mut self, step: u64) -> Result<Vec<MicroBatch>, TrainError> {
        if self.dies == Some(step) {
            return Err(TrainError::Batch { problem: "died" });
        }
        Ok(vec![batch(&config(), &[7, 5], 12, step as usize % 3)])
    }

    fn evaluation(&mut self) -> Result<Vec<MicroBatch>, TrainError> {
        let mut held_out = batch(&config(), &[12], 12, 1);
        if self.foreign {
            held_out.targets.iter_mut().for_each(|target| *target = (*target + 5) % 37);
        }
        Ok(vec![held_out])
    }
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("falaj-job-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    path
}

fn new_trainer(steps: u64) -> Trainer {
    let optimization = Optimization { learning_rate: 5e-3, steps, ..Optimization::default() };
    trainer(&config(), Settings { optimization, ..settings(12) })
}

const PLAN: Plan = Plan { evaluate_every: 4, checkpoint_every: 3, keep: 2, patience: 0, improvement: 0.0 };

fn go(
    trainer: &mut Trainer,
    data: &mut Data,
    plan: &Plan,
    folder: &Path,
    cancel_at: u64,
) -> Result<Outcome, TrainError> {
    let cancelled = AtomicBool::new(false);
    let seconds = Cell::new(0.0);
    let clock = || {
        seconds.set(seconds.get() + 0.5);
        seconds.get()
    };
    let mut watch = |event: &Progress| {
        if matches!(event, Progress::Step { step, .. } if *step == cancel_at) {
            cancelled.store(true, Ordering::Relaxed);
        }
    };
    let surroundings =
        Surroundings { folder, watch: &mut watch, cancelled: &cancelled, clock: &clock, energy: &|| None };
    run(trainer, data, Learning::Tokens, plan, surroundings)
}

fn weights(trainer: &Trainer) -> Vec<u32> {
    let arena = trainer.arena().unwrap();
    arena.slots().flat_map(|slot| arena.get(slot).iter().map(|value| value.to_bits())).collect()
}

fn steps(folder: &Path) -> Vec<u64> {
    let events = fs::read_to_string(folder.join("events.jsonl")).unwrap();
    let steps = events.lines().filter_map(|line| match serde_json::from_str(line).unwrap() {
        Progress::Step { step, .. } => Some(step),
        _ => None,
    });
    steps.collect()
}

#[test]
fn resumed_equals_uninterrupted() {
    let (whole, cut) = (folder("whole"), folder("cut"));
    let mut one = new_trainer(10);
    let outcome = go(&mut one, &mut Data { dies: None, foreign: false }, &PLAN, &whole, 0).unwrap();
    let Outcome::Done(summary) = outcome else { panic!("{outcome:?}") };
    assert_eq!((summary.steps, summary.trained_tokens), (10, 100));
    assert!(summary.last_loss < summary.first_loss && summary.valid_loss.is_some());

    let error = go(&mut new_trainer(10), &mut Data { dies: Some(5), foreign: false }, &PLAN, &cut, 0).unwrap_err();
    assert!(matches!(error, TrainError::Batch { .. }), "{error}");
    assert_eq!(steps(&cut), [1, 2, 3, 4, 5]);
    let stopped = go(&mut new_trainer(10), &mut Data { dies: None, foreign: false }, &PLAN, &cut, 7).unwrap();
    assert_eq!(stopped, Outcome::Stopped { step: 7 });
    let mut two = new_trainer(10);
    let outcome = go(&mut two, &mut Data { dies: None, foreign: false }, &PLAN, &cut, 0).unwrap();
    let Outcome::Done(resumed) = outcome else { panic!("{outcome:?}") };
    assert_eq!(weights(&one), weights(&two));
    assert_eq!(
        (resumed.trained_tokens, resumed.last_loss, resumed.valid_loss),
        (100, summary.last_loss, summary.valid_loss)
    );
    assert_eq!(steps(&cut), (1..=10).collect::<Vec<u64>>());
    assert_eq!(fs::read_dir(cut.join("checkpoints")).unwrap().count(), 2);
    for folder in [whole, cut] {
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_job_that_gets_no_better_ends_with_its_best_weights() {
    let folder = folder("early");
    let plan = Plan { evaluate_every: 1, patience: 3, ..PLAN };
    let mut trainer = new_trainer(60);
    let outcome = go(&mut trainer, &mut Data { dies: None, foreign: true }, &plan, &folder, 0).unwrap();
    let Outcome::Done(summary) = outcome else { panic!("{outcome:?}") };
    assert!(summary.steps < 60);
    let held_out = Data { dies: None, foreign: true }.evaluation().unwrap();
    assert_eq!(trainer.evaluate(&held_out).unwrap().loss, summary.valid_loss.unwrap());
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_loss_that_is_no_number_stops_before_it_spoils_the_weights() {
    let folder = folder("nan");
    let mut trainer = new_trainer(10);
    go(&mut trainer, &mut Data { dies: Some(3), foreign: false }, &PLAN, &folder, 0).unwrap_err();
    trainer.replace(40, Some(f32::NAN));
    let error = trainer.step(&[batch(&config(), &[12], 12, 1)]).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    let mut resumed = new_trainer(10);
    go(&mut resumed, &mut Data { dies: None, foreign: false }, &PLAN, &folder, 0).unwrap();
    assert!(weights(&resumed).iter().all(|bits| f32::from_bits(*bits).is_finite()));
    fs::remove_dir_all(folder).unwrap();
}
