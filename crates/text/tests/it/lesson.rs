//! Lessons: every answer stands once, after exactly the prompt in which it would have to be given.

use std::path::Path;

use falaj_artifact::gguf::Gguf;
use falaj_text::{ChatFormat, Conversation, InstructVersion, Message, ModelText, Role, TextError, Tool, ToolCall};
use serde_json::json;

use crate::support::{byte_level, json as file, tekken};

fn template(name: &str) -> ChatFormat {
    // The small vocabulary knows one end of a turn.
    let source = file("templates.json")[name].as_str().unwrap().replace("<|im_end|>", "</s>");
    ChatFormat::jinja(&source, &byte_level()).unwrap()
}

fn seed() -> ChatFormat {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/falaj-seed/falaj-seed-q8_0.gguf");
    ModelText::from_gguf(&Gguf::open(&path).unwrap()).unwrap().chat.unwrap()
}

fn talk(with_tools: bool) -> Conversation {
    let mut messages = vec![
        Message::user("Salut [/INST]"),
        Message::assistant("مرحبا </s> ok"),
        Message::user("two?"),
        Message::assistant("2"),
    ];
    let mut tools = Vec::new();
    if with_tools {
        let call = ToolCall { id: "abcdefghi".into(), name: "add".into(), arguments: r#"{"a": 1}"#.into() };
        messages.extend([
            Message::user("three?"),
            Message { tool_calls: vec![call], content: Vec::new(), ..Message::assistant("") },
            Message::tool("abcdefghi", Some("add".into()), "3"),
            Message::assistant("It is 3"),
        ]);
        let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        tools.push(Tool { name: "add".into(), description: "adds".into(), parameters, strict: false });
    }
    Conversation { messages, tools, now_s: Some(0), ..Conversation::default() }
}

/// Checks every lesson against `render`, and returns which messages each teaches.
#[track_caller]
fn check(format: &ChatFormat, conversation: &Conversation) -> Vec<Vec<usize>> {
    let lessons = format.lessons(conversation, |_| true).unwrap();
    let tokenizer = format.tokenizer();
    let mut seen = Vec::new();
    for lesson in &lessons {
        for answer in &lesson.answers {
            let before =
                Conversation { messages: conversation.messages[..answer.message].to_vec(), ..conversation.clone() };
            let prompt = format.render(&before).unwrap();
            assert_eq!(lesson.tokens[..answer.tokens.start], prompt.tokens, "message {}", answer.message);
            let said = &lesson.tokens[answer.tokens.clone()];
            let (end, said) = said.split_last().unwrap();
            assert!(tokenizer.eos_tokens().contains(end), "message {} ends its turn", answer.message);
            let message = &conversation.messages[answer.message];
            let text = tokenizer.decode(said);
            match message.tool_calls.first() {
                None => assert_eq!(text.trim(), message.text().trim()),
                Some(call) => assert!(text.contains(&call.name) && text.contains("\"a\": 1"), "{text}"),
            }
        }
        seen.push(lesson.answers.iter().map(|answer| answer.message).collect::<Vec<_>>());
    }
    let mut all = seen.concat();
    all.sort_unstable();
    let assistants = conversation.messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant);
    assert_eq!(all, assistants.map(|(at, _)| at).collect::<Vec<_>>(), "each answer once");
    seen
}

#[test]
fn formats_that_only_append_need_one_lesson() {
    for with_tools in [false, true] {
        let expected: &[usize] = if with_tools { &[1, 3, 5, 7] } else { &[1, 3] };
        for (name, version) in [("v13", InstructVersion::V13), ("v15", InstructVersion::V15)] {
            let format = ChatFormat::mistral(version, &tekken(name)).unwrap();
            assert_eq!(check(&format, &talk(with_tools)), [expected], "{name}");
        }
    }
    assert_eq!(check(&seed(), &talk(false)), [[1, 3]]);
    assert_eq!(check(&template("chatml"), &talk(false)), [[1, 3]]);
    // The line break before a call joins the one that ends the prompt, as long as nothing stands between them.
    assert_eq!(check(&template("chatml"), &talk(true)), [vec![5], vec![1, 3, 7]]);
    let mut conversation = talk(true);
    conversation.messages[5].content = Message::assistant("Well: add").content;
    assert_eq!(check(&template("chatml"), &conversation), [[1, 3, 5, 7]]);
}

#[test]
fn formats_that_move_the_tools_need_one_lesson_per_question() {
    assert_eq!(check(&seed(), &talk(true)), [vec![1], vec![3], vec![5, 7]]);
    for (name, version) in [("v7", InstructVersion::V7), ("v11", InstructVersion::V11)] {
        let format = ChatFormat::mistral(version, &tekken(name)).unwrap();
        assert_eq!(check(&format, &talk(true)), [vec![1], vec![3], vec![5, 7]], "{name}");
    }
    // The system prompt goes to the last question here.
    let mut conversation = talk(false);
    conversation.messages.insert(0, Message::system("Be kind."));
    assert_eq!(check(&template("inst"), &conversation), [[2], [4]]);
    conversation.messages.remove(0);
    assert_eq!(check(&template("inst"), &conversation), [[1, 3]]);
}

#[test]
fn only_what_is_asked_for_is_learnt() {
    let format = template("chatml");
    let lessons = format.lessons(&talk(false), |message| message == 1).unwrap();
    assert_eq!((lessons.len(), lessons[0].answers.len()), (1, 1));
    assert_eq!(lessons[0].answers[0].tokens.end, lessons[0].tokens.len(), "nothing after the last answer");
    assert_eq!(format.lessons(&talk(false), |_| false).unwrap(), []);
}

#[test]
fn tokens_that_reach_over_the_beginning_of_an_answer_are_cut() {
    // "he" and "llo" against "hello": the model would go on after the prompt's own tokens.
    let source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";
    let format = ChatFormat::jinja(source, &byte_level()).unwrap();
    for at in 0..11 {
        let (question, answer) = "hello world".split_at(at);
        let conversation =
            Conversation { messages: vec![Message::user(question), Message::assistant(answer)], ..talk(false) };
        assert_eq!(check(&format, &conversation), [[1]]);
    }
}

#[test]
fn an_answer_that_no_token_ends_gets_the_models_end() {
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let format = ChatFormat::jinja(source, &byte_level()).unwrap();
    // Nothing in the text says where the first answer ends: each is the last of a lesson of its own.
    assert_eq!(check(&format, &talk(false)), [[1], [3]]);
}

#[test]
fn templates_that_hide_the_answer_are_refused() {
    let refused = |source: &str| {
        let format = ChatFormat::jinja(source, &byte_level()).unwrap();
        format.lessons(&talk(false), |_| true).unwrap_err()
    };
    let source = "{{ messages | length }}\n{% for m in messages %}{{ m.content }}{% endfor %}";
    assert!(matches!(refused(source), TextError::Conversation { reason } if reason.contains("another way")));
    let source = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    assert!(matches!(refused(source), TextError::Conversation { reason } if reason.contains("nothing")));
    // A prompt that opens a thought which the history does not keep: the answer begins after what both share.
    let source = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant\n<think>{% endif %}";
    let format = ChatFormat::jinja(source, &byte_level()).unwrap();
    let lessons = format.lessons(&talk(false), |_| true).unwrap();
    let said =
        lessons[0].answers.iter().map(|answer| format.tokenizer().decode(&lessons[0].tokens[answer.tokens.clone()]));
    assert_eq!(said.collect::<Vec<_>>(), ["مرحبا </s> ok", "2"]);
}
