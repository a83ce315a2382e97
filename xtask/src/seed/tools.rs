//! Conversations with tools: the request, the call whose arguments are copied from it, and the result told in words; and requests
//! that need none of the tools, or one that is not there.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Material;
use super::chance::Chance;
use super::grounded::casual;
use super::phrases::{Language, Side, fill};

/// The closed set, as the file has it.
pub struct Toolbox {
    /// Name and definition, as JSON text: the order of its keys stays.
    tools: Vec<(String, String)>,
}

impl Toolbox {
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(|line| line.trim().trim_end_matches(',')).filter(|line| line.starts_with('{'));
        let tools = lines.map(|line| {
            let value: Value = serde_json::from_str(line)?;
            let name = value["function"]["name"].as_str().context("a tool has a name")?;
            Ok((name.to_owned(), line.to_owned()))
        });
        Ok(Self { tools: tools.collect::<Result<_>>()? })
    }

    /// JSON text of a list that holds `wanted`, or lacks `without`.
    pub fn offer(&self, chance: &mut Chance, wanted: Option<&str>, without: Option<&str>) -> String {
        let others: Vec<&(String, String)> =
            self.tools.iter().filter(|(name, _)| wanted != Some(name) && without != Some(name)).collect();
        let count = match chance.below(20) {
            0..4 => 0,
            4..13 => chance.between(1, 2),
            13..15 => chance.between(3, 5),
            _ => others.len(),
        };
        let mut offered = chance.sample(&others, count.max(usize::from(wanted.is_none())));
        offered.extend(self.tools.iter().filter(|(name, _)| wanted == Some(name)));
        if offered.len() == self.tools.len() && chance.of(0.8) {
            offered = self.tools.iter().collect();
        } else {
            chance.shuffle(&mut offered);
        }
        let texts: Vec<&str> = offered.iter().map(|(_, text)| text.as_str()).collect();
        format!("[{}]", texts.join(", "))
    }
}

/// One request with its tools.
pub struct ToolTalk {
    /// JSON text.
    pub tools: String,
    pub asked: String,
    pub outcome: Outcome,
}

pub enum Outcome {
    /// `arguments` is JSON text.
    Call { name: String, arguments: String, result: String, told: String },
    /// No tool is called.
    Words(String),
}

impl Material {
    pub fn tool_talk(&self, chance: &mut Chance, side: Side, language: Language) -> ToolTalk {
        if chance.of(0.2) {
            let (asked, told) = match chance.below(10) {
                0..3 => self.small_talk(chance, side, language),
                3..6 => self.fact(chance, side, language),
                6..8 => {
                    let slots = [("city", self.town(chance, language)), ("time", self.time(chance, language))];
                    let slots = slots.each_ref().map(|(name, value)| (*name, value.as_str()));
                    let asked = fill(self.requests.ask(chance, side, "none", "asks", language), &slots, language);
                    (casual(chance, &asked), self.no_tool(language))
                }
                _ => self.task(chance, side, language),
            };
            return ToolTalk { tools: self.toolbox.offer(chance, None, None), asked, outcome: Outcome::Words(told) };
        }
        let names: Vec<&str> = self.toolbox.tools.iter().map(|(name, _)| name.as_str()).collect();
        let name = *chance.pick(&names);
        let (slots, arguments, result) = self.request(chance, name, language);
        let slots: Vec<(&str, &str)> = slots.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let asked = fill(self.requests.ask(chance, side, name, "asks", language), &slots, language);
        // An argument must stand in the request as it is.
        let copied = arguments.iter().all(|(_, value)| asked.contains(value.trim_matches('"')));
        if !copied {
            return self.tool_talk(chance, side, language);
        }
        let mut asked = if arguments.is_empty() || chance.of(0.5) { casual(chance, &asked) } else { asked };
        // People say more than what they want.
        if chance.of(0.2) {
            let before = self.requests.pick(chance, "around", "before", language);
            asked = format!("{before} {asked}");
        } else if chance.of(0.08) {
            asked = format!("{} {asked}", self.book(language).sentence(chance));
        }
        if chance.of(0.07) {
            let outcome = Outcome::Words(self.no_tool(language));
            return ToolTalk { tools: self.toolbox.offer(chance, None, Some(name)), asked, outcome };
        }
        let arguments: Vec<String> = arguments.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        let told = fill(self.requests.pick(chance, name, "says", language), &slots, language);
        ToolTalk {
            tools: self.toolbox.offer(chance, Some(name), None),
            asked,
            outcome: Outcome::Call {
                name: name.to_owned(),
                arguments: format!("{{{}}}", arguments.join(", ")),
                result,
                told,
            },
        }
    }

    fn no_tool(&self, language: Language) -> String {
        self.requests.list("none", "says", language)[0].clone()
    }

