//! From a conversation to what a model learns of it: the tokens, and which of them it has to say itself. Whatever a template
//! does, an answer is learnt in exactly the prompt in which the model would have to give it.

use std::ops::Range;

use super::{ChatFormat, Kind};
use crate::grammar::check_shape;
use crate::tokenizer::{Crossed, Cut, Segment};
use crate::{Conversation, Role, TextError};

/// A rendered conversation with the answers to learn in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    pub tokens: Vec<u32>,
    /// In order; never empty.
    pub answers: Vec<Answer>,
}

/// What the model has to say in one turn, with the token that ends the turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Index of the assistant's message.
    pub message: usize,
    /// Where it is in the lesson's tokens.
    pub tokens: Range<usize>,
}

impl ChatFormat {
    /// The lessons of a conversation: each assistant message for which `learnt` is true is an answer of exactly one of
    /// them, after exactly the tokens that [`ChatFormat::render`] gives for the messages before it. Mostly that is one
    /// lesson. Formats that write history in another way than the last turn (tools before the last question only, old
    /// thoughts dropped) need several, in which the conversation ends earlier.
    ///
    /// # Errors
    /// Those of `render`; `Conversation` when the format hides where an answer begins.
    pub fn lessons(
        &self,
        conversation: &Conversation,
        learnt: impl Fn(usize) -> bool + Send,
    ) -> Result<Vec<Lesson>, TextError> {
        for tool in &conversation.tools {
            check_shape(&tool.parameters)?;
        }
        match &self.kind {
            Kind::Jinja(template) => template.compiled(|compiled| {
                self.rendered_lessons(conversation, learnt, &|conversation, ask| compiled.render(conversation, ask))
            }),
            Kind::Mistral(instruct) => {
                self.rendered_lessons(conversation, learnt, &|conversation, _| instruct.render(conversation))
            }
        }
    }

    fn rendered_lessons(
        &self,
        conversation: &Conversation,
        learnt: impl Fn(usize) -> bool,
        render: Render,
    ) -> Result<Vec<Lesson>, TextError> {
        let answers = conversation.messages.iter().enumerate();
        let answers = answers.filter(|(at, message)| message.role == Role::Assistant && learnt(*at));
        let mut turns = answers.map(|(at, _)| self.turn(conversation, at, render)).collect::<Result<Vec<_>, _>>()?;
        let mut lessons = Vec::new();
        // From the end: each lesson is as long as it can be, and takes every earlier answer that it shows unchanged.
        while let Some(last) = turns.pop() {
            let shares = |turn: &Turn| turn.closed && !turn.alone && last.segments.starts_with(&turn.segments);
            let mut here: Vec<Turn> = turns.extract_if(.., |turn| shares(turn)).collect();
            let mut segments = last.segments.clone();
            if !last.closed
                && let Some(end) = self.tokenizer.eos()
            {
                segments.push(Segment::Control(end));
            }
            let end = Cut { segment: segments.len(), byte: 0 };
            here.push(Turn { segments: segments.clone(), end, ..last });
            let encoded = loop {
                let cuts: Vec<Cut> = here.iter().flat_map(|turn| [turn.start, turn.end]).collect();
                let encoded = self.tokenizer.encode_cut(&segments, &cuts);
                // Where a token of the history reaches over the beginning of an earlier answer, that answer gets a lesson of
                // its own, which ends with it: there the model stands before the cut.
                let others = 0..here.len().saturating_sub(1);
                let out = match encoded.crossed {
                    None => break encoded,
                    Some(Crossed::Cut(cut)) if others.contains(&(cut / 2)) => cut / 2..cut / 2 + 1,
                    Some(_) if others.is_empty() => break encoded,
                    Some(_) => others,
                };
                turns.extend(here.drain(out).map(|turn| Turn { alone: true, ..turn }));
            };
            let answers = here.iter().zip(encoded.places.chunks_exact(2));
            let answers = answers.filter_map(|(turn, at)| match at {
                [start, end] => Some(Answer { message: turn.message, tokens: *start..*end }),
                _ => None,
            });
            lessons.push(Lesson { answers: answers.collect(), tokens: encoded.tokens });
        }
        lessons.reverse();
        Ok(lessons)
    }

