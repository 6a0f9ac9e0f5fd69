//! What the dialect's requests have in common: names, options, formats, times.

use std::time::Duration;

use dormouse_engine::{KeepAlive, Open, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{super::prefer, Refusal};

/// What `-1` and the like come to: longer than any node runs.
pub(super) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a request names, how it wants to be answered, and how tokens are drawn.
#[derive(Debug, Deserialize)]
pub(super) struct Common {
    #[serde(alias = "name")]
    pub(super) model: String,
    /// Answers come as they are made unless it says no.
    #[serde(default = "yes")]
    pub(super) stream: bool,
    keep_alive: Option<Value>,
    #[serde(default)]
    options: Options,
    format: Option<Value>,
    think: Option<Value>,
    logprobs: Option<bool>,
}

fn yes() -> bool {
    true
}

/// What is drawn and when it ends. Options that only concern how a model is run are let through.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    num_predict: Option<i64>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repeat_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<Stop>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    mirostat: Option<i64>,
    guess_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Common {
    /// Refuses what can't be honoured.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let nonzero = |value: Option<f32>| value.is_some_and(|value| value != 0.0);
        let wants_thought = match &self.think {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(_) => true,
        };
        let refused = [
            ("presence_penalty", nonzero(self.options.presence_penalty)),
            ("frequency_penalty", nonzero(self.options.frequency_penalty)),
            ("mirostat", self.options.mirostat.is_some_and(|mode| mode != 0)),
            ("think", wants_thought),
            ("logprobs", self.logprobs == Some(true)),
        ];
        match refused.into_iter().find(|(_, is_asked)| *is_asked) {
            Some((field, _)) => Err(Refusal::unsupported(field)),
            None => Ok(()),
        }
    }

    /// How long the model is to stay awake afterwards.
    pub(super) fn keep_alive(&self) -> Result<Option<KeepAlive>, Refusal> {
        match &self.keep_alive {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match keep_alive(value) {
                Some(time) => Ok(Some(KeepAlive::Exactly(time))),
                None => Err(Refusal::new(format!("keep_alive is {value}, not a time such as \"5m\" or 300"))),
            },
        }
    }

    pub(super) fn open(&self) -> Result<Open, Refusal> {
        Ok(Open { keep_alive: self.keep_alive()?, ..Open::default() })
    }

    /// With Ollama's defaults.
    pub(super) fn sampling(&self) -> Sampling {
        let options = &self.options;
        Sampling {
            temperature: options.temperature.unwrap_or(0.8),
            top_p: options.top_p.unwrap_or(0.9).clamp(f32::MIN_POSITIVE, 1.0),
            top_k: options.top_k.unwrap_or(40),
            min_p: options.min_p.unwrap_or(0.0),
            repeat_penalty: options.repeat_penalty.unwrap_or(1.1),
            seed: options.seed.filter(|seed| *seed >= 0).map(i64::cast_unsigned),
        }
    }

    pub(super) fn stops(&self) -> Vec<String> {
        match &self.options.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop.clone()],
            Some(Stop::Many(stops)) => stops.clone(),
        }
    }

    /// The bound on an answer's tokens, if it has one.
    pub(super) fn max_tokens(&self) -> Option<usize> {
        self.options.num_predict.and_then(|tokens| usize::try_from(tokens).ok()).filter(|tokens| *tokens > 0)
    }

    /// Tokens that a step may guess from what the text repeats.
    pub(super) fn guess_tokens(&self) -> Option<usize> {
        self.options.guess_tokens
    }

    /// The JSON Schema that the answer must match.
    pub(super) fn schema(&self) -> Result<Option<String>, Refusal> {
        match &self.format {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(format)) if format.is_empty() => Ok(None),
            Some(Value::String(format)) if format == "json" => {
                Ok(Some(json!({"type": "object"}).to_string()))
            }
            Some(schema @ Value::Object(_)) => Ok(Some(schema.to_string())),
            Some(other) => Err(Refusal::new(format!("format is {other}, not \"json\" or a JSON schema"))),
        }
    }

    /// The options by OpenAI's names, for a function that declares them.
    pub(super) fn fields(&self) -> Result<Map<String, Value>, Refusal> {
        let options = &self.options;
        let format = self.schema()?.map(|schema| {
            let schema: Value = serde_json::from_str(&schema).expect("it was JSON before");
            json!({"type": "json_schema", "json_schema": {"name": "format", "schema": schema}})
        });
        let stops = self.stops();
        let fields = [
            ("temperature", json!(options.temperature)),
            ("top_p", json!(options.top_p)),
            ("top_k", json!(options.top_k)),
            ("min_p", json!(options.min_p)),
            ("repeat_penalty", json!(options.repeat_penalty)),
            ("seed", json!(options.seed)),
            ("stop", if stops.is_empty() { Value::Null } else { json!(stops) }),
            ("guess_tokens", json!(options.guess_tokens)),
            ("max_tokens", json!(self.max_tokens())),
            ("response_format", json!(format)),
        ];
        let given = fields.into_iter().filter(|(_, value)| !value.is_null());
        Ok(given.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// How long a model stays awake; below zero is for ever.
fn keep_alive(value: &Value) -> Option<Duration> {
    match prefer::keep_alive(value)? {
        KeepAlive::Exactly(time) => Some(time.min(FOR_EVER)),
        KeepAlive::AtLeast(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(fields: Value) -> Common {
        let mut value = json!({"model": "m"});
        value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_time_to_stay_awake_is_seconds_or_gos() {
        let time = |value| keep_alive(&value);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(time(json!(0)), seconds(0));
        assert_eq!(time(json!(300)), seconds(300));
        assert_eq!(time(json!("300")), seconds(300));
        assert_eq!(time(json!("1h30m")), seconds(5400));
        assert_eq!(time(json!("1.5s")), Some(Duration::from_millis(1500)));
        assert_eq!(time(json!(-1)), Some(FOR_EVER));
        assert_eq!(time(json!("-1m")), Some(FOR_EVER));
        assert_eq!(time(json!("1e300")), None);
        for wrong in [json!("soon"), json!("5x"), json!("m"), json!(""), json!("5"[..0]), json!([])] {
            assert_eq!(time(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn options_have_ollamas_defaults_and_a_function_is_told_what_was_said() {
        let sampling = common(json!({})).sampling();
        assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (0.8, 40, None));
        let said = common(json!({
            "options": {"seed": 7, "num_predict": 5, "stop": "x", "num_ctx": 2048}, "format": "json",
        }));
        assert_eq!(
            (said.sampling().seed, said.max_tokens(), said.stops()),
            (Some(7), Some(5), vec!["x".to_owned()])
        );
        let fields = said.fields().unwrap();
        let expected = ["seed", "stop", "max_tokens", "response_format"];
        assert_eq!(fields.keys().collect::<Vec<_>>(), expected);
        assert_eq!(common(json!({"options": {"num_predict": -1}})).max_tokens(), None);
    }

    #[test]
    fn what_would_change_the_answer_is_refused() {
        for field in [
            json!({"think": true}),
            json!({"logprobs": true}),
            json!({"options": {"mirostat": 2}}),
            json!({"options": {"presence_penalty": 0.5}}),
        ] {
            common(field).check().unwrap_err();
        }
        common(json!({"think": false, "options": {"presence_penalty": 0}})).check().unwrap();
        common(json!({"format": 5})).schema().unwrap_err();
    }
}
