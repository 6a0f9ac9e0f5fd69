//! Tokens: what each is good for.

use dormouse::config::Token;
use serde_json::{Value, json};

use crate::{
    guest::{self, ECHO},
    node::{Answer, Node},
};

struct Caller<'a>(&'a Node, String);

impl Caller<'_> {
    fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let token = format!("Bearer {}", self.1);
        self.0.client().send(method, path, &[("authorization", &token)], body)
    }

    /// Makes a token; answers its document.
    fn create(&self, body: &Value) -> Value {
        let answer = self.send("POST", "/v1/tokens", body.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    fn make(&self, body: &Value) -> Caller<'_> {
        Caller(self.0, self.create(body)["token"].as_str().unwrap().to_owned())
    }
}

fn guarded() -> Node {
    Node::with(|config| config.token = Some(Token("root".to_owned())))
}

#[test]
fn a_scope_has_what_it_says_and_no_more() {
    let node = guarded();
    let root = Caller(&node, "root".to_owned());
    let component = guest::any_input(ECHO);
    assert_eq!(root.send("PUT", "/v1/functions/echo", &component).status, 201);
    let [invoke, deploy, admin] =
        ["invoke", "deploy", "admin"].map(|scope| root.make(&json!({"scopes": [scope]})));
    let statuses = |caller: &Caller<'_>| {
        [
            caller.send("POST", "/fn/echo", b"{}").status,
            caller.send("GET", "/v1/functions", b"").status,
            caller.send("PUT", "/v1/functions/echo", &component).status,
            caller.send("GET", "/v1/tokens", b"").status,
        ]
    };
    assert_eq!(statuses(&invoke), [200, 200, 403, 403]);
    assert_eq!(statuses(&deploy), [200, 200, 200, 403]);
    assert_eq!(statuses(&admin), [200, 200, 200, 200]);
    assert_eq!(statuses(&Caller(&node, "dm_wrong".to_owned())), [401; 4]);
    assert_eq!(node.get("/v1/functions").status, 401);
    let refused = invoke.send("GET", "/v1/tokens", b"");
    assert_eq!(refused.error(), (403, "forbidden".to_owned()));
}

