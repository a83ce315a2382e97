//! `falaj run MODEL PROMPT`: one answer on standard output.

use crate::args::Run;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::talk::{Answer, Ending, Heard, Line, Talker};
use crate::words::Word;
use serde_json::json;
use std::io::Read;

pub fn run(context: &Context, options: &Run) -> Outcome {
    let prompt = match options.prompt.as_str() {
        "-" => from_stdin()?,
        text => text.to_owned(),
    };
    if prompt.trim().is_empty() {
        return Err(Failure::usage(Word::PromptEmpty.text()).next(Word::PromptEmptyNext.text()));
    }
    let talker = Talker::load(&context.config, &options.model)?;
    let lines = [Line { role: "user", content: prompt }];
    let answer = talker.ask(&lines, &options.sampling)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (text, ending) = runtime.block_on(collect(answer, !context.json))?;
    if context.json {
        output::json(&json!({
            "model": talker.model(),
            "text": text,
            "finish_reason": ending.reason,
            "usage": { "prompt_tokens": ending.prompt_tokens, "completion_tokens": ending.completion_tokens },
        }));
    } else if !text.ends_with('\n') {
        output::line("");
    }
    Ok(())
}

/// The whole answer; printed as it comes when `print`.
async fn collect(mut answer: Answer, print: bool) -> Outcome<(String, Ending)> {
    let mut text = String::new();
    while let Some(heard) = answer.next().await {
        match heard {
            Heard::Text(piece) => {
                if print {
                    output::piece(&output::printable(&piece));
                }
                text.push_str(&piece);
            }
            Heard::Done(ending) => return Ok((text, ending)),
            Heard::Failed(reason) => return Err(Failure::new(reason)),
        }
    }
    Err(Failure::new(Word::AnswerCutOff.text()))
}

fn from_stdin() -> Outcome<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).or_fail(|| "standard input".to_owned())?;
    Ok(text)
}
