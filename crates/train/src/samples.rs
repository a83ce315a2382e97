//! Prompts that the model answers while it learns, so that people see what the losses mean. Always the likeliest token.

use crate::data::Encoder;
use crate::{Reading, Recipe, TrainError, Trainer};

/// The prompts of a recipe, ready to be answered.
#[derive(Debug)]
pub struct Samples {
    encoder: Encoder,
    prompts: Vec<(String, Vec<u32>)>,
}

/// Of an answer: enough to see where it goes.
const MOST_TOKENS: usize = 48;

impl Samples {
    /// `None` where the recipe has none.
    ///
    /// # Errors
    /// A prompt that a batch has no room for, or that the chat format cannot render.
    pub fn new(encoder: &Encoder, recipe: &Recipe) -> Result<Option<Self>, TrainError> {
        let room = recipe.batch.rows * recipe.batch.length;
        let prompts = recipe.evaluate.samples.iter().map(|prompt| {
            let tokens = encoder.question(prompt)?;
            if tokens.is_empty() || tokens.len() >= room {
                let rule = "a sample is neither empty nor longer than a batch";
                return Err(TrainError::Setting { setting: "evaluate.samples", value: prompt.clone(), rule });
            }
            Ok((prompt.clone(), tokens))
        });
        let prompts = prompts.collect::<Result<Vec<_>, TrainError>>()?;
        Ok((!prompts.is_empty()).then(|| Self { encoder: encoder.clone(), prompts }))
    }

    /// Each with its tokens.
    pub fn prompts(&self) -> impl Iterator<Item = &(String, Vec<u32>)> {
        self.prompts.iter()
    }

    /// Goes on from `prompt` until the model ends, there is no more room, or `go_on` says no.
    ///
    /// # Errors
    /// As [`Trainer::most_likely`].
    pub fn answer(
        &self,
        trainer: &mut Trainer,
        prompt: &[u32],
        go_on: &dyn Fn() -> bool,
    ) -> Result<String, TrainError> {
        let room = trainer.settings().max_tokens.min(trainer.config().context_tokens);
        let ends = self.encoder.tokenizer().eos_tokens();
        let mut tokens = prompt.to_vec();
        let mut cut = false;
        let mut reading = Reading::default();
        loop {
            let next = trainer.most_likely(&mut reading, &tokens)?;
            if ends.contains(&next) {
                break;
            }
            tokens.push(next);
            if tokens.len() >= room || tokens.len() - prompt.len() == MOST_TOKENS || !go_on() {
                cut = true;
                break;
            }
        }
        let answer = self.encoder.said(tokens.get(prompt.len()..).unwrap_or_default());
        Ok(if cut { format!("{answer}…") } else { answer })
    }
}
