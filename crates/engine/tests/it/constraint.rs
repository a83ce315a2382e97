//! Constraints from outside: followed, ended, and survived when they fail.

use falaj_engine::{Constraint, ConstraintError, FinishReason, Request, Sampling, TokenMask};

use crate::run::{MODEL, end, options, prompt, request, run, start};

/// Allows exactly these tokens in this order, then nothing; fails or panics where told to.
struct Script {
    tokens: Vec<u32>,
    at: usize,
    fail_at: Option<usize>,
    panic_at: Option<usize>,
}

impl Constraint for Script {
    fn allowed(&mut self, mask: &mut TokenMask) -> Result<(), ConstraintError> {
        assert!(mask.words.iter().all(|word| *word == 0), "it comes in all clear");
        assert!(self.panic_at != Some(self.at), "the script panics");
        if self.fail_at == Some(self.at) {
            return Err(ConstraintError { reason: "the script fails".into() });
        }
        if let Some(token) = self.tokens.get(self.at) {
            mask.insert(*token);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        assert_eq!(token, self.tokens[self.at]);
        self.at += 1;
        Ok(())
    }
}

fn scripted(fail_at: Option<usize>, panic_at: Option<usize>, stop_tokens: Vec<u32>) -> Request {
    Request {
        constraint: Some(Box::new(Script { tokens: vec![4, 90, 17], at: 0, fail_at, panic_at })),
        sampling: Sampling { temperature: 1.5, seed: 3, ..Sampling::default() },
        stop_tokens,
        logprobs: Some(2),
        ..request(prompt(1, 20), 10)
    }
}

#[test]
fn a_constraint_decides_and_ends() {
    let engine = start(&MODEL, options());
    let outcome = run(&engine, scripted(None, None, vec![]));
    assert_eq!(outcome.tokens, [4, 90, 17]);
    assert_eq!(outcome.end.as_ref().unwrap().0, FinishReason::Stop);
    // Only what is allowed has a probability.
    assert_eq!(outcome.logprobs[1].1.len(), 1);
    let stopped = run(&engine, scripted(None, None, vec![17]));
    assert_eq!((stopped.tokens.as_slice(), stopped.usage().completion_tokens), ([4, 90].as_slice(), 2));
    end(&engine);
}

#[test]
fn a_failing_constraint_fails_its_request_only() {
    let engine = start(&MODEL, options());
    let other = engine.submit(request(prompt(2, 20), 40)).unwrap();
    let failed = run(&engine, scripted(Some(1), None, vec![]));
    assert_eq!(failed.tokens, [4]);
    assert_eq!(failed.end.unwrap_err(), "constrained decoding failed: the script fails");
    let panicked = run(&engine, scripted(None, Some(2), vec![]));
    assert_eq!(panicked.tokens, [4, 90]);
    assert_eq!(panicked.end.unwrap_err(), "the request failed: the script panics; this is a bug, please report it");
    assert_eq!(crate::run::read(other).tokens.len(), 40);
    end(&engine);
}
