//! Beginnings of prompts that a function declares, so that they are computed before anybody asks.

use dormouse_engine::Message;
use serde::{Deserialize, Serialize};

use crate::config::Deploy;

/// A prompt's beginning: a text, or the first turns of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prefix {
    pub(crate) model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) messages: Vec<Turn>,
}

/// A turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) content: String,
}

impl Prefix {
    /// What is wrong with it, whatever its model says.
    fn problem(&self, bounds: &Deploy) -> Option<String> {
        let (bytes, max) = (self.bytes(), bounds.prefix_bytes_max);
        if self.model.trim().is_empty() {
            return Some("names no model".to_owned());
        }
        match (&self.text, &*self.messages) {
            (Some(_), [_, ..]) => Some("has both \"text\" and \"messages\"".to_owned()),
            (None, []) => Some("has neither \"text\" nor \"messages\"".to_owned()),
            _ if bytes > max => {
                Some(format!("has {bytes} bytes, this node takes {max} (deploy.prefix_bytes_max)"))
            }
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        let turns = self.messages.iter().map(|turn| turn.role.len() + turn.content.len());
        self.text.as_ref().map_or(0, String::len) + turns.sum::<usize>()
    }

    pub(crate) fn to_engine(&self) -> dormouse_engine::Prefix {
        match &self.text {
            Some(text) => dormouse_engine::Prefix::Text(text.clone()),
            None => {
                let turns = self.messages.iter();
                let messages =
                    turns.map(|turn| Message { role: turn.role.clone(), content: turn.content.clone() });
                dormouse_engine::Prefix::Messages(messages.collect())
            }
        }
    }
}

/// What is wrong with some prefixes, each by its number and model.
pub(crate) fn problems(prefixes: &[Prefix], bounds: &Deploy) -> Vec<String> {
    let numbered = (1..).zip(prefixes);
    let problem = |(number, prefix): (usize, &Prefix)| {
        Some(format!("prefix {number} of model \"{}\" {}", prefix.model, prefix.problem(bounds)?))
    };
    numbered.filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(prefixes: Value, expected: &[&str]) {
        let bounds = Deploy { prefix_bytes_max: 10, ..Deploy::default() };
        let prefixes: Vec<Prefix> = serde_json::from_value(prefixes).unwrap();
        assert_eq!(problems(&prefixes, &bounds), expected);
    }

    #[test]
    fn a_prefix_is_a_text_or_a_chat_of_a_model() {
        let turn = json!({"role": "user", "content": "123456"});
        check(json!([{"model": "m", "text": "1234567890"}, {"model": "m", "messages": [turn]}]), &[]);
        check(
            json!([{"model": "m"}, {"model": "n", "text": "a"}, {"model": "o", "text": "a", "messages": [turn]}]),
            &[
                "prefix 1 of model \"m\" has neither \"text\" nor \"messages\"",
                "prefix 3 of model \"o\" has both \"text\" and \"messages\"",
            ],
        );
        check(json!([{"model": " ", "text": "a"}]), &["prefix 1 of model \" \" names no model"]);
    }

    #[test]
    fn a_prefix_beyond_the_bound_is_told_with_both_numbers() {
        let turn = json!({"role": "user", "content": "1234567"});
        let told = "has 11 bytes, this node takes 10 (deploy.prefix_bytes_max)";
        check(
            json!([{"model": "m", "text": "12345678901"}, {"model": "m", "messages": [turn]}]),
            &[1, 2].map(|number| format!("prefix {number} of model \"m\" {told}")).each_ref().map(|s| &**s),
        );
    }
}
