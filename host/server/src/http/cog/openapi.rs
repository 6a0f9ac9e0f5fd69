//! A function's OpenAPI document, as Cog writes it.

use serde_json::{Map, Value, json};

use crate::function::{Function, Revision};

/// The document of a revision.
pub(in super::super) fn document(function: &Function, revision: &Revision) -> Value {
    let manifest = &revision.predictor.manifest;
    let schemas = json!({
        "Input": component(&manifest.input, "Input"),
        "Output": component(&manifest.output, "Output"),
        "PredictionRequest": prediction_request(),
        "PredictionResponse": prediction_response(),
        "Status": {
            "title": "Status",
            "type": "string",
            "enum": ["starting", "processing", "succeeded", "canceled", "failed"],
        },
        "WebhookEvent": {"title": "WebhookEvent", "type": "string", "enum": ["start", "output", "logs", "completed"]},
        "HTTPValidationError": {
            "title": "HTTPValidationError",
            "type": "object",
            "properties": {"detail": {"type": "array", "items": {"$ref": "#/components/schemas/ValidationError"}}},
        },
        "ValidationError": {
            "title": "ValidationError",
            "type": "object",
            "required": ["loc", "msg", "type"],
            "properties": {
                "loc": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
                "msg": {"type": "string"},
                "type": {"type": "string"},
            },
        },
    });
    json!({
        "openapi": "3.0.2",
        "info": {
            "title": function.name,
            "description": manifest.description,
            "version": revision.id.as_str()[..12],
        },
        "servers": [{"url": format!("/fn/{}", function.name)}],
        "paths": paths(manifest.streaming),
        "components": {"schemas": schemas},
    })
}

fn paths(is_streaming: bool) -> Value {
    let answers = |operation: &str| {
        json!({
            "200": {"description": operation, "content": content("PredictionResponse")},
            "202": {"description": "Accepted", "content": content("PredictionResponse")},
            "422": {"description": "Validation error", "content": content("HTTPValidationError")},
        })
    };
    let body = json!({"content": content("PredictionRequest")});
    let prefer = json!({"name": "prefer", "in": "header", "schema": {"type": "string"}});
    let id = json!({"name": "prediction_id", "in": "path", "required": true, "schema": {"type": "string"}});
    let mut predict = json!({
        "summary": "Predict",
        "operationId": "predict_predictions_post",
        "parameters": [prefer],
        "requestBody": body,
        "responses": answers("How the prediction ended"),
    });
    let mut predict_again = predict.clone();
    predict_again["operationId"] = json!("predict_idempotent_predictions__prediction_id__put");
    predict_again["parameters"] = json!([id, prefer]);
    if is_streaming {
        predict["x-cog-streaming"] = json!(true);
        predict_again["x-cog-streaming"] = json!(true);
    }
    let any = json!({"200": {"description": "Successful response", "content": {"application/json": {"schema": {}}}}});
    let get = |summary: &str, operation: &str| json!({"summary": summary, "operationId": operation, "responses": any});
    json!({
        "/": {"get": get("Root", "root__get")},
        "/health-check": {"get": get("Healthcheck", "healthcheck_health_check_get")},
        "/predictions": {"post": predict},
        "/predictions/{prediction_id}": {
            "put": predict_again,
            "get": {
                "summary": "Show a prediction",
                "operationId": "show_predictions__prediction_id__get",
                "parameters": [id],
                "responses": {
                    "200": {"description": "The prediction", "content": content("PredictionResponse")},
                    "404": {"description": "No such prediction"},
                },
            },
        },
        "/predictions/{prediction_id}/cancel": {
            "post": {
                "summary": "Cancel",
                "operationId": "cancel_predictions__prediction_id__cancel_post",
                "parameters": [id],
                "responses": {
                    "200": {"description": "It is being canceled"},
                    "404": {"description": "There is nothing to cancel"},
                },
            },
        },
    })
}

fn content(schema: &str) -> Value {
    json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}})
}

fn prediction_request() -> Value {
    json!({
        "title": "PredictionRequest",
        "type": "object",
        "properties": {
            "id": {"title": "Id", "type": "string"},
            "input": {"$ref": "#/components/schemas/Input"},
            "webhook": {"title": "Webhook", "type": "string", "format": "uri", "minLength": 1, "maxLength": 65536},
            "webhook_events_filter": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/WebhookEvent"},
                "default": ["start", "output", "logs", "completed"],
            },
        },
    })
}

fn prediction_response() -> Value {
    json!({
        "title": "PredictionResponse",
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "input": {"$ref": "#/components/schemas/Input"},
            "output": {"$ref": "#/components/schemas/Output"},
            "status": {"$ref": "#/components/schemas/Status"},
            "error": {"type": "string"},
            "logs": {"type": "string", "default": ""},
            "metrics": {"type": "object", "additionalProperties": true},
        },
    })
}

/// A schema under `#/components/schemas/NAME`, with its references to itself led there.
fn component(schema: &Value, name: &str) -> Value {
    let mut schema = lead(schema, &format!("#/components/schemas/{name}"));
    if let Value::Object(fields) = &mut schema {
        fields.entry("title").or_insert_with(|| name.into());
    }
    schema
}

fn lead(schema: &Value, root: &str) -> Value {
    match schema {
        Value::Object(fields) => {
            let lead_field = |(key, value): (&String, &Value)| {
                let value = match value.as_str().and_then(|to| to.strip_prefix('#')) {
                    Some(rest) if key == "$ref" => format!("{root}{rest}").into(),
                    _ => lead(value, root),
                };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(lead_field).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(|item| lead(item, root)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_refers_to_itself_where_it_lies() {
        let schema = json!({"$defs": {"a": {}}, "items": [{"$ref": "#/$defs/a"}, {"$ref": "#"}]});
        let expected = json!({
            "$defs": {"a": {}},
            "items": [{"$ref": "#/components/schemas/Input/$defs/a"}, {"$ref": "#/components/schemas/Input"}],
            "title": "Input",
        });
        assert_eq!(component(&schema, "Input"), expected);
    }
}
