//! The OpenAPI document of the service's own API, and a page that shows it.

mod paths;
mod schemas;

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Html,
};
use serde_json::{Value, json};

use super::{Error, functions, invoke};
use crate::{Config, function::Function, service::Service};

/// Shows the document that lies beside it.
const PAGE: &str = include_str!("docs.html");

/// Functions whose inputs the document tells; where there are more it tells of none.
const FUNCTIONS_MAX: usize = 50;

/// `GET /openapi.json`: it tells the inputs of those functions that the caller may use.
pub(super) async fn document(State(service): State<Arc<Service>>) -> Json<Value> {
    Json(of(&functions::visible(&service), &service.config))
}

/// The document of some functions, on a node with these bounds.
fn of(functions: &[Arc<Function>], config: &Config) -> Value {
    let told = if functions.len() <= FUNCTIONS_MAX { functions } else { &[] };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Dormouse",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Functions, predictions and models of a node. Clients of Cog, Replicate and OpenAI have \
                their own APIs beside this one; each function has a document of its own at /fn/NAME/openapi.json.",
            "license": {"name": "Apache-2.0 WITH LLVM-exception", "identifier": "Apache-2.0 WITH LLVM-exception"},
        },
        "paths": paths::all(),
        "components": {
            "schemas": schemas::all(told, config),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    })
}

/// `GET /docs`.
pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}

/// `GET /fn/{target}/docs`.
pub(super) async fn function_page(
    State(service): State<Arc<Service>>,
    Path(target): Path<String>,
) -> Result<Html<&'static str>, Error> {
    invoke::path_target(&service, &target)?;
    Ok(Html(PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in a document.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name() {
        let document = of(&[], &Config::new(""));
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let mut names = std::collections::HashSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
            {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} is twice");
                assert!(
                    operation["responses"].as_object().is_some_and(|all| !all.is_empty()),
                    "{method} {path}"
                );
            }
        }
    }

    #[test]
    fn every_schema_is_one() {
        let document = of(&[], &Config::new(""));
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            let mut schema = schema.clone();
            schema["components"] = document["components"].clone();
            let built = jsonschema::options().build(&schema);
            assert!(built.is_ok(), "{name}: {}", built.unwrap_err());
        }
    }
}
