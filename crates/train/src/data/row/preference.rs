//! Preference pairs: OpenAI's rows, and TRL's with texts or messages and with or without a prompt.

use falaj_text::Role;

use super::dialogue::{Dialogue, messages, messages_or_text, tools};
use super::fields::Fields;
use crate::data::Reason;

/// Two answers to one prompt, the first preferred.
#[derive(Debug, Clone, PartialEq)]
pub enum Preference {
    /// Two conversations that are the same up to the messages that have a weight.
    Dialogues(Box<[Dialogue; 2]>),
    Texts {
        prompt: String,
        answers: [String; 2],
    },
}

pub fn preference(fields: &mut Fields) -> Result<Preference, Reason> {
    let openai = fields.has("preferred_output") || fields.has("non_preferred_output");
    let (prompt, tools, keys) = if openai {
        let mut input = fields.object("input")?;
        let tools = tools(&mut input)?;
        (messages(&mut input, "messages")?, tools, ["preferred_output", "non_preferred_output"])
    } else {
        if !fields.is_list("prompt") && !fields.is_list("chosen") && !fields.is_list("rejected") {
            return texts(fields);
        }
        let tools = tools(fields)?;
        (messages_or_text(fields, "prompt", Role::User)?, tools, ["chosen", "rejected"])
    };
    let [first, second] = keys;
    let chosen = answer(fields, first, &prompt)?;
    let rejected = answer(fields, second, &prompt)?;
    let same =
        chosen.conversation.messages.iter().zip(&rejected.conversation.messages).take_while(|(a, b)| a == b).count();
    if same == chosen.conversation.messages.len() && same == rejected.conversation.messages.len() {
        return Err(Reason::SameAnswers);
    }
    let finish = |mut dialogue: Dialogue, key: &str| {
        dialogue.conversation.tools.clone_from(&tools);
        // What both share is the prompt, even where it is the assistant's.
        dialogue.weights.iter_mut().take(same).for_each(|weight| *weight = 0.0);
        let dialogue = dialogue.checked(key)?;
        if dialogue.weights.iter().all(|weight| *weight == 0.0) { Err(Reason::NothingToLearn) } else { Ok(dialogue) }
    };
    Ok(Preference::Dialogues(Box::new([finish(chosen, first)?, finish(rejected, second)?])))
}

/// The prompt with one answer behind it; an answer that repeats the prompt, as some files have it, stands alone.
fn answer(fields: &mut Fields, key: &str, prompt: &Dialogue) -> Result<Dialogue, Reason> {
    let answer = messages_or_text(fields, key, Role::Assistant)?;
    let repeats =
        answer.conversation.messages.first().is_some_and(|first| matches!(first.role, Role::User | Role::System));
    if repeats {
        return Ok(answer);
    }
    let mut whole = prompt.clone();
    whole.weights.fill(0.0);
    whole.weights.extend(answer.weights);
    whole.conversation.messages.extend(answer.conversation.messages);
    Ok(whole)
}

/// Texts; without a prompt, what both begin with, up to a whole word, is one.
fn texts(fields: &mut Fields) -> Result<Preference, Reason> {
    let mut answers = [fields.filled_text("chosen")?, fields.filled_text("rejected")?];
    let prompt = fields.optional_text("prompt")?;
    let [chosen, rejected] = &answers;
    if chosen == rejected {
        return Err(Reason::SameAnswers);
    }
    let prompt = match prompt {
        Some(prompt) => prompt,
        None => {
            let pairs = chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b);
            let same: usize = pairs.map(|(c, _)| c.len_utf8()).sum();
            let prompt = chosen.get(..same).unwrap_or_default();
            let end = prompt.rfind(char::is_whitespace).unwrap_or(0);
            let prompt = prompt.get(..end).unwrap_or_default().to_owned();
            answers = answers.map(|text| text.get(end..).unwrap_or_default().to_owned());
            prompt
        }
    };
    if let Some(at) = answers.iter().position(|text| text.trim().is_empty()) {
        let field = if at == 0 { "chosen" } else { "rejected" };
        return Err(Reason::Empty { field: field.to_owned() });
    }
    Ok(Preference::Texts { prompt, answers })
}
