//! Models that sleep and wake, as clients of the service see it.

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use dormouse_tests::{Answer, Client, Process, Server, binary, model};
use serde_json::{Value, json};

use crate::{deploy, eventually, guests, joined};

/// A server with the model, cold, and a function that calls it, where nothing sleeps by itself.
fn server() -> Server {
    let server = Server::with(|config| config.residency.awake_idle = None);
    model::install(server.data_dir());
    deploy(&server, "chat", guests::CHAT);
    go_to(&server, "cold");
    server
}

/// [`server`], with the model on disk, where it comes from being awake only.
fn server_asleep() -> Server {
    let server = server();
    go_to(&server, "awake");
    go_to(&server, "disk");
    server
}

fn ask(server: &Server) -> Value {
    let input = json!({"prompt": "What is the capital of France?", "max_tokens": 16});
    server.client().invoke("chat", &input).expect(200)
}

/// The model's entry in the node's residency.
fn residency(server: &Server) -> Value {
    server.client().get("/v1/residency").expect(200)["models"][0].clone()
}

fn go_to(server: &Server, tier: &str) {
    let wish = json!({"tier": tier, "wait_ms": 60_000});
    let node = server.client().post("/v1/residency/smollm2", &wish).expect(200);
    assert_eq!(node["models"][0]["tier"], tier, "{node}");
}