    /// The conversation up to the answer `message`, and where that begins and ends.
    fn turn(&self, conversation: &Conversation, message: usize, render: Render) -> Result<Turn, TextError> {
        let until = |end: usize| Conversation {
            messages: conversation.messages.iter().take(end).cloned().collect(),
            ..conversation.clone()
        };
        let prompt = render(&until(message), true)?;
        let mut segments = render(&until(message + 1), false)?;
        let start = if let Some(start) = after(&prompt, &segments) {
            start
        } else if after(&render(&until(message), false)?, &segments).is_some() {
            // The generation prompt says more than the history keeps, such as an opened thought.
            shared(&prompt, &segments)
        } else if let Some(answer) = behind(&prompt, &segments) {
            // What came before is written in another way once it is history: the answer moves behind the real prompt.
            let start = Cut { segment: prompt.len(), byte: 0 };
            segments = prompt.into_iter().chain(segments.split_off(answer)).collect();
            start
        } else {
            let reason = format!(
                "the chat template writes what comes before message {message} in another way once that is there"
            );
            return Err(TextError::Conversation { reason });
        };
        // What the template writes after the end of the turn, such as a line break, is not the model's to say.
        let ends = self.tokenizer.eos_tokens();
        let is_end = |segment: &Segment| matches!(segment, Segment::Control(token) if ends.contains(token));
        let end = segments.iter().skip(start.segment).position(is_end).map(|at| start.segment + at + 1);
        segments.truncate(end.unwrap_or(segments.len()));
        let empty = match segments.get(start.segment) {
            None => true,
            Some(Segment::Text(text)) => text.len() == start.byte && start.segment + 1 == segments.len(),
            Some(Segment::Control(_)) => false,
        };
        if empty {
            let reason = format!("the chat template writes nothing for message {message}");
            return Err(TextError::Conversation { reason });
        }
        let closed = matches!(segments.last(), Some(Segment::Control(_)));
        let end = Cut { segment: segments.len(), byte: 0 };
        Ok(Turn { message, segments, start, end, closed, alone: false })
    }
}

/// The segments of a conversation; `true`: with what makes the model answer.
type Render<'a> = &'a dyn Fn(&Conversation, bool) -> Result<Vec<Segment>, TextError>;

struct Turn {
    message: usize,
    /// The conversation from its beginning to the end of this answer.
    segments: Vec<Segment>,
    start: Cut,
    end: Cut,
    /// Ends in a control token, so that the model can end it too.
    closed: bool,
    /// Not part of another answer's lesson.
    alone: bool,
}

/// Where `whole` goes on after `start`, when it begins with that.
fn after(start: &[Segment], whole: &[Segment]) -> Option<Cut> {
    let cut = shared(start, whole);
    let done = match start.get(cut.segment) {
        None => true,
        Some(Segment::Text(text)) => cut.segment + 1 == start.len() && text.len() == cut.byte,
        Some(Segment::Control(_)) => false,
    };
    done.then_some(cut)
}

/// The first segment of `whole` after the place that looks most like the end of `prompt`, back from its last control token.
fn behind(prompt: &[Segment], whole: &[Segment]) -> Option<usize> {
    let last = prompt.last().filter(|segment| matches!(segment, Segment::Control(_)))?;
    let ends = whole.iter().enumerate().filter(|(_, segment)| *segment == last).map(|(at, _)| at + 1);
    ends.max_by_key(|end| {
        let back = whole.get(..*end).unwrap_or_default().iter().rev();
        (back.zip(prompt.iter().rev()).take_while(|(a, b)| a == b).count(), *end)
    })
}

/// Up to where both are the same.
fn shared(a: &[Segment], b: &[Segment]) -> Cut {
    let segment = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let byte = match (a.get(segment), b.get(segment)) {
        (Some(Segment::Text(a)), Some(Segment::Text(b))) => {
            a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
        }
        _ => 0,
    };
    Cut { segment, byte }
}
