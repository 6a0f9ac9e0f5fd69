//! Tools that a model may call: how it is told of them, and how its calls are found in what it says.
//!
//! A chat template that knows tools is given them. Other models are told in a system turn, in the words
//! of the Hermes function-calling format, which Qwen's and other templates use too:
//! <https://github.com/NousResearch/Hermes-Function-Calling>. Calls are read in that format, in Mistral's
//! (`[TOOL_CALLS] [{…}]`), and as bare JSON objects as Llama 3 writes them. Where a call is required, the
//! text is held to its schema, so that it can't be anything else.

use dormouse_engine::Model;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Failure;
use crate::prediction::new_id;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const MISTRAL: &str = "[TOOL_CALLS]";
/// The most tools of a request.
const TOOLS_MAX: usize = 128;

/// What may be called.
#[derive(Debug, Clone)]
pub(in crate::http) struct Tools {
    list: Vec<Function>,
    choice: Choice,
}

#[derive(Debug, Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: String,
    function: Option<Function>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    description: String,
    /// JSON Schema of the arguments; none takes none.
    #[serde(default = "no_parameters")]
    parameters: Value,
}

/// What the model must do with tools.
#[derive(Debug, Clone, PartialEq)]
enum Choice {
    Auto,
    /// Call one, whichever.
    Required,
}

/// `tool_choice`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(in crate::http) enum ToolChoice {
    Mode(String),
    Function { function: Named },
}

#[derive(Debug, Deserialize)]
pub(in crate::http) struct Named {
    name: String,
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::http) struct Call {
    id: String,
    r#type: &'static str,
    pub(in crate::http) function: Called,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::http) struct Called {
    pub(in crate::http) name: String,
    /// A JSON object, as text.
    pub(in crate::http) arguments: String,
}

/// Parts the calls from the rest of a text as it comes: what may become a call is held back.
#[derive(Debug, Clone)]
pub(in crate::http) struct Sieve {
    tools: Option<Tools>,
    held: String,
    /// Whether any text was let go.
    has_flowed: bool,
}

impl Sieve {
    pub(in crate::http) fn new(tools: Option<Tools>) -> Self {
        Self { tools, held: String::new(), has_flowed: false }
    }

    /// What of the text so far may be told now.
    pub(in crate::http) fn flow(&mut self, text: String) -> String {
        let Some(tools) = &self.tools else { return text };
        self.held.push_str(&text);
        let plain = tools.plain(&self.held, !self.has_flowed);
        self.has_flowed |= plain > 0;
        self.held.drain(..plain).collect()
    }

    /// A text that came whole, as text and calls.
    pub(in crate::http) fn part(&self, text: String) -> (String, Vec<Call>) {
        match &self.tools {
            Some(tools) => tools.parse(&text, true),
            None => (text, Vec::new()),
        }
    }

    /// What was held back at the end, as text and calls.
    pub(in crate::http) fn end(&mut self) -> (String, Vec<Call>) {
        let held = std::mem::take(&mut self.held);
        match &self.tools {
            Some(tools) => tools.parse(&held, !self.has_flowed),
            None => (held, Vec::new()),
        }
    }
}

fn no_parameters() -> Value {
    json!({"type": "object", "properties": {}})
}

impl Tools {
    /// The tools of a request; `None` when it has none or may call none.
    pub(in crate::http) fn new(tools: &[Value], choice: Option<ToolChoice>) -> Result<Option<Self>, Failure> {
        if tools.len() > TOOLS_MAX {
            let message = format!("{} are more than {TOOLS_MAX}", tools.len());
            return Err(Failure::invalid("tools", message));
        }
        let parse = |(at, tool): (usize, &Value)| {
            let invalid = |message: String| Failure::invalid(format!("tools[{at}]"), message);
            let tool = Tool::deserialize(tool).map_err(|error| invalid(error.to_string()))?;
            match (&*tool.kind, tool.function) {
                ("function", Some(function)) => Ok(function),
                (kind, _) => Err(invalid(format!("is of type \"{kind}\"; only functions can be called"))),
            }
        };
        let mut list = tools.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        let choice = match choice {
            None => Choice::Auto,
            Some(ToolChoice::Mode(mode)) => match &*mode {
                "none" => return Ok(None),
                "auto" => Choice::Auto,
                "required" => Choice::Required,
                other => {
                    let message = format!("\"{other}\" is not none, auto, required or a function");
                    return Err(Failure::invalid("tool_choice", message));
                }
            },
            Some(ToolChoice::Function { function: Named { name } }) => {
                list.retain(|tool| tool.name == name);
                if list.is_empty() {
                    return Err(Failure::invalid("tool_choice", format!("no tool is named \"{name}\"")));
                }
                Choice::Required
            }
        };
        Ok((!list.is_empty()).then_some(Self { list, choice }))
    }

