//! What is sent and answered, as JSON Schema.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{Config, function::Function};

/// A function's name.
pub(super) const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
/// A movable name of a revision.
pub(super) const ALIAS: &str = DNS_LABEL;
/// A function, perhaps with a reference.
pub(super) const TARGET: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$";
/// What may follow a function's name.
const REFERENCE: &str = "(:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?";
/// A prediction's id.
pub(super) const PREDICTION_ID: &str = "^[A-Za-z0-9_.~:@+=-]{1,128}$";

/// All schemas of the document, with the inputs of some functions, on a node with these bounds.
pub(super) fn all(functions: &[Arc<Function>], config: &Config) -> Value {
    let mut all = answers();
    for more in [requests(config), new_predictions(functions)] {
        for (name, schema) in more.as_object().into_iter().flatten() {
            all[name] = schema.clone();
        }
    }
    all
}

/// A new prediction of each function, or of any where none is told.
fn new_predictions(functions: &[Arc<Function>]) -> Value {
    let with_id = |function: Option<&Function>, id: Option<Value>| {
        let input = function.map_or(json!({"type": "object"}), input);
        let pattern =
            function.map_or(TARGET.to_owned(), |function| format!("^{}{REFERENCE}$", function.name));
        let needs_input = input["required"].as_array().is_some_and(|required| !required.is_empty());
        let fields: Vec<_> = [("function", json!({"type": "string", "pattern": pattern})), ("input", input)]
            .into_iter()
            .chain(id.map(|id| ("id", id)))
            .chain(plan())
            .collect();
        closed(&fields, if needs_input { &["function", "input"] } else { &["function"] })
    };
    let any = |id: Option<Value>| match functions {
        [] => with_id(None, id),
        functions => {
            let each: Vec<_> = functions.iter().map(|function| with_id(Some(function), id.clone())).collect();
            json!({"anyOf": each})
        }
    };
    json!({
        "NewPrediction": any(Some(json!({"type": "string", "pattern": PREDICTION_ID}))),
        "NamedPrediction": any(None),
    })
}

/// What a function takes. A reference in it would lead elsewhere here, so one with any is not told.
fn input(function: &Function) -> Value {
    let input = &function.live().predictor.manifest.input;
    match input.to_string().contains("\"$ref\"") {
        true => json!({"type": "object"}),
        false => input.clone(),
    }
}

