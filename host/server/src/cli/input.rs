//! A prediction's input from what was typed: key=value pairs, a JSON object, or standard input.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Error, files};

/// Bytes of input read from a file or from standard input.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// The input object. `schema` is the function's input schema; it says what a value's text means.
pub(super) fn read(words: &[String], schema: &Value) -> Result<Value, Error> {
    match words {
        [word] if word == "-" => object(&text_of("standard input", std::io::stdin())?, "standard input"),
        [word] if word.starts_with('@') => object(&file(&word[1..])?, &word[1..]),
        [word] if word.trim_start().starts_with('{') => object(word, "the input"),
        words => {
            let mut input = Map::new();
            for word in words {
                let (key, text) = pair(word)?;
                input.insert(key.to_owned(), value(key, text, &schema["properties"][key])?);
            }
            Ok(Value::Object(input))
        }
    }
}

fn object(text: &str, origin: &str) -> Result<Value, Error> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Error::Usage(format!("{origin} is JSON, but no object: want {{\"key\": value, ...}}"))),
        Err(error) => Err(Error::Usage(format!("{origin} is no JSON object: {error}"))),
    }
}

fn pair(word: &str) -> Result<(&str, &str), Error> {
    match word.split_once('=') {
        Some((key, text)) if !key.is_empty() => Ok((key, text)),
        _ => Err(Error::Usage(format!(
            "\"{word}\" is no input: write key=value, a JSON object, or - for standard input"
        ))),
    }
}

/// What `key=text` means: `@FILE` is the file's text, or all of it where the input is a file (`@@` is a
/// plain `@`); the rest goes by type.
fn value(key: &str, text: &str, schema: &Value) -> Result<Value, Error> {
    let is_file = schema["format"] == "uri";
    let text = match text.strip_prefix('@') {
        Some(path) if is_file && !path.starts_with('@') => {
            let path = Path::new(path);
            return Ok(files::to_url(path, &bytes_of(path)?).into());
        }
        Some(rest) if rest.starts_with('@') => rest.to_owned(),
        Some(path) => file(path)?,
        None => text.to_owned(),
    };
    let types = types(schema);
    let takes = |name: &str| types.iter().any(|kind| kind == name);
    let json = serde_json::from_str::<Value>(&text).ok();
    let fits = |value: &Value| match value {
        Value::Null => takes("null"),
        Value::Bool(_) => takes("boolean"),
        Value::Number(number) => takes("number") || (takes("integer") && !number.is_f64()),
        Value::String(_) => false,
        Value::Array(_) => takes("array"),
        Value::Object(_) => takes("object"),
    };
    match json {
        Some(json) if fits(&json) => Ok(json),
        // Nothing says what the value is: what reads as JSON is JSON.
        Some(json) if types.is_empty() => Ok(json),
        _ if takes("string") || types.is_empty() => Ok(Value::String(text)),
        _ => Err(Error::Usage(format!("{key} wants {}, got \"{text}\"", types.join(" or ")))),
    }
}

/// The JSON types that a schema allows, through `anyOf`, `oneOf` and `enum`; none if it doesn't say.
fn types(schema: &Value) -> Vec<String> {
    if let Some(name) = schema["type"].as_str() {
        return vec![name.to_owned()];
    }
    if let Some(names) = schema["type"].as_array() {
        return names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    }
    let any = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    if let Some(any) = any {
        return any.iter().flat_map(types).collect();
    }
    let choices = schema["enum"].as_array().into_iter().flatten();
    let mut types: Vec<_> = choices.map(|choice| type_of(choice).to_owned()).collect();
    types.sort();
    types.dedup();
    types
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn file(path: &str) -> Result<String, Error> {
    let file = fs::File::open(path).map_err(|error| Error::File { path: path.to_owned(), error })?;
    text_of(path, file)
}

/// A file's content, as far as an input may be long.
fn bytes_of(path: &Path) -> Result<Vec<u8>, Error> {
    let name = path.display().to_string();
    let mut content = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(INPUT_BYTES_MAX + 1).read_to_end(&mut content));
    match read {
        Ok(read) if read as u64 > INPUT_BYTES_MAX => {
            Err(Error::Usage(format!("{name} has more than {INPUT_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(content),
        Err(error) => Err(Error::File { path: name, error }),
    }
}

fn text_of(name: &str, from: impl Read) -> Result<String, Error> {
    let mut text = String::new();
    let read = from.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Error::File { path: name.to_owned(), error })?;
    if read as u64 > INPUT_BYTES_MAX {
        return Err(Error::Usage(format!("{name} has more than {INPUT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"properties": {
            "text": {"type": "string"}, "n": {"type": "integer"}, "x": {"type": "number"},
            "on": {"type": "boolean"}, "list": {"type": "array"}, "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "size": {"enum": [256, 512]}, "both": {"type": ["string", "null"]},
        }})
    }

    #[track_caller]
    fn check(words: &[&str], expected: Value) {
        let words: Vec<_> = words.iter().map(|word| word.to_string()).collect();
        assert_eq!(read(&words, &schema()).unwrap(), expected);
    }

    #[track_caller]
    fn refused(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.to_string()).collect();
        read(&words, &schema()).unwrap_err().to_string()
    }

    #[test]
    fn values_have_the_type_that_the_schema_says() {
        check(&["text=12", "n=12", "x=1.5", "on=true"], json!({"text": "12", "n": 12, "x": 1.5, "on": true}));
        check(&["list=[1,2]", "maybe=null", "size=512"], json!({"list": [1, 2], "maybe": null, "size": 512}));
        check(&["both=null", "text=null"], json!({"both": null, "text": "null"}));
        check(&["text=a=b", "text=last"], json!({"text": "last"}));
        check(&[], json!({}));
    }

    #[test]
    fn values_of_unknown_keys_are_json_where_they_read_as_json() {
        check(&["other=3", "another=three"], json!({"other": 3, "another": "three"}));
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_key_and_type() {
        assert_eq!(refused(&["n=1.5"]), "n wants integer, got \"1.5\"");
        assert_eq!(refused(&["on=yes"]), "on wants boolean, got \"yes\"");
        assert!(refused(&["hello"]).contains("key=value"));
        assert!(refused(&["[1]"]).contains("key=value"));
        assert!(refused(&["{"]).contains("no JSON object"));
    }

    #[test]
    fn at_reads_a_file_and_two_ats_are_one() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"{\"text\": \"from file\"}").unwrap();
        let path = file.path().display();
        check(&[&format!("text=@{path}")], json!({"text": "{\"text\": \"from file\"}"}));
        check(&[&format!("@{path}")], json!({"text": "from file"}));
        check(&["text=@@home"], json!({"text": "@home"}));
        assert!(refused(&["text=@/no/such/file"]).contains("/no/such/file"));
    }
}