    /// The schema that the text must match where a call is required.
    pub(in crate::http) fn schema(&self) -> Option<String> {
        let call = |tool: &Function| {
            json!({
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
                "required": ["name", "arguments"],
                "additionalProperties": false,
            })
        };
        let calls: Vec<Value> = self.list.iter().map(call).collect();
        (self.choice == Choice::Required).then(|| json!({"anyOf": calls}).to_string())
    }

    /// The chat as the model reads it. `turns` are objects as OpenAI has them, contents as text.
    pub(in crate::http) fn render(&self, model: &Model, mut turns: Vec<Value>) -> Result<String, Failure> {
        turns.iter_mut().for_each(parse_arguments);
        let tools: Vec<Value> =
            self.list.iter().map(|function| json!({"type": "function", "function": function})).collect();
        if model.template_takes_tools() {
            return Ok(model.render_with_tools(&turns, &tools)?);
        }
        turns.iter_mut().for_each(spell_out);
        let mut words = format!(
            "You may call functions. They are, as JSON Schema:\n<tools>\n{}\n</tools>\nTo call one, answer with\n\
             {OPEN}\n{{\"name\": the function's name, \"arguments\": an object}}\n{CLOSE}",
            tools.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"),
        );
        match turns.first_mut() {
            Some(first) if first["role"] == "system" => {
                words = format!("{}\n\n{words}", first["content"].as_str().unwrap_or_default());
                first["content"] = json!(words);
            }
            _ => turns.insert(0, json!({"role": "system", "content": words})),
        }
        Ok(model.render_with_tools(&turns, &[])?)
    }

    /// Bytes at the front of an unfinished text that can't be part of a call; `is_start` when nothing
    /// was said before it.
    pub(super) fn plain(&self, text: &str, is_start: bool) -> usize {
        let start = text.trim_start();
        let may_be_bare = start.starts_with(['{', '[']) || start.is_empty();
        if is_start && (may_be_bare || self.choice == Choice::Required) {
            return 0;
        }
        text.find(OPEN).unwrap_or_else(|| {
            // What may become the mark is held back.
            let held = (1..OPEN.len()).rev().find(|len| text.ends_with(&OPEN[..*len]));
            text.len() - held.unwrap_or(0)
        })
    }

    /// A text to its end, as what was said beside the calls, and the calls; `is_start` as for
    /// [`Tools::plain`].
    pub(super) fn parse(&self, text: &str, is_start: bool) -> (String, Vec<Call>) {
        if let Some(calls) = self.bare(text).filter(|_| is_start) {
            return (String::new(), calls);
        }
        let (mut said, mut calls, mut rest) = (String::new(), Vec::new(), text);
        while let Some((before, after)) = rest.split_once(OPEN) {
            let (inside, after) = after.split_once(CLOSE).unwrap_or((after, ""));
            let found = serde_json::from_str(inside).ok().and_then(|json| self.call(&json));
            match found {
                Some(call) => {
                    said.push_str(before);
                    calls.push(call);
                }
                // Not a call after all: it is text.
                None => said.push_str(&rest[..rest.len() - after.len()]),
            }
            rest = after;
        }
        said.push_str(rest);
        if !calls.is_empty() {
            said.truncate(said.trim_end().len());
        }
        (said, calls)
    }

    /// The calls of a text that is nothing but JSON.
    fn bare(&self, text: &str) -> Option<Vec<Call>> {
        let text = text.trim();
        let json: Value = serde_json::from_str(text.strip_prefix(MISTRAL).unwrap_or(text)).ok()?;
        match json {
            Value::Array(all) if !all.is_empty() => all.iter().map(|json| self.call(json)).collect(),
            json => Some(vec![self.call(&json)?]),
        }
    }

    fn call(&self, json: &Value) -> Option<Call> {
        let name = json.get("name")?.as_str()?;
        let arguments = json.get("arguments").or_else(|| json.get("parameters"))?;
        let is_known = self.list.iter().any(|tool| tool.name == name);
        (is_known && arguments.is_object()).then(|| Call {
            id: format!("call_{}", new_id()),
            r#type: "function",
            function: Called { name: name.to_owned(), arguments: arguments.to_string() },
        })
    }
}

/// Templates want a call's arguments as an object; OpenAI's clients send them as text.
fn parse_arguments(turn: &mut Value) {
    let calls = turn.get_mut("tool_calls").and_then(Value::as_array_mut);
    for arguments in calls.into_iter().flatten().filter_map(|call| call.pointer_mut("/function/arguments")) {
        let parsed = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
        if let Some(parsed) = parsed {
            *arguments = parsed;
        }
    }
}

