//! What can be asked, and what is answered.

use serde_json::{Map, Value, json};

use super::schemas::{ALIAS, DNS_LABEL, PREDICTION_ID, TARGET};

/// All paths of the document.
pub(super) fn all() -> Value {
    let mut paths = Map::new();
    for (path, item) in [node(), functions(), predictions(), tokens()].into_iter().flatten() {
        paths.insert(path.to_owned(), item);
    }
    paths.into()
}

type Items = Vec<(&'static str, Value)>;

fn node() -> Items {
    vec![
        (
            "/healthz",
            json!({"get": get("health", "Whether the node is alive", reply("Health", "It is"), &[])}),
        ),
        (
            "/readyz",
            json!({"get": get("ready", "Whether the node takes work", reply("Health", "It does"), &[503])}),
        ),
        ("/metrics", json!({"get": get("metrics", "Numbers for Prometheus", text("The numbers"), &[])})),
    ]
}

fn functions() -> Items {
    let name = || path("name", "The function", json!({"type": "string", "pattern": DNS_LABEL}));
    let alias = || path("alias", "The alias", json!({"type": "string", "pattern": ALIAS}));
    let errors = [400, 401, 403, 404, 503];
    let invoke = json!({
        "operationId": "invoke",
        "summary": "Run a function and wait for its output",
        "parameters": [target()],
        "requestBody": body("Input"),
        "responses": responses(&[(200, event_stream_too("Invocation", "How it ended"))], &[400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504]),
    });
    let show_target = with(
        get("show_target", "What a function takes and gives", reply("Function", "The function"), &errors),
        &[target()],
    );
    let mut content = json_content("NewFunction");
    content["application/wasm"] = json!({});
    let answers = [
        (200, reply("Function", "It is these bytes and settings already")),
        (201, reply("Function", "The function")),
    ];
    let deploy = json!({
        "operationId": "deploy",
        "summary": "Deploy a component: its bytes, with settings in the query, or the digest of one that is here",
        "parameters": [name()],
        "requestBody": {"required": true, "content": content},
        "responses": responses(&answers, &[400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503]),
    });
    vec![
        ("/fn/{target}", json!({"get": show_target, "post": invoke})),
        (
            "/v1/functions",
            json!({"get": get("list_functions", "The functions of this node", reply("FunctionList", "The functions"), &[401, 403, 503])}),
        ),
        (
            "/v1/functions/{name}",
            json!({
                "put": deploy,
                "get": with(get("show_function", "A function", reply("Function", "The function"), &errors), &[name()]),
                "delete": {
                    "operationId": "remove_function",
                    "summary": "Remove a function with all its revisions",
                    "parameters": [name()],
                    "responses": responses(&[(204, json!({"description": "It is gone"}))], &errors),
                },
            }),
        ),
        (
            "/v1/functions/{name}/revisions",
            json!({"get": with(get("list_revisions", "A function's revisions, newest first", reply("RevisionList", "The revisions"), &errors), &[name()])}),
        ),
        (
            "/v1/functions/{name}/aliases",
            json!({"get": with(get("list_aliases", "What each alias names", reply("AliasList", "The aliases"), &errors), &[name()])}),
        ),
        (
            "/v1/functions/{name}/aliases/{alias}",
            json!({
                "put": {
                    "operationId": "set_alias",
                    "summary": "Point an alias at a revision",
                    "parameters": [name(), alias()],
                    "requestBody": body("AliasTarget"),
                    "responses": responses(&[(200, reply("AliasList", "The aliases"))], &[400, 401, 403, 404, 408, 409, 413, 503]),
                },
                "delete": {
                    "operationId": "remove_alias",
                    "summary": "Remove an alias",
                    "parameters": [name(), alias()],
                    "responses": responses(&[(204, json!({"description": "It is gone"}))], &[400, 401, 403, 404, 409, 503]),
                },
            }),
        ),
        (
            "/v1/functions/{name}/rollback",
            json!({"post": {
                "operationId": "roll_back",
                "summary": "Make an earlier revision live, by default the one that was before",
                "parameters": [name()],
                "requestBody": optional_body("RollBack"),
                "responses": responses(&[(200, reply("Function", "The function"))], &[400, 401, 403, 404, 408, 409, 413, 503]),
            }}),
        ),
        (
            "/v1/functions/{name}/logs",
            json!({"get": with(
                get("show_logs", "A function's last predictions and what they logged", reply("LogList", "The predictions, newest first"), &errors),
                &[name(), query("limit", "How many", json!({"type": "integer", "minimum": 0, "maximum": 1000}))],
            )}),
        ),
    ]
}

fn predictions() -> Items {
    let id = || path("id", "The prediction", json!({"type": "string", "pattern": PREDICTION_ID}));
    let errors = [400, 401, 403, 404, 503];
    let filters = || {
        vec![
            query("function", "Only those of this function", json!({"type": "string", "pattern": DNS_LABEL})),
            query("status", "Only those of this status", json!({"$ref": "#/components/schemas/Status"})),
            query("limit", "How many", json!({"type": "integer", "minimum": 0, "maximum": 1000})),
            query(
                "cursor",
                "Where the page begins, as in `next`",
                json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
            ),
        ]
    };
    let create = |operation: &str, summary: &str, parameters: Vec<Value>, schema: &str| {
        let answers = [
            (200, reply("KnownPrediction", "It has ended")),
            (202, reply("KnownPrediction", "It is on disk, and will run")),
        ];
        json!({
            "operationId": operation,
            "summary": summary,
            "parameters": parameters,
            "requestBody": body(schema),
            "responses": responses(&answers, &[400, 401, 403, 404, 408, 409, 413, 422, 429, 503]),
        })
    };
    let headers = vec![
        header(
            "prefer",
            "`wait=SECONDS` holds the answer back until it has ended",
            json!({"type": "string"}),
        ),
        header(
            "idempotency-key",
            "The same key again gives the same prediction",
            json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}),
        ),
    ];
    let put = create(
        "put_prediction",
        "Queue a prediction under a client's own id, once",
        vec![id()],
        "NamedPrediction",
    );
    let list = |operation: &str, summary: &str| {
        with(
            get(operation, summary, reply("PredictionList", "A page, newest first"), &[400, 401, 403, 503]),
            &filters(),
        )
    };
    let events = json!({
        "description": "What it tells, from the beginning",
        "content": {"text/event-stream": {}},
    });
    vec![
        (
            "/v1/predictions",
            json!({
                "get": list("list_predictions", "Predictions that are kept"),
                "post": create("create_prediction", "Queue a prediction", headers, "NewPrediction"),
            }),
        ),
        (
            "/v1/predictions/{id}",
            json!({"get": with(get("show_prediction", "A prediction", reply("KnownPrediction", "The prediction"), &errors), &[id()]), "put": put}),
        ),
        (
            "/v1/predictions/{id}/cancel",
            json!({"post": {
                "operationId": "cancel_prediction",
                "summary": "Cancel a prediction; one that has ended stays as it is",
                "parameters": [id()],
                "responses": responses(&[(200, reply("KnownPrediction", "How it is now"))], &errors),
            }}),
        ),
        (
            "/v1/predictions/{id}/events",
            json!({"get": with(get("follow_prediction", "A prediction's events", events, &errors), &[id()])}),
        ),
        (
            "/v1/dead-letters",
            json!({"get": list("list_dead_letters", "Predictions that ran out of attempts")}),
        ),
        (
            "/v1/dead-letters/redrive",
            json!({"post": {
                "operationId": "redrive",
                "summary": "Run dead predictions again: one, a function's, or all",
                "requestBody": optional_body("Redrive"),
                "responses": responses(&[(200, reply("Redriven", "How many"))], &[400, 401, 403, 408, 413, 503]),
            }}),
        ),
    ]
}