    /// Slots of the phrases; the call's arguments as JSON; what the tool says.
    #[expect(clippy::type_complexity, reason = "three lists that are used once")]
    fn request(
        &self,
        chance: &mut Chance,
        tool: &str,
        language: Language,
    ) -> (Vec<(&'static str, String)>, Vec<(&'static str, String)>, String) {
        let text = |value: &str| Value::from(value).to_string();
        let clock = |chance: &mut Chance| format!("{:02}:{:02}", chance.below(24), chance.below(60));
        let book = self.book(language);
        match tool {
            "get_weather" => {
                let (city, sky) =
                    (self.town(chance, language), self.words.pick(chance, "sky", "", language).to_owned());
                let t = (chance.between(0, 50) as i64 - 8).to_string();
                let result = format!("{{\"condition\": {}, \"temperature\": {t}}}", text(&sky));
                (vec![("city", city.clone()), ("sky", sky), ("t", t)], vec![("city", text(&city))], result)
            }
            "get_time" => {
                let (city, time) = (self.town(chance, language), clock(chance));
                let result = format!("{{\"time\": \"{time}\"}}");
                (vec![("city", city.clone()), ("time", time)], vec![("city", text(&city))], result)
            }
            "convert_currency" | "convert_units" => {
                let money = tool == "convert_currency";
                let list = self.words.list(if money { "currency" } else { "unit" }, "", language);
                let two = chance.sample(list, 2);
                let mut amount = self.number(chance);
                if chance.of(0.2) {
                    amount = format!("{amount}.{}", chance.between(1, 9));
                }
                let result = self.number(chance);
                let told = format!("{{\"result\": {result}}}");
                let first = if money { "amount" } else { "value" };
                let arguments = vec![(first, amount.clone()), ("from", text(&two[0])), ("to", text(&two[1]))];
                let outcome = if money { "value" } else { "result" };
                let slots = vec![(first, amount), ("from", two[0].clone()), ("to", two[1].clone()), (outcome, result)];
                (slots, arguments, told)
            }
            "calculate" => {
                let mut expression =
                    format!("{} {} {}", self.number(chance), chance.pick(&["+", "-", "*", "/"]), self.number(chance));
                if chance.of(0.2) {
                    expression = format!("({expression}) {} {}", chance.pick(&["+", "-", "*"]), chance.between(2, 99));
                }
                if chance.of(0.2) {
                    expression = expression.replace(' ', "");
                }
                let result = self.number(chance);
                let told = format!("{{\"result\": {result}}}");
                (
                    vec![("expression", expression.clone()), ("result", result)],
                    vec![("expression", text(&expression))],
                    told,
                )
            }
            "set_reminder" => {
                let doing =
                    if chance.of(0.75) { self.value(chance, "action", language) } else { book.fragment(chance, 2, 5) };
                let time = self.time(chance, language);
                let arguments = vec![("text", text(&doing)), ("time", text(&time))];
                (vec![("text", doing), ("time", time)], arguments, "{\"status\": \"set\"}".to_owned())
            }
            "send_message" => {
                let (to, said) = (self.person(chance, language), book.fragment(chance, 2, 12));
                let arguments = vec![("recipient", text(&to)), ("text", text(&said))];
                (vec![("recipient", to), ("text", said)], arguments, "{\"status\": \"sent\"}".to_owned())
            }
            "search_documents" => {
                let query = match chance.below(4) {
                    0 => self.words.pick(chance, "topic", "", language).to_owned(),
                    1 => self.value(chance, "goods", language),
                    2 => self.made_up(chance, language),
                    _ => book.fragment(chance, 1, 4),
                };
                let found = book.sentence(chance).to_owned();
                let result = format!("{{\"documents\": [{}]}}", text(&found));
                (vec![("query", query.clone()), ("found", found)], vec![("query", text(&query))], result)
            }
            "translate" => {
                let (said, into) =
                    (book.fragment(chance, 1, 8), self.words.pick(chance, "tongue", "", language).to_owned());
                let result = book.fragment(chance, 1, 8);
                let arguments = vec![("text", text(&said)), ("language", text(&into))];
                let told = format!("{{\"translation\": {}}}", text(&result));
                (vec![("text", said), ("language", into), ("result", result)], arguments, told)
            }
            "get_prayer_times" => {
                let city = self.town(chance, language);
                let times = [clock(chance), clock(chance), clock(chance)];
                let result = format!(
                    "{{\"fajr\": \"{}\", \"dhuhr\": \"{}\", \"maghrib\": \"{}\"}}",
                    times[0], times[1], times[2]
                );
                let [fajr, dhuhr, maghrib] = times;
                let slots = vec![("city", city.clone()), ("fajr", fajr), ("dhuhr", dhuhr), ("maghrib", maghrib)];
                (slots, vec![("city", text(&city))], result)
            }
            "list_models" => {
                let count = chance.between(1, 3);
                let mut models: Vec<String> = (0..count)
                    .map(|_| format!("{}-{}", self.made_up(chance, Language::En).to_lowercase(), chance.between(1, 70)))
                    .collect();
                models.insert(0, "falaj-seed".to_owned());
                let result = format!("{{\"models\": {}}}", Value::from(models.clone()).to_string().replace(",", ", "));
                (vec![("models", models.join(language.comma()))], Vec::new(), result)
            }
            _ => {
                let digits: String = (0..chance.between(3, 8)).map(|_| *chance.pick(&HEX)).map(char::from).collect();
                let job = match chance.below(4) {
                    0 => format!("job-{digits}"),
                    1 => format!("ft-{digits}"),
                    2 => self.code(chance),
                    _ => digits,
                };
                let status = self.words.pick(chance, "status", "", language).to_owned();
                let result = format!("{{\"status\": {}}}", text(&status));
                (vec![("job_id", job.clone()), ("status", status)], vec![("job_id", text(&job))], result)
            }
        }
    }
}

const HEX: [u8; 16] = *b"0123456789abcdef";