/// Writes calls and their results as text, for templates that don't know them.
fn spell_out(turn: &mut Value) {
    if let Some(Value::Array(calls)) = turn.get_mut("tool_calls").map(Value::take) {
        let mut content = turn["content"].as_str().unwrap_or_default().to_owned();
        for call in &calls {
            content.push_str(&format!("{OPEN}\n{}\n{CLOSE}", call["function"]));
        }
        *turn = json!({"role": turn["role"], "content": content});
    } else if turn["role"] == "tool" {
        let result = turn["content"].as_str().unwrap_or_default();
        *turn = json!({"role": "user", "content": format!("<tool_response>\n{result}\n</tool_response>")});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(choice: Option<Value>) -> Result<Option<Tools>, Failure> {
        let tool =
            |name| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
        let choice = choice.map(|choice| serde_json::from_value(choice).unwrap());
        Tools::new(&[tool("add"), tool("sub")], choice)
    }

    fn auto() -> Tools {
        tools(None).unwrap().unwrap()
    }

    #[track_caller]
    fn check(text: &str, said: &str, calls: &[(&str, &str)]) {
        let (found_said, found) = auto().parse(text, true);
        assert_eq!(found_said, said);
        let found: Vec<_> =
            found.iter().map(|call| (&*call.function.name, &*call.function.arguments)).collect();
        assert_eq!(found, calls);
    }

    #[test]
    fn calls_are_found_in_each_of_the_formats() {
        let call = r#"{"name": "add", "arguments": {"a": 1}}"#;
        check(&format!("{OPEN}\n{call}\n{CLOSE}"), "", &[("add", r#"{"a":1}"#)]);
        check(&format!("I add.\n{OPEN}{call}{CLOSE}{OPEN}{call}"), "I add.", &[("add", r#"{"a":1}"#); 2]);
        check(r#" {"name": "sub", "parameters": {}} "#, "", &[("sub", "{}")]);
        check(&format!("{MISTRAL}[{call}]"), "", &[("add", r#"{"a":1}"#)]);
    }

    #[test]
    fn what_is_no_call_of_a_known_tool_is_text() {
        for text in [
            "plain",
            r#"{"name": "mul", "arguments": {}}"#,
            r#"{"name": "add"}"#,
            "[]",
            "<tool_call>{broken</tool_call> and more",
            r#"<tool_call>{"name": "mul", "arguments": {}}</tool_call>"#,
        ] {
            check(text, text, &[]);
        }
    }

    #[test]
    fn text_flows_until_it_may_be_a_call() {
        let plain = |text: &str| auto().plain(text, true);
        assert_eq!(plain("a < b"), 5);
        assert_eq!(plain("a <tool"), 2);
        assert_eq!(plain("a <tool_call>{"), 2);
        for held in ["", "{\"na", "[TOOL", "[TOOL_CALLS] [{", "<tool_c"] {
            assert_eq!(plain(held), 0, "{held}");
        }
        assert_eq!(auto().plain("{\"a\"", false), 4);
        assert_eq!(auto().parse(r#"{"name": "sub", "arguments": {}}"#, false).1, []);
    }

    #[test]
    fn a_sieve_lets_text_go_and_keeps_calls() {
        let mut sieve = Sieve::new(Some(auto()));
        let flowed: Vec<_> =
            ["I ", "add <tool", "_call>{\"name\""].map(|text| sieve.flow(text.to_owned())).into();
        assert_eq!(flowed, ["I ", "add ", ""]);
        sieve.flow(r#": "add", "arguments": {}}</tool_call>"#.to_owned());
        let (text, calls) = sieve.end();
        assert_eq!((&*text, &*calls[0].function.name), ("", "add"));
        let mut none = Sieve::new(None);
        assert_eq!((none.flow("{".to_owned()), none.end()), ("{".to_owned(), (String::new(), Vec::new())));
    }

    #[test]
    fn a_required_call_is_a_schema() {
        assert_eq!(auto().schema(), None);
        let required = tools(Some(json!("required"))).unwrap().unwrap();
        let schema: Value = serde_json::from_str(&required.schema().unwrap()).unwrap();
        assert_eq!(schema["anyOf"][1]["properties"]["name"], json!({"const": "sub"}));
        let named = json!({"type": "function", "function": {"name": "sub"}});
        let named = tools(Some(named)).unwrap().unwrap();
        assert_eq!((named.list.len(), &*named.list[0].name), (1, "sub"));
        assert!(tools(Some(json!("none"))).unwrap().is_none());
        tools(Some(json!("perhaps"))).unwrap_err();
        tools(Some(json!({"type": "function", "function": {"name": "mul"}}))).unwrap_err();
        Tools::new(&[json!({"type": "web_search"})], None).unwrap_err();
    }
}