fn tokens() -> Items {
    let id = path("id", "The token's public name", json!({"type": "string", "minLength": 1}));
    vec![
        (
            "/v1/tokens",
            json!({
                "get": get("list_tokens", "The tokens of this node, less their secrets", reply("TokenList", "The tokens"), &[401, 403, 503]),
                "post": {
                    "operationId": "create_token",
                    "summary": "Make a token; its secret is told once",
                    "requestBody": optional_body("NewToken"),
                    "responses": responses(&[(201, reply("Token", "The token"))], &[400, 401, 403, 408, 409, 413, 422, 503]),
                },
            }),
        ),
        (
            "/v1/tokens/{id}",
            json!({"delete": {
                "operationId": "revoke_token",
                "summary": "Make a token void",
                "parameters": [id],
                "responses": responses(&[(204, json!({"description": "It is void"}))], &[400, 401, 403, 404, 503]),
            }}),
        ),
    ]
}

fn get(operation: &str, summary: &str, answer: Value, errors: &[u16]) -> Value {
    json!({"operationId": operation, "summary": summary, "responses": responses(&[(200, answer)], errors)})
}

fn with(mut operation: Value, parameters: &[Value]) -> Value {
    operation["parameters"] = parameters.into();
    operation
}

fn responses(answers: &[(u16, Value)], errors: &[u16]) -> Value {
    let error = |status: &u16| (status.to_string(), reply("Error", "Why not"));
    let answers = answers.iter().map(|(status, answer)| (status.to_string(), answer.clone()));
    Value::Object(answers.chain(errors.iter().map(error)).collect())
}

fn reply(schema: &str, description: &str) -> Value {
    json!({"description": description, "content": json_content(schema)})
}

fn event_stream_too(schema: &str, description: &str) -> Value {
    let mut reply = reply(schema, description);
    reply["content"]["text/event-stream"] = json!({});
    reply
}

fn text(description: &str) -> Value {
    json!({"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}})
}

fn body(schema: &str) -> Value {
    json!({"required": true, "content": json_content(schema)})
}

fn optional_body(schema: &str) -> Value {
    json!({"required": false, "content": json_content(schema)})
}

fn json_content(schema: &str) -> Value {
    json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}})
}

fn target() -> Value {
    path(
        "target",
        "A function, perhaps with an alias or a revision: NAME or NAME:REFERENCE",
        json!({"type": "string", "pattern": TARGET}),
    )
}

fn path(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

fn header(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "header", "description": description, "schema": schema})
}
