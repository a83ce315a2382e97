//! What the last steps were and how long their parts took, in a ring of fixed size. Written without a lock and without an
//! allocation by the engine thread, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One step. Times are of the engine thread; `locked` is how long it held the queue's lock since the step before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTrace {
    /// Counts from 1.
    pub step: u64,
    /// Rows that continue prompts, and rows of sequences that decode, proposals included.
    pub prompt_rows: u32,
    pub decode_rows: u32,
    /// Taking in, admitting, choosing rows.
    pub choose: Duration,
    pub forward: Duration,
    pub sample: Duration,
    pub locked: Duration,
    /// Locks that the engine thread held when the forward pass began. Always 0.
    pub locks_in_forward: u32,
}

pub(crate) struct Trace {
    records: [Record; STEPS],
}

/// Steps that are remembered.
const STEPS: usize = 256;
const FIELDS: usize = 8;

/// `fields[0]` is the step; it is 0 while the rest is being written, so that a reader notices.
#[derive(Default)]
struct Record {
    fields: [AtomicU64; FIELDS],
}

impl Default for Trace {
    fn default() -> Self {
        Self { records: std::array::from_fn(|_| Record::default()) }
    }
}

impl Trace {
    pub(crate) fn record(&self, step: &StepTrace) {
        let Record { fields } = &self.records[step.step as usize % STEPS];
        let nanos = |time: Duration| time.as_nanos() as u64;
        let values = [
            u64::from(step.prompt_rows),
            u64::from(step.decode_rows),
            nanos(step.choose),
            nanos(step.forward),
            nanos(step.sample),
            nanos(step.locked),
            u64::from(step.locks_in_forward),
        ];
        fields[0].store(0, Ordering::SeqCst);
        for (field, value) in fields[1..].iter().zip(values) {
            field.store(value, Ordering::SeqCst);
        }
        fields[0].store(step.step, Ordering::SeqCst);
    }

    /// Oldest first. A step that is being overwritten meanwhile is left out.
    pub(crate) fn recent(&self) -> Vec<StepTrace> {
        let mut steps: Vec<_> = self.records.iter().filter_map(Record::read).collect();
        steps.sort_unstable_by_key(|step| step.step);
        steps
    }
}

impl Record {
    fn read(&self) -> Option<StepTrace> {
        let read = || self.fields.each_ref().map(|field| field.load(Ordering::SeqCst));
        let (values, again) = (read(), read());
        let [step, prompt_rows, decode_rows, choose, forward, sample, locked, locks] = values;
        (step != 0 && values == again).then(|| StepTrace {
            step,
            prompt_rows: prompt_rows as u32,
            decode_rows: decode_rows as u32,
            choose: Duration::from_nanos(choose),
            forward: Duration::from_nanos(forward),
            sample: Duration::from_nanos(sample),
            locked: Duration::from_nanos(locked),
            locks_in_forward: locks as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_steps_in_order() {
        let trace = Trace::default();
        assert_eq!(trace.recent(), []);
        let step = |step| StepTrace { step, prompt_rows: 3, forward: Duration::from_nanos(7), ..StepTrace::default() };
        (1..=STEPS as u64 + 5).for_each(|number| trace.record(&step(number)));
        let recent = trace.recent();
        assert_eq!((recent.len(), recent[0], recent[STEPS - 1]), (STEPS, step(6), step(STEPS as u64 + 5)));
    }
}
