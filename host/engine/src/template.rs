//! Chat templates: a chat as the text that the model was trained on.
//!
//! Templates are Jinja programs in the model's file, written for Hugging Face's `transformers`. They
//! run here with the same settings and the same extra functions, and with a budget that bounds
//! both their time and their memory.

use std::time::SystemTime;

use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use time::{OffsetDateTime, format_description::parse_strftime_owned};

use crate::{Error, gguf::Gguf, tokenizer::Tokenizer};

const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// The most bytes of a template; the longest known have 20 KiB.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// Budget of one rendering in minijinja's fuel: instructions, and 64 bytes of created text each.
/// A chat takes about 50 a message and its text's length twice.
const FUEL_MAX: u64 = 4_000_000;

/// The name under which errors mention the template, with the line.
const NAME: &str = "chat_template";

/// A model's chat template.
#[derive(Debug)]
pub(crate) struct ChatTemplate {
    /// Holds the template as [`NAME`]; or why it doesn't parse, so that such a model still completes
    /// raw text.
    environment: Result<Environment<'static>, String>,
    bos_token: Value,
    eos_token: Value,
}

impl ChatTemplate {
    /// The template of a file, `None` if it has none.
    pub(crate) fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, Error> {
        let Some(source) = gguf.metadata().get::<&str>(TEMPLATE_KEY)? else { return Ok(None) };
        if source.len() > TEMPLATE_BYTES_MAX {
            let problem = format!("has {} bytes, at most {TEMPLATE_BYTES_MAX} are read", source.len());
            return Err(gguf.metadata().bad(TEMPLATE_KEY, problem));
        }
        let spelling = |token: Option<u32>| match token.and_then(|id| tokenizer.token_bytes(id)) {
            Some(bytes) => Value::from(String::from_utf8_lossy(bytes)),
            None => Value::UNDEFINED,
        };
        Ok(Some(Self {
            environment: parse(source).map_err(|e| e.to_string()),
            bos_token: spelling(tokenizer.bos()),
            eos_token: spelling(tokenizer.eos()),
        }))
    }

    /// Whether it reads the tools it is given.
    pub(crate) fn takes_tools(&self) -> bool {
        let template =
            self.environment.as_ref().ok().and_then(|environment| environment.get_template(NAME).ok());
        template.is_some_and(|template| template.undeclared_variables(false).contains("tools"))
    }

    /// The text of a chat, with the beginning of the assistant's turn if `add_generation_prompt`. The
    /// messages are objects of `role`, `content` and what else the template knows. A template that
    /// fails, or refuses the messages, is [`Error::Invalid`].
    pub(crate) fn render(
        &self,
        messages: &[impl Serialize],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let invalid =
            |problem: String| Error::Invalid(format!("the model's chat template failed: {problem}"));
        let environment = self.environment.as_ref().map_err(|e| invalid(e.clone()))?;
        // Absent, as `transformers` passes none.
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools,
            add_generation_prompt,
            bos_token => &self.bos_token,
            eos_token => &self.eos_token,
            // Present but empty, as `transformers` passes them.
            documents => (),
        };
        let template = environment.get_template(NAME).expect("the environment was made with it");
        template.render(context).map_err(|e| invalid(e.to_string()))
    }
}

/// An environment as `transformers` makes it, holding the template.
fn parse(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_fuel(Some(FUEL_MAX));
    environment.add_function("raise_exception", |message: String| -> Result<(), _> { Err(refusal(message)) });
    environment.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
    environment.add_template_owned(NAME, source.to_owned())?;
    Ok(environment)
}

/// A time in UTC, by a `strftime` format.
fn strftime(format: &str, time: SystemTime) -> Result<String, minijinja::Error> {
    let format = parse_strftime_owned(format).map_err(|e| refusal(e.to_string()))?;
    OffsetDateTime::from(time).format(&format).map_err(|e| refusal(e.to_string()))
}

