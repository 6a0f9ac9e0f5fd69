//! Replicate's API.

use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO, FAIL, WORKER},
    node::{Answer, Node},
    receiver::Receiver,
};

fn node() -> Node {
    let node = Node::with(|config| config.webhook.allow_private = true);
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    let mut manifest = guest::manifest(schema);
    manifest["streaming"] = json!(false);
    node.deploy("echo", &guest::component(ECHO, &manifest), "");
    node.deploy("worker", &guest::any_input(WORKER), "");
    node
}

fn send(node: &Node, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    node.client().send(method, path, headers, body.to_string().as_bytes())
}

fn post(node: &Node, path: &str, headers: &[(&str, &str)], body: &Value) -> Value {
    let answer = send(node, "POST", path, headers, body);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

fn end(node: &Node, prediction: &Value) -> Value {
    let id = prediction["id"].as_str().unwrap();
    node.follow(id).last().unwrap();
    node.get(&format!("/v1/predictions/{id}")).json()
}

#[test]
fn a_function_is_a_model_with_versions() {
    let node = node();
    let model = node.get("/v1/models/dormouse/echo").json();
    assert_eq!(
        (&model["owner"], &model["name"], &model["run_count"]),
        (&json!("dormouse"), &json!("echo"), &json!(0))
    );
    let version = &model["latest_version"];
    assert_eq!(version["openapi_schema"]["components"]["schemas"]["Input"]["required"], json!(["name"]));
    let id = version["id"].as_str().unwrap();
    let versions = node.get("/v1/models/dormouse/echo/versions").json();
    assert_eq!((&versions["results"][0]["id"], &versions["next"]), (&json!(id), &json!(null)));
    assert_eq!(node.get(&format!("/v1/models/dormouse/echo/versions/{id}")).json()["id"], id);
    let list = node.get("/v1/models").json();
    assert_eq!((list["results"].as_array().unwrap().len(), &list["next"]), (2, &json!(null)));
    let found = node.client().send("QUERY", "/v1/models", &[("content-type", "text/plain")], b"ECHO").json();
    assert_eq!(found["results"][0]["name"], "echo");
    for absent in
        ["/v1/models/dormouse/absent", "/v1/models/other/echo", "/v1/models/dormouse/echo/versions/0"]
    {
        let answer = node.get(absent);
        assert_eq!(answer.status, 404, "{absent}");
        assert!(answer.json()["detail"].is_string());
    }
    assert_eq!(node.client().send("PUT", "/v1/models", &[], b"").status, 405);
    assert_eq!(node.get("/v1/account").json()["username"], "dormouse");
    assert!(node.get("/v1/hardware").json()[0]["sku"].is_string());
}

#[test]
fn a_prediction_is_made_by_model_version_or_deployment() {
    let node = node();
    let version = node.get("/v1/models/dormouse/echo").json()["latest_version"]["id"].clone();
    let body = |version: &str| json!({"version": version, "input": {"name": "Ada"}});
    let deployment = json!({
        "name": "dep", "model": "dormouse/echo", "version": version, "hardware": "cpu",
        "min_instances": 0, "max_instances": 2,
    });
    let made = post(&node, "/v1/deployments", &[], &deployment);
    assert_eq!(made["current_release"]["number"], 1);
    let input = json!({"input": {"name": "Ada"}});
    for (path, body) in [
        ("/v1/models/dormouse/echo/predictions", &input),
        ("/v1/deployments/dormouse/dep/predictions", &input),
        ("/v1/predictions", &body(version.as_str().unwrap())),
        ("/v1/predictions", &body("dormouse/echo")),
        ("/v1/predictions", &body(&format!("dormouse/echo:{}", version.as_str().unwrap()))),
    ] {
        let created = post(&node, path, &[], body);
        assert_eq!((&created["status"], &created["model"]), (&json!("starting"), &json!("dormouse/echo")));
        let ended = end(&node, &created);
        assert_eq!(
            (&ended["status"], &ended["output"]),
            (&json!("succeeded"), &json!({"name": "Ada"})),
            "{path}"
        );
        assert_eq!((&ended["version"], &ended["error"]), (&version, &json!(null)));
        assert!(ended["metrics"]["predict_time"].is_number() && ended["urls"].get("stream").is_none());
    }
    let list = node.get("/v1/predictions?limit=2").json();
    assert_eq!(
        (list["results"].as_array().unwrap().len(), &list["results"][0]["status"]),
        (2, &json!("succeeded"))
    );
    let next = list["next"].as_str().unwrap();
    assert!(next.starts_with(&format!("http://{}/v1/predictions?", node.address)), "{next}");
    let changed =
        send(&node, "PATCH", "/v1/deployments/dormouse/dep", &[], &json!({"min_instances": 1})).json();
    assert_eq!(
        (
            &changed["current_release"]["number"],
            &changed["current_release"]["configuration"]["min_instances"]
        ),
        (&json!(2), &json!(1))
    );
    assert_eq!(send(&node, "POST", "/v1/deployments", &[], &deployment).status, 409);
    let delete = || node.client().send("DELETE", "/v1/deployments/dormouse/dep", &[], b"").status;
    assert_eq!((delete(), delete()), (204, 404));
}

#[test]
fn one_who_waits_gets_the_end_or_hears_that_it_starts() {
    let node = node();
    let wait = |seconds: &str, input: Value| {
        let prefer = format!("wait={seconds}");
        post(
            &node,
            "/v1/models/dormouse/worker/predictions",
            &[("prefer", &prefer)],
            &json!({"input": input}),
        )
    };
    assert_eq!(wait("30", json!({}))["status"], "succeeded");
    let endless = wait("0.2", json!({"loop": 1}));
    assert_eq!(endless["status"], "starting", "clients take anything else for the end");
    let cancel = format!("/v1/predictions/{}/cancel", endless["id"].as_str().unwrap());
    assert_eq!(node.client().send("POST", &cancel, &[], b"").status, 200);
    let ended = end(&node, &endless);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("canceled"), &json!(null)));
}