#[test]
fn a_token_for_one_function_sees_and_runs_only_that() {
    let node = guarded();
    let root = Caller(&node, "root".to_owned());
    let component = guest::any_input(ECHO);
    for name in ["mine", "other"] {
        root.send("PUT", &format!("/v1/functions/{name}"), &component);
    }
    let id = |name: &str| {
        let body = json!({"function": name, "id": format!("of-{name}")}).to_string();
        assert_eq!(root.send("POST", "/v1/predictions", body.as_bytes()).status, 202);
    };
    id("mine");
    id("other");
    let limited = root.make(&json!({"scopes": ["deploy"], "functions": ["mine"]}));
    let status = |method: &str, path: &str| limited.send(method, path, b"{}").status;
    assert_eq!((status("POST", "/fn/mine"), status("POST", "/fn/other")), (200, 403));
    assert_eq!(
        (status("GET", "/v1/predictions/of-mine"), status("GET", "/v1/predictions/of-other")),
        (200, 403)
    );
    assert_eq!(status("POST", "/v1/predictions/of-other/cancel"), 403);
    assert_eq!(status("GET", "/v1/predictions/of-other/events"), 403);
    assert_eq!(
        (status("GET", "/fn/other/predictions/of-other"), status("DELETE", "/v1/functions/other")),
        (403, 403)
    );
    assert_eq!(status("PUT", "/v1/functions/new"), 403);
    let redrive = |body: &[u8]| limited.send("POST", "/v1/dead-letters/redrive", body).status;
    assert_eq!(
        (redrive(b"{}"), redrive(br#"{"function": "other"}"#), redrive(br#"{"function": "mine"}"#)),
        (403, 403, 200)
    );
    assert_eq!(redrive(br#"{"id": "of-other"}"#), 403);
    let functions = limited.send("GET", "/v1/functions", b"").json();
    assert_eq!(functions["functions"].as_array().unwrap().len(), 1);
    let predictions = limited.send("GET", "/v1/predictions", b"").json();
    let functions = predictions["predictions"].as_array().unwrap().iter();
    assert!(functions.clone().count() > 0 && functions.clone().all(|own| own["function"] == "mine"));
    assert_eq!(limited.send("GET", "/v1/predictions?function=other", b"").status, 403);
    let everybodys =
        [("POST", "/v1/residency/m"), ("GET", "/v1/webhooks/default/secret"), ("GET", "/v1/files")];
    assert_eq!(everybodys.map(|(method, path)| status(method, path)), [403; 3]);
    let events = json!({"DestinationConfig": {"OnSuccess": {
        "Destination": "arn:aws:lambda:us-east-1:000000000000:function:other",
    }}});
    let path = "/2019-09-25/functions/mine/event-invoke-config";
    assert_eq!(limited.send("PUT", path, events.to_string().as_bytes()).status, 403);
    assert_eq!(root.send("PUT", path, events.to_string().as_bytes()).status, 200);
    assert_eq!(limited.send("DELETE", "/v1/functions/mine", b"").status, 204);
}

#[test]
fn a_revoked_or_expired_token_is_worth_nothing() {
    let node = guarded();
    let root = Caller(&node, "root".to_owned());
    let made = root.create(&json!({"name": "ci", "scopes": ["invoke"]}));
    let caller = Caller(&node, made["token"].as_str().unwrap().to_owned());
    assert_eq!(caller.send("GET", "/v1/functions", b"").status, 200);
    let list = root.send("GET", "/v1/tokens", b"");
    assert_eq!(list.json()["tokens"][0]["name"], "ci");
    assert!(!String::from_utf8(list.body).unwrap().contains(made["token"].as_str().unwrap()));
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(root.send("DELETE", &path, b"").status, 204);
    assert_eq!(root.send("DELETE", &path, b"").status, 404);
    assert_eq!(caller.send("GET", "/v1/functions", b"").status, 401);
    let past = root.make(&json!({"expires_at": "2020-01-01T00:00:00Z"}));
    assert_eq!(past.send("GET", "/v1/functions", b"").status, 401);
}

#[test]
fn tokens_outlast_a_restart_and_their_secrets_are_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::on(dir.path(), |_| {});
    // Without any token a node on loopback is open.
    let made = node.client().send("POST", "/v1/tokens", &[], br#"{"scopes": ["admin"]}"#).json();
    let secret = made["token"].as_str().unwrap().to_owned();
    assert_eq!(node.get("/v1/functions").status, 401, "now there is one");
    drop(node);
    for file in
        std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file())
    {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", file.display());
    }
    let node = Node::on(dir.path(), |_| {});
    assert_eq!(node.get("/v1/functions").status, 401);
    assert_eq!(Caller(&node, secret).send("GET", "/v1/tokens", b"").status, 200);
}

#[test]
fn the_first_token_of_a_node_can_make_others() {
    let node = Node::start();
    let make = |body: &[u8]| node.client().send("POST", "/v1/tokens", &[], body);
    assert_eq!(make(br#"{"scopes": ["invoke"]}"#).error(), (409, "conflict".to_owned()));
    assert_eq!(node.get("/v1/functions").status, 200, "the node is as open as it was");
    assert_eq!(make(br#"{"scopes": ["deploy", "admin"]}"#).status, 201);
}

#[test]
fn a_node_without_tokens_answers_nobodys_page() {
    let node = Node::start();
    let get = |path: &str, headers: &[(&str, &str)]| node.client().send("GET", path, headers, b"").status;
    let page = [("origin", "https://evil.example")];
    assert_eq!((get("/v1/functions", &page), get("/metrics", &page)), (403, 403));
    let (rebound, supervisor) = ([("host", "evil.example")], [("host", "node.example")]);
    assert_eq!((get("/v1/functions", &rebound), get("/healthz", &supervisor)), (403, 200));
    let node = Node::with(|config| config.public_url = Some("https://node.example".to_owned()));
    let get = |host: &str| node.client().send("GET", "/v1/functions", &[("host", host)], b"").status;
    assert_eq!((get("node.example"), get("other.example")), (200, 403));
    let node = guarded();
    let headers = [("host", "any.example"), ("authorization", "Bearer root")];
    assert_eq!(
        node.client().send("GET", "/v1/functions", &headers, b"").status,
        200,
        "a token says who it is"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let node = guarded();
    let refused = |body: Value| {
        Caller(&node, "root".to_owned()).send("POST", "/v1/tokens", body.to_string().as_bytes()).error().0
    };
    assert_eq!(refused(json!({"scopes": []})), 422);
    assert_eq!(refused(json!({"scopes": ["invoke", "invoke"]})), 422);
    assert_eq!(refused(json!({"scopes": ["root"]})), 400);
    assert_eq!(refused(json!({"scopes": null})), 400);
    assert_eq!(refused(json!([])), 400);
    assert_eq!(refused(json!({"functions": ["A B"]})), 422);
    assert_eq!(refused(json!({"scopes": ["admin"], "functions": ["a"]})), 422);
    assert_eq!(refused(json!({"name": "ü".repeat(101)})), 422);
    assert_eq!(refused(json!({"expires_at": "soon"})), 400);
}

#[test]
fn without_a_token_only_this_machine_is_listened_to() {
    let everywhere = |config: &mut dormouse::Config| config.listen = "0.0.0.0:0".parse().unwrap();
    assert!(Node::with(everywhere).address.ip().is_loopback());
    let node = Node::with(|config| {
        everywhere(config);
        config.token = Some(Token("root".to_owned()));
    });
    assert!(node.address.ip().is_unspecified());
}