fn refusal(message: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Message, gguf::writer::GgufWriter, testing::model};

    fn template(source: &str) -> ChatTemplate {
        let mut writer = GgufWriter::new();
        writer
            .str("tokenizer.ggml.model", "llama")
            .strs("tokenizer.ggml.tokens", &["<s>", "</s>"])
            .f32s("tokenizer.ggml.scores", &[0.0, 0.0])
            .i32s("tokenizer.ggml.token_type", &[3, 3])
            .u32("tokenizer.ggml.bos_token_id", 0)
            .u32("tokenizer.ggml.eos_token_id", 1)
            .str(TEMPLATE_KEY, source);
        let gguf = Gguf::of_bytes(&writer.to_bytes()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        ChatTemplate::from_gguf(&gguf, &tokenizer).unwrap().unwrap()
    }

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        let message = |(role, content): &(&str, &str)| Message {
            role: (*role).to_owned(),
            content: (*content).to_owned(),
        };
        turns.iter().map(message).collect()
    }

    fn check(source: &str, turns: &[(&str, &str)], expected: &str) {
        assert_eq!(template(source).render(&chat(turns), &[], true).unwrap(), expected);
    }

    fn check_refused(source: &str, turns: &[(&str, &str)], problem: &str) {
        let error = template(source).render(&chat(turns), &[], true).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("the model's chat template failed: "), "{text}");
        assert!(text.contains(problem), "{text}");
    }

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
        message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}\
        {% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ \
        message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}\
        {% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

    /// Mistral's way: alternating roles, system text put before the last user's turn.
    const MISTRAL: &str = r#"
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user and assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\n\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'].strip() + eos_token}}
    {%- endif %}
{%- endfor %}
"#;

    /// What newer templates use: namespaces, loop controls, tests, methods and slices.
    const MODERN: &str = r#"{% set ns = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == 'tool' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% if ns.count > 2 %}
        {% break %}
    {% endif %}
{{ ns.count }}:{{ message.content.split('</think>')[-1].lstrip('\n') | upper }}
{% endfor %}
{% if tools is none and documents is none %}
{{ messages[-1].content is string }}{{ messages[::-1][0].role.startswith('u') }}
{% endif %}"#;

    #[test]
    fn smollm2_gets_its_default_system_message_and_its_turns() {
        let gguf = Gguf::open(model()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let template = ChatTemplate::from_gguf(&gguf, &tokenizer).unwrap().unwrap();
        assert_eq!(
            template.render(&chat(&[("user", "Hi")]), &[], true).unwrap(),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\
             <|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            template.render(&chat(&[("system", "Be brief."), ("user", "Hi")]), &[], false).unwrap(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        );
    }

    #[test]
    fn chatml_writes_turns_between_markers() {
        check(
            CHATML,
            &[("user", "Hi"), ("assistant", "Yes?"), ("user", "{{ 1 + 1 }}")],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n\
             <|im_start|>user\n{{ 1 + 1 }}<|im_end|>\n<|im_start|>assistant\n",
        );
    }

    #[test]
    fn llama3_begins_with_the_begin_token_and_trims() {
        check(
            LLAMA3,
            &[("system", " Be brief. "), ("user", "Hi\n")],
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
        );
    }

    #[test]
    fn mistral_moves_the_system_message_and_wants_roles_to_alternate() {
        check(
            MISTRAL,
            &[("system", "Be brief."), ("user", "Hi"), ("assistant", " Yes? "), ("user", "Bye")],
            "<s>[INST] Hi[/INST] Yes?</s>[INST] Be brief.\n\nBye[/INST]",
        );
        check_refused(MISTRAL, &[("user", "a"), ("user", "b")], "roles must alternate user and assistant");
    }

    #[test]
    fn modern_templates_find_what_python_has() {
        check(
            MODERN,
            &[("tool", "x"), ("user", "a"), ("assistant", "<think>hm</think>\n\nb"), ("user", "c")],
            "1:A\n2:B\nTrueTrue\n",
        );
    }

    #[test]
    fn text_is_not_escaped() {
        check("{{ messages[0].content }}", &[("user", "<a href=\"x\">&'</a>")], "<a href=\"x\">&'</a>");
    }

    #[test]
    fn dates_are_written_as_asked() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_722_000_000);
        assert_eq!(strftime("%d %b %Y", time).unwrap(), "26 Jul 2024");
        assert_eq!(strftime("%Y-%m-%d %H:%M", time).unwrap(), "2024-07-26 13:20");
        assert!(strftime("%!", time).is_err());
        let year = template("{{ strftime_now('%Y') }}").render(&chat(&[]), &[], true).unwrap();
        assert!(year.parse::<u32>().is_ok_and(|year| year >= 2024), "{year}");
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}";
        check_refused(endless, &[], "fuel");
    }

    #[test]
    fn a_template_that_grows_without_bound_is_stopped() {
        let doubling = "{% set ns = namespace(s='0123456789') %}{% for a in range(90) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}";
        check_refused(doubling, &[], "fuel");
        check_refused("{{ 'x' * 99999999999 }}", &[], "");
    }

    #[test]
    fn a_template_with_a_mistake_fails_when_it_is_used() {
        check_refused("{% if %}", &[("user", "Hi")], "syntax error");
        check_refused("{{ messages[0].content.nothing() }}", &[("user", "Hi")], "nothing");
        check_refused("{{ no.such }}", &[("user", "Hi")], "undefined");
    }

    #[test]
    fn a_file_without_a_template_has_none() {
        let gguf = Gguf::open(model()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let empty = Gguf::of_bytes(&GgufWriter::new().to_bytes()).unwrap();
        assert!(ChatTemplate::from_gguf(&empty, &tokenizer).unwrap().is_none());
    }

    #[test]
    fn tools_reach_a_template_that_asks_for_them() {
        let source =
            "{% if tools %}{{ tools[0].function.name }}: {% endif %}{{ messages[0].tool_calls[0].id }}";
        let turn = serde_json::json!({"role": "assistant", "content": "", "tool_calls": [{"id": "call_1"}]});
        let tool = serde_json::json!({"type": "function", "function": {"name": "add"}});
        let asking = template(source);
        assert!(asking.takes_tools());
        assert_eq!(asking.render(&[&turn], &[tool], true).unwrap(), "add: call_1");
        assert_eq!(asking.render(&[&turn], &[], true).unwrap(), "call_1");
        assert!(!template("{{ messages[0].content }}").takes_tools());
    }
}
