//! Promises JSON and answers with whatever text it was given. Below the SDK, which would not let it.

use dormouse_guest::__private::bindings::{Guest, export_predictor};

struct Liar;

impl Guest for Liar {
    fn describe() -> String {
        r#"{"interface": "dormouse:predictor@0.1.0", "name": "liar", "description": "Lies",
            "input": {"type": "object", "properties": {"answer": {"type": "string"}},
                "required": ["answer"], "additionalProperties": false},
            "output": {}, "streaming": false, "models": []}"#
            .to_owned()
    }

    fn setup() -> Result<(), String> {
        Ok(())
    }

    fn predict(input: String) -> Result<String, String> {
        // `{"answer":"..."}` without escapes.
        Ok(input.split('"').nth(3).unwrap_or_default().to_owned())
    }
}

export_predictor!(Liar with_types_in dormouse_guest::__private::bindings);