fn answers() -> Value {
    let text = json!({"type": "string"});
    let count = json!({"type": "integer", "minimum": 0});
    let time = json!({"type": "string", "format": "date-time"});
    let texts = json!({"type": "array", "items": text});
    let maybe = |schema: &Value| json!({"anyOf": [schema, {"type": "null"}]});
    let list = |name: &str, of: &str| {
        object(
            &[(name, json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{of}")}}))],
            &[name],
        )
    };
    json!({
        "Error": object(&[
            ("error", object(&[("code", text.clone()), ("message", text.clone()), ("details", json!({"type": "array"}))], &["code", "message"])),
            ("title", text.clone()), ("status", count.clone()), ("detail", text.clone()),
        ], &["error"]),
        "Health": object(&[("status", text.clone()), ("version", text.clone()), ("functions", count.clone())], &["status", "version"]),
        "Status": {"type": "string", "enum": ["queued", "running", "succeeded", "failed", "canceled"]},
        "Metrics": {"type": "object"},
        "ModelList": object(&[("models", json!({"type": "array"})), ("object", text.clone()), ("data", json!({"type": "array"})), ("results", json!({"type": "array"})), ("next", maybe(&text))], &["models", "object", "data", "results"]),
        "Function": object(&[
            ("name", text.clone()), ("revision", text.clone()), ("component_digest", text.clone()), ("url", text.clone()),
            ("description", text.clone()), ("input_schema", json!({"type": "object"})), ("output_schema", json!({})),
            ("streaming", json!({"type": "boolean"})), ("models", texts.clone()), ("settings", json!({"type": "object"})),
            ("aliases", json!({"type": "object", "additionalProperties": text})), ("running", count.clone()),
            ("queued", count.clone()), ("waiting", count.clone()), ("warnings", texts.clone()), ("created_at", time.clone()),
        ], &["name", "revision", "url", "input_schema", "output_schema", "aliases", "created_at"]),
        "FunctionItem": object(&[("name", text.clone()), ("revision", text.clone()), ("url", text.clone()), ("created_at", time.clone())], &["name", "revision", "url"]),
        "FunctionList": list("functions", "FunctionItem"),
        "Revision": object(&[("revision", text.clone()), ("component_digest", text.clone()), ("created_at", time.clone()), ("aliases", texts)], &["revision", "component_digest", "created_at"]),
        "RevisionList": list("revisions", "Revision"),
        "AliasList": object(&[("aliases", json!({"type": "object", "additionalProperties": text}))], &["aliases"]),
        "LogList": list("predictions", "LogItem"),
        "LogItem": object(&[("id", text.clone()), ("status", status()), ("started_at", time.clone()), ("logs", text.clone())], &["id", "status", "logs"]),
        "Invocation": object(&[("id", text.clone()), ("status", status()), ("output", json!({})), ("logs", text.clone()), ("metrics", metrics())], &["id", "status", "logs", "metrics"]),
        "Prediction": object(&[
            ("id", text.clone()), ("function", text.clone()), ("revision", text.clone()), ("status", status()),
            ("input", json!({"type": "object"})), ("output", json!({})), ("logs", text.clone()), ("metrics", maybe(&metrics())),
            ("error", maybe(&object(&[("code", text.clone()), ("message", text.clone())], &["code", "message"]))),
            ("created_at", time.clone()), ("started_at", maybe(&time)), ("completed_at", maybe(&time)),
            ("urls", object(&[("get", text.clone()), ("cancel", text.clone()), ("events", text.clone())], &["get", "cancel", "events"])),
        ], &["id", "function", "revision", "status", "input", "logs", "created_at", "urls"]),
        "OthersPrediction": object(&[
            ("id", text.clone()), ("model", text.clone()), ("version", text.clone()), ("status", text.clone()),
            ("input", json!({"type": "object"})), ("output", json!({})), ("logs", text.clone()), ("error", maybe(&text)),
            ("urls", json!({"type": "object", "additionalProperties": text})),
        ], &["id", "model", "version", "status", "urls"]),
        "KnownPrediction": {
            "description": "In the words of whoever made it: this API's, or those of Replicate's clients",
            "anyOf": [{"$ref": "#/components/schemas/Prediction"}, {"$ref": "#/components/schemas/OthersPrediction"}],
        },
        "PredictionList": object(&[("predictions", json!({"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}})), ("next", maybe(&text))], &["predictions", "next"]),
        "Redriven": object(&[("redriven", count)], &["redriven"]),
        "Token": object(&[
            ("id", text.clone()), ("name", text.clone()), ("scopes", scopes()), ("created_at", time.clone()),
            ("expires_at", maybe(&time)), ("token", text),
        ], &["id", "name", "scopes", "created_at"]),
        "TokenList": list("tokens", "Token"),
    })
}

fn requests(config: &Config) -> Value {
    let reference = json!({"type": "string", "pattern": DNS_LABEL});
    let functions =
        json!({"type": "array", "items": {"type": "string", "pattern": DNS_LABEL}, "maxItems": 100});
    let narrow = json!({"type": "array", "items": {"type": "string", "enum": ["invoke", "deploy"]}, "minItems": 1, "maxItems": 2, "uniqueItems": true});
    let named = [
        ("name", json!({"type": "string", "maxLength": 100})),
        ("expires_at", json!({"type": ["string", "null"], "format": "date-time"})),
    ];
    let token = |own: [(&str, Value); 2]| closed(&[&named[..], &own].concat(), &[]);
    json!({
        "Input": {"type": "object", "description": "What the function's own schema says, or {\"input\": …} around it"},
        "AliasTarget": closed(&[("revision", reference.clone())], &["revision"]),
        "RollBack": closed(&[("revision", reference)], &[]),
        "NewFunction": closed(
            &[("component", json!({"type": "string", "pattern": "^[0-9a-f]{64}$"})), ("settings", settings(config))],
            &["component"],
        ),
        "Redrive": {"oneOf": [
            closed(&[], &[]),
            closed(&[("id", json!({"type": "string", "pattern": PREDICTION_ID}))], &["id"]),
            closed(&[("function", json!({"type": "string", "pattern": DNS_LABEL}))], &["function"]),
        ]},
        "NewToken": {"anyOf": [
            token([("scopes", narrow), ("functions", functions)]),
            token([("scopes", scopes()), ("functions", json!({"type": "null"}))]),
        ]},
    })
}

fn settings(config: &Config) -> Value {
    let count = json!({"type": "integer", "minimum": 1, "maximum": 1000});
    let time =
        json!({"type": "string", "pattern": "^([0-9]|[1-5][0-9]) ([0-9]|1[0-9]|2[0-3]) \\* \\* [0-6]$"});
    closed(
        &[
            ("timeout_ms", count.clone()),
            ("concurrency", count.clone()),
            ("idle_after_ms", count),
            ("keep_warm", json!({"type": "boolean"})),
            ("keep", json!({"type": "boolean"})),
            (
                "prewake",
                json!({"type": "array", "items": time, "maxItems": config.deploy.prewakes_max, "description": "Cron, in UTC; more forms than these are taken"}),
            ),
            (
                "guess_tokens",
                json!({"type": "integer", "minimum": 0, "maximum": config.engine.guess_tokens_max}),
            ),
        ],
        &[],
    )
}

/// How a prediction is queued and told of.
fn plan() -> Vec<(&'static str, Value)> {
    vec![
        ("priority", json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX, "default": 0})),
        ("deadline", json!({"type": "string", "format": "date-time"})),
        ("max_attempts", json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})),
        ("retry_failures", json!({"type": "boolean", "default": false})),
        ("webhook", json!({"type": "string", "format": "uri"})),
        (
            "webhook_events",
            json!({"type": "array", "items": {"type": "string", "enum": ["start", "output", "logs", "completed"]}}),
        ),
    ]
}

fn status() -> Value {
    json!({"$ref": "#/components/schemas/Status"})
}

fn metrics() -> Value {
    json!({"$ref": "#/components/schemas/Metrics"})
}

fn scopes() -> Value {
    json!({"type": "array", "items": {"type": "string", "enum": ["invoke", "deploy", "admin"]}, "minItems": 1, "maxItems": 3, "uniqueItems": true})
}

fn object(fields: &[(&str, Value)], required: &[&str]) -> Value {
    let properties: serde_json::Map<_, _> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

/// An object without other fields.
fn closed(fields: &[(&str, Value)], required: &[&str]) -> Value {
    let mut schema = object(fields, required);
    schema["additionalProperties"] = json!(false);
    schema
}