#[test]
fn a_prediction_wakes_its_model_and_tells_from_where() {
    let server = server();
    let first = ask(&server);
    assert_eq!(first["metrics"]["tier"], "cold");
    for tier in ["memory", "disk"] {
        go_to(&server, tier);
        let woken = ask(&server);
        assert_eq!(joined(&woken["output"]), joined(&first["output"]));
        assert_eq!(woken["metrics"]["tier"], tier);
        assert!(woken["metrics"]["wake_ms"].as_f64().unwrap() > 0.0, "{woken}");
    }
    let awake = ask(&server);
    assert_eq!((&awake["metrics"]["tier"], &awake["metrics"]["wake_ms"]), (&json!("awake"), &json!(0.0)));
    let model = residency(&server);
    assert_eq!((&model["wakes"], &model["last_wake"]["from"]), (&json!(4), &json!("disk")));
    // The first was for the deploy.
    let metrics = server.client().get("/metrics").text;
    for line in [
        "dormouse_model_tier{model=\"smollm2\",tier=\"awake\"} 1",
        "dormouse_wake_seconds_count{from=\"cold\"} 1",
        "dormouse_wake_seconds_count{from=\"memory\"} 1",
        "dormouse_model_wakes{model=\"smollm2\"} 4",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}

#[test]
fn looking_at_a_model_does_not_keep_it_awake() {
    let server = Server::with(|config| {
        config.residency.awake_idle = Some(Duration::ZERO);
        config.residency.memory_idle = Some(Duration::ZERO);
    });
    model::install(server.data_dir());
    deploy(&server, "chat", guests::CHAT);
    ask(&server);
    eventually("the model goes to disk", || {
        server.client().get("/healthz").expect(200);
        server.client().get("/metrics");
        server.client().get("/v1/models").expect(200);
        residency(&server)["tier"] == "disk"
    });
    assert_eq!(residency(&server)["wakes"], 2, "for the deploy and for the prediction");
}

#[test]
fn a_move_that_makes_no_sense_is_refused() {
    let server = server();
    let post = |model: &str, body: Value| server.client().post(&format!("/v1/residency/{model}"), &body);
    assert_eq!(post("nobody", json!({"tier": "disk"})).error(404), "not_found");
    assert_eq!(post("smollm2", json!({"tier": "bed"})).error(400), "invalid_request");
    assert_eq!(post("smollm2", json!({})).error(400), "invalid_request");
    assert_eq!(server.client().get("/v1/residency").expect(200)["memory_bytes"], 0);
}

#[test]
fn a_model_that_never_fits_is_refused_at_deploy_with_the_arithmetic() {
    let server = Server::with(|config| {
        config.engine.kv_bytes_max = 64 << 20;
        config.residency.memory_bytes_max = 100 << 20;
    });
    model::install(server.data_dir());
    let expected = "model \"smollm2\" takes 167 MiB awake: 93 of weights, 74 of KV cache and buffers; this node \
                    has 100 for models (memory_bytes_max)";
    let refused = server.client().deploy("chat", "", guests::CHAT).expect(503);
    assert_eq!(refused["error"]["code"], "model_unavailable");
    assert_eq!(refused["error"]["message"], expected);
    let chat = json!({"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]});
    let refused = server.client().post("/v1/chat/completions", &chat).expect(503);
    assert_eq!(refused["error"]["message"], expected);
    assert_eq!(server.client().get("/v1/residency").expect(200)["models"], json!([]));
}

#[test]
fn the_command_line_shows_and_moves_models() {
    let server = server();
    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        let output = command.args(args).args(["--server", server.client().base()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["ps"]).contains("cold"));
    let woken = run(&["wake", "smollm2"]);
    assert!(woken.starts_with("MODEL ") && woken.contains("awake"), "{woken}");
    assert!(run(&["sleep", "smollm2", "--to", "memory"]).contains("memory"));
    let node: Value = serde_json::from_str(&run(&["ps", "--json"])).unwrap();
    assert_eq!(node["models"][0]["tier"], "memory");
    assert_eq!(node["models"][0]["memory_bytes"], node["memory_bytes"]);
}

#[test]
fn whoever_waits_for_a_model_is_told_how_far_it_is() {
    let server = server();
    ask(&server);
    go_to(&server, "disk");
    let input = json!({"prompt": "What is the capital of France?", "max_tokens": 4});
    let events: Vec<_> = server.client().stream("chat", &input).collect();
    let wakes: Vec<_> = events.iter().filter(|event| event.kind == "wake").collect();
    let told = &wakes.last().unwrap_or_else(|| panic!("no wake in {events:?}")).data;
    assert_eq!((&told["model"], &told["from"]), (&json!("smollm2"), &json!("disk")), "{told}");
    assert!(told["phase"].is_string() && told["bytes_total"].as_u64().unwrap() > 90_000_000, "{told}");
    assert_eq!(events.last().unwrap().data["metrics"]["tier"], "disk");
    let first_output = events.iter().position(|event| event.kind == "output").unwrap();
    assert!(events.iter().skip(first_output).all(|event| event.kind != "wake"));
}

#[test]
fn a_request_says_how_long_its_model_stays_awake() {
    let server = server();
    let input = json!({"prompt": "Hi", "max_tokens": 1});
    let request = server.client().post_request("/fn/chat").header("prefer", "keep-alive=0");
    assert_eq!(request.send_json(&input).unwrap().status(), 200);
    eventually("the model sleeps at once", || residency(&server)["tier"] == "memory");
    let chat = json!({"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1,
        "keep_alive": "10m"});
    server.client().post("/v1/chat/completions", &chat).expect(200);
    // The answer may be here before its completion has let go of the model.
    eventually("it stays for minutes", || residency(&server)["sleeps_in_ms"].as_f64() > Some(500_000.0));
}

/// Each dialect's way to ask for a word, with a preference; a model called directly, and the function.
fn dialects(server: &Server, prefer: &str, keep_alive: Value) -> Vec<(&'static str, Answer)> {
    let prompt = json!({"prompt": "Hi", "max_tokens": 1});
    let turns = json!([{"role": "user", "content": "Hi"}]);
    let tool = json!({"name": "chat", "arguments": prompt});
    let asked = [
        ("native", "/fn/chat", prompt.clone()),
        ("queue", "/v1/predictions", json!({"function": "chat", "input": prompt})),
        ("cog", "/fn/chat/predictions", json!({"input": prompt})),
        ("replicate", "/v1/predictions", json!({"version": "dormouse/chat", "input": prompt})),
        ("mcp", "/mcp", json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool})),
        ("openai", "/v1/chat/completions", json!({"model": "smollm2", "messages": turns, "max_tokens": 1})),
        (
            "openai, function",
            "/v1/chat/completions",
            json!({"model": "chat", "messages": turns, "max_tokens": 1}),
        ),
        ("openai, texts", "/v1/completions", json!({"model": "chat", "prompt": "Hi", "max_tokens": 1})),
        (
            "openai, responses",
            "/v1/responses",
            json!({"model": "chat", "input": "Hi", "max_output_tokens": 1}),
        ),
        ("ollama", "/api/chat", json!({"model": "smollm2", "messages": turns, "stream": false})),
        ("ollama, function", "/api/chat", json!({"model": "chat", "messages": turns, "stream": false})),
    ];
    let ask = |(dialect, path, mut body): (&'static str, &str, Value)| {
        let takes_it = ["openai", "ollama"].iter().any(|name| dialect.starts_with(name));
        if takes_it {
            body["keep_alive"] = keep_alive.clone();
            body["options"] = json!({"num_predict": 1});
        }
        go_to(server, "disk");
        let answer = server.client().post_with(path, &[("prefer", prefer)], &body);
        assert!(answer.status < 300, "{dialect}: {}", answer.text);
        if takes_it || prefer.contains("keep-alive") {
            eventually(dialect, || residency(server)["tier"] == "memory");
        }
        (dialect, answer)
    };
    asked.into_iter().map(ask).collect()
}

#[test]
fn every_dialect_tells_of_a_wake_and_takes_how_long_the_model_stays_awake() {
    let server = server_asleep();
    for (dialect, answer) in dialects(&server, "wait=60, keep-alive=0", json!(0)) {
        // A tool's answer is a message of another protocol.
        if dialect != "mcp" {
            let timing = answer.header("server-timing");
            let is_told = timing.contains("wake;dur=") && timing.contains(";desc=disk");
            assert!(is_told, "{dialect}: {timing:?}");
        }
        let body: Value = serde_json::from_str(&answer.text).unwrap();
        match dialect {
            "openai" | "openai, function" => {
                assert_eq!(body["usage"]["woken_from"], "disk", "{dialect}: {body}")
            }
            "ollama" | "ollama, function" => {
                assert!(body["load_duration"].as_u64().unwrap() > 100_000, "{dialect}: {body}");
            }
            _ => {}
        }
    }
}

#[test]
fn streams_of_other_dialects_tell_of_a_wake_in_comments() {
    let server = server_asleep();
    let prompt = json!({"prompt": "Hi", "max_tokens": 1});
    let turns = json!([{"role": "user", "content": "Hi"}]);
    let events = [("accept", "text/event-stream")];
    let chat = |model: &str| json!({"model": model, "messages": turns, "max_tokens": 1, "stream": true});
    for (path, body) in [
        ("/fn/chat/predictions", json!({"input": prompt})),
        ("/v1/chat/completions", chat("chat")),
        ("/v1/chat/completions", chat("smollm2")),
        ("/v1/completions", json!({"model": "chat", "prompt": "Hi", "stream": true})),
        ("/v1/responses", json!({"model": "chat", "input": "Hi", "stream": true})),
    ] {
        go_to(&server, "disk");
        check_comment(&server.client().post_with(path, &events, &body).text);
    }
    go_to(&server, "disk");
    let create = json!({"version": "dormouse/chat", "input": prompt});
    let created = server.client().post("/v1/predictions", &create).expect(201);
    let stream = created["urls"]["stream"].as_str().unwrap().strip_prefix(server.client().base()).unwrap();
    check_comment(&server.client().get(stream).text);
}

/// The stream tells of a wake before what it is asked for, in a comment alone.
#[track_caller]
fn check_comment(stream: &str) {
    let wakes: Vec<_> = stream.lines().filter_map(|line| line.strip_prefix(": wake ")).collect();
    let told: Value =
        serde_json::from_str(wakes.first().unwrap_or_else(|| panic!("no wake in {stream}"))).unwrap();
    assert_eq!((&told["model"], &told["from"]), (&json!("smollm2"), &json!("disk")), "{told}");
    assert!(!stream.contains("event: wake") && stream.matches("\n\n").count() > 1, "{stream}");
}

#[test]
fn a_model_is_kept_warm_while_a_live_revision_wants_it() {
    let server = Server::with(|config| config.residency.awake_idle = Some(Duration::ZERO));
    model::install(server.data_dir());
    server.client().deploy("chat", "?keep_warm=true", guests::CHAT).expect(201);
    eventually("it is awake", || residency(&server)["tier"] == "awake");
    assert_eq!(residency(&server)["is_pinned"], true);
    assert_eq!(server.client().delete("/v1/functions/chat").status, 204);
    eventually("it sleeps", || residency(&server)["tier"] != "awake");
}

#[test]
fn a_model_wakes_by_its_functions_schedule_without_a_prediction() {
    let server = server_asleep();
    let wakes = || residency(&server)["wakes"].as_u64().unwrap();
    let answer = server.client().deploy("chat", "?prewake=61%20*%20*%20*%20*", guests::CHAT);
    assert!(answer.text.contains("61 * * * *"), "{}", answer.text);
    assert_eq!(answer.error(422), "invalid_input");
    let deployed = server.client().deploy("chat", "?prewake=*%20*%20*%20*%20*%20*", guests::CHAT).expect(201);
    assert_eq!(deployed["settings"]["prewake"], json!(["* * * * * *"]));
    // The deploy may have woken it, for its setup; who sends it to sleep then is too late or not.
    let before = wakes();
    server.client().post("/v1/residency/smollm2", &json!({"tier": "disk", "wait_ms": 60_000})).expect(200);
    eventually("it is awake again", || wakes() > before);
    let model = residency(&server);
    assert!(model["prewakes_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{model}");
    let predictions = server.client().get("/v1/predictions").expect(200);
    assert_eq!(predictions["predictions"], json!([]), "{predictions}");
    deploy(&server, "chat", guests::CHAT);
    assert_eq!(residency(&server)["prewakes_at"], Value::Null);
    go_to(&server, "disk");
}

/// Deploys chat with settings that a query doesn't hold.
fn deploy_with(client: &Client, settings: &Value) -> Answer {
    let mut body = format!(
        "--edge\r\ncontent-disposition: form-data; name=\"settings\"\r\n\r\n{settings}\r\n\
         --edge\r\ncontent-disposition: form-data; name=\"component\"; filename=\"x.wasm\"\r\n\r\n"
    )
    .into_bytes();
    body.extend(std::fs::read(guests::CHAT).unwrap());
    body.extend_from_slice(b"\r\n--edge--\r\n");
    client.put_bytes("/v1/functions/chat", "multipart/form-data; boundary=edge", &body)
}

/// Deploys chat with a declared prefix, the beginning of [`begins_so`]'s chat.
fn with_prefix(client: &Client) -> Value {
    let settings = json!({"prefixes": [{"model": "smollm2", "messages": [system()]}]});
    deploy_with(client, &settings).expect(201)
}

fn system() -> Value {
    let rules: Vec<_> = (0..20).map(|rule| format!("Rule {rule}: answer briefly and kindly.")).collect();
    json!({"role": "system", "content": rules.join(" ")})
}

/// Tokens of a chat with that beginning, and how many of them were cached.
fn begins_so(client: &Client) -> (u64, u64) {
    let chat = json!({"model": "smollm2", "messages": [system(), {"role": "user", "content": "Hi"}],
        "max_tokens": 1});
    let usage = client.post("/v1/chat/completions", &chat).expect(200)["usage"].take();
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    (usage["prompt_tokens"].as_u64().unwrap(), cached)
}

#[test]
fn a_declared_prefix_is_cached_from_the_first_request_on_over_sleep_and_restart() {
    let data = tempfile::tempdir().unwrap();
    model::install(data.path());
    let process = Process::start(data.path());
    with_prefix(process.client());
    let (tokens, cached) = begins_so(process.client());
    assert!(cached + 64 > tokens && cached > 100, "{cached} of {tokens}");
    let wish = json!({"tier": "disk", "wait_ms": 60_000});
    process.client().post("/v1/residency/smollm2", &wish).expect(200);
    assert_eq!(begins_so(process.client()), (tokens, cached), "after a wake");
    assert!(process.terminate());
    let process = Process::start(data.path());
    assert_eq!(begins_so(process.client()), (tokens, cached), "after a restart");
}

#[test]
fn a_declared_prefix_is_there_after_kill_9_right_after_its_deploy() {
    let data = tempfile::tempdir().unwrap();
    model::install(data.path());
    let process = Process::start(data.path());
    let deployed = with_prefix(process.client());
    process.kill();
    assert_eq!(deployed["warnings"], json!([]));
    let process = Process::start(data.path());
    let (tokens, cached) = begins_so(process.client());
    assert!(cached + 64 > tokens && cached > 100, "{cached} of {tokens}");
}

#[test]
fn a_prefix_that_no_prompt_can_begin_with_is_refused_by_number() {
    let server = Server::with(|config| {
        config.deploy.prefix_bytes_max = 100_000;
        config.engine.context_tokens_max = 512;
    });
    model::install(server.data_dir());
    let good = json!({"model": "smollm2", "text": "Once upon a time"});
    let refused = |bad: Value| {
        let answer = deploy_with(server.client(), &json!({"prefixes": [good, bad]}));
        let text = answer.text.clone();
        assert_eq!(answer.error(422), "invalid_input", "{text}");
        assert_eq!(server.client().get("/v1/functions/chat").error(404), "not_found");
        text
    };
    assert!(refused(json!({"model": "smollm2"})).contains("prefix 2 of model \\\"smollm2\\\" has neither"));
    let long = refused(json!({"model": "smollm2", "text": "a ".repeat(50_001)}));
    assert!(long.contains("has 100002 bytes, this node takes 100000 (deploy.prefix_bytes_max)"), "{long}");
    let long = refused(json!({"model": "smollm2", "text": "word ".repeat(600)}));
    assert!(long.contains("prefix 2 of model") && long.contains("takes 512"), "{long}");
    let absent = json!({"prefixes": [good, {"model": "absent", "text": "a"}]});
    let deployed = deploy_with(server.client(), &absent).expect(201);
    let warning = deployed["warnings"].to_string();
    assert!(warning.contains("prefixes of model \\\"absent\\\" are not kept"), "{warning}");
}

#[test]
fn kill_9_at_any_point_of_sleeping_and_waking_leaves_a_usable_store() {
    const KILLS: u64 = 12;
    const TIERS: [&str; 6] = ["disk", "awake", "memory", "disk", "cold", "awake"];
    let data = tempfile::tempdir().unwrap();
    model::install(data.path());
    let input = json!({"prompt": "What is the capital of France?", "max_tokens": 8});
    let expected = {
        let process = Process::start(data.path());
        process.client().deploy("chat", "", guests::CHAT).expect(201);
        let output = joined(&process.client().output("chat", &input));
        assert!(process.terminate());
        output
    };
    for seed in 0..KILLS {
        let process = Process::start(data.path());
        let client = process.client().clone();
        assert_eq!(joined(&client.output("chat", &input)), expected, "before kill {seed}");
        let moves = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (client, moves) = (&client, &moves);
            scope.spawn(move || {
                for tier in TIERS.iter().cycle().skip(seed as usize) {
                    let wish = json!({"tier": tier, "wait_ms": 60_000});
                    let request = client.post_request("/v1/residency/smollm2");
                    if request.send_json(&wish).is_err() {
                        return;
                    }
                    moves.fetch_add(1, Ordering::Release);
                }
            });
            // Fibonacci hashing spreads consecutive seeds; the kill comes so far into the move after that.
            let hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            while moves.load(Ordering::Acquire) < 1 + (hash >> 62) as usize {
                thread::yield_now();
            }
            for _ in 0..(hash >> 40) % 20_000 {
                std::hint::spin_loop();
                thread::yield_now();
            }
            process.kill();
        });
    }
    let process = Process::start(data.path());
    assert_eq!(joined(&process.client().output("chat", &input)), expected);
    let wish = json!({"tier": "disk", "wait_ms": 60_000});
    process.client().post("/v1/residency/smollm2", &wish).expect(200);
    let output = joined(&process.client().output("chat", &input));
    assert_eq!(output, expected, "from whatever is on disk now");
}
