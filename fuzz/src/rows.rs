//! Any bytes as a file to learn from: cut into rows, understood, and rendered for a model.

use std::sync::LazyLock;

use falaj_text::{ChatFormat, ModelText};
use falaj_train::data::{Encoder, Lines, Row};

use super::sample;

/// # Panics
/// When a reason is too long to be shown, or an example is not what batches are made from.
pub fn run(bytes: &[u8]) {
    static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
        let tokenizer = sample::tokenizer();
        let chat = ChatFormat::jinja(TEMPLATE, tokenizer).expect("the template is good");
        Encoder::new(&ModelText { tokenizer: tokenizer.clone(), chat: Some(chat) })
    });
    for plain in [false, true] {
        let mut lines = Lines::new(bytes, plain);
        let mut format = None;
        let mut before = 0;
        while let Some(row) = lines.next_row().expect("bytes in memory can be read") {
            let line = row.as_ref().map_or_else(|bad| bad.line, |raw| raw.line);
            assert!(line >= before, "lines ascend");
            before = line;
            let read = row.map_err(|bad| bad.reason).and_then(|raw| Row::parse(&raw, format));
            let units = read.and_then(|(row, found)| {
                format = Some(found);
                ENCODER.encode(&row)
            });
            match units {
                Ok(units) => {
                    for example in units.iter().flat_map(|unit| unit.examples()) {
                        assert_eq!(example.tokens.len(), example.weights.len());
                        assert!(example.weights.iter().any(|weight| *weight > 0.0), "something is learnt");
                        assert!(example.weights.iter().all(|weight| (0.0..=1.0).contains(weight)));
                    }
                }
                Err(reason) => assert!(reason.to_string().len() < 4000, "{reason}"),
            }
        }
    }
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}\
{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endfor %}\
{% if add_generation_prompt %}assistant:{% endif %}";