#[test]
fn a_stream_is_opened_by_its_url_alone_also_after_the_end() {
    let node = Node::with(|config| config.token = Some(dormouse::config::Token("root".to_owned())));
    let bearer = [("authorization", "Token root")];
    let component = guest::any_input(WORKER);
    assert_eq!(node.client().send("PUT", "/v1/functions/worker", &bearer, &component).status, 201);
    let body = json!({"input": {}}).to_string();
    let headers = [bearer[0], ("prefer", "wait")];
    let created = node
        .client()
        .send("POST", "/v1/models/dormouse/worker/predictions", &headers, body.as_bytes())
        .json();
    let url = created["urls"]["stream"].as_str().unwrap();
    let path = url.strip_prefix(&format!("http://{}", node.address)).unwrap();
    let reader = node.client().try_open("GET", path, &[], b"").unwrap();
    let text = String::from_utf8(reader.whole().unwrap().body).unwrap();
    assert!(
        text.starts_with(
            "event: output\nid: 1\ndata: {\"started\":true}\n\nevent: logs\nid: 2\ndata: working\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("event: done\nid: 3\ndata: {}\n\n"), "{text}");
    let (start, key) = path.rsplit_once('/').unwrap();
    let other: String = key.chars().rev().collect();
    assert_eq!(node.get(&format!("{start}/{other}")).status, 404);
}

#[test]
fn what_is_wrong_is_told_in_detail() {
    let node = node();
    let check = |path: &str, body: Value, status: u16, part: &str| {
        let answer = send(&node, "POST", path, &[], &body);
        assert_eq!(answer.status, status, "{answer:?}");
        let json = answer.json();
        assert!(json["detail"].as_str().unwrap().contains(part), "{json}");
        assert_eq!(json["status"], status);
    };
    check("/v1/models/dormouse/echo/predictions", json!({"input": {}}), 422, "name");
    check("/v1/predictions", json!({"version": "0123", "input": {}}), 422, "0123");
    check("/v1/models/dormouse/absent/predictions", json!({"input": {}}), 404, "absent");
    check(
        "/v1/models/dormouse/echo/predictions",
        json!({"input": {"name": "a"}, "webhook": "x"}),
        422,
        "webhook",
    );
    node.deploy("fail", &guest::any_input(FAIL), "");
    let failed =
        post(&node, "/v1/models/dormouse/fail/predictions", &[("prefer", "wait")], &json!({"input": {}}));
    assert_eq!((&failed["status"], &failed["error"]), (&json!("failed"), &json!("working")));
}

#[test]
fn webhooks_have_the_prediction_as_clients_read_it() {
    let node = node();
    let receiver = Receiver::start();
    let body = json!({"input": {"name": "a"}, "webhook": receiver.url(), "webhook_events_filter": ["start", "completed"]});
    let created = post(&node, "/v1/models/dormouse/echo/predictions", &[], &body);
    let statuses: Vec<_> = [0, 1].map(|_| receiver.next().body).into_iter().collect();
    assert_eq!((&statuses[0]["status"], &statuses[1]["status"]), (&json!("processing"), &json!("succeeded")));
    let ended = end(&node, &created);
    assert_eq!(statuses[1], ended);
}
