//! The binary: what it prints, where, and which code it exits with.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fixtures::{Reply, Request, Server, model};

/// Runs the binary with no settings but the ones given.
fn dormouse(words: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(words)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn run(words: &[&str]) -> Output {
    dormouse(words, tempfile::tempdir().unwrap().path())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// A service with one function that streams text.
fn service() -> Server {
    Server::start(|_, request| match (&*request.method, &*request.target) {
        ("GET", "/fn/chat") => Reply::new(200, function().to_string()),
        ("POST", "/fn/chat") if request.header("accept") == Some("text/event-stream") => {
            let done =
                json!({"status": "succeeded", "output": ["Hi", " there"], "metrics": {"total_ms": 12.5}});
            let events = format!(
                ": keep-alive\n\nid: 1\nevent: output\ndata: \"Hi\"\n\nid: 2\nevent: log\n\
                 data: {{\"source\":\"log\",\"level\":\"info\",\"message\":\"thinking\"}}\n\n\
                 id: 3\nevent: output\ndata: \" there\"\n\nid: 4\nevent: done\ndata: {done}\n\n"
            );
            Reply::new(200, events).with("content-type", "text/event-stream")
        }
        ("POST", "/fn/chat") => Reply::new(
            200,
            json!({"status": "succeeded", "output": ["Hi", " there"], "logs": "thinking\n",
                "metrics": {"total_ms": 12.5}})
            .to_string(),
        ),
        ("GET", "/v1/functions") => Reply::new(200, json!({"functions": [function()]}).to_string()),
        ("DELETE", "/v1/functions/chat") => Reply::new(204, ""),
        ("PUT", "/v1/functions/chat") => Reply::new(201, function().to_string()),
        _ => Reply::new(
            404,
            json!({"error": {"code": "not_found", "message": "function \"nope\" not found"}}).to_string(),
        ),
    })
}

fn function() -> Value {
    json!({
        "name": "chat", "revision": "0123456789abcdef0123456789abcdef", "url": "http://h/fn/chat",
        "description": "Talks", "created_at": "2026-11-24T06:00:00Z", "streaming": true,
        "warnings": ["model \"m\" is not here: dormouse model pull m"],
        "input_schema": {"properties": {"prompt": {"type": "string"}, "n": {"type": "integer"}}, "required": ["prompt"]},
        "output_schema": {"type": "array", "x-cog-array-display": "concatenate"},
    })
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for words in [
        &["serve", "--no-such-flag"][..],
        &["run"],
        &["model", "pull", "nothing-known"],
        &["run", "f", "--server", "no url"],
    ] {
        assert_eq!(run(words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn without_a_service_the_error_says_how_to_start_one() {
    let output = run(&["fn", "ls", "--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("no server at http://127.0.0.1:1: start one with `dormouse serve`"), "{text}");
    let output = run(&["fn", "ls", "--json", "--server", "http://127.0.0.1:1"]);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("no server"));
}

#[test]
fn a_streaming_function_prints_its_text_as_one_and_logs_beside_it() {
    let service = service();
    let output = run(&["run", "chat", "prompt=5", "n=3", "--server", &service.url]);
    assert_eq!(stderr(&output), "thinking\n");
    assert_eq!(succeeded(output), "Hi\n there\n");
    let request = &service.requests()[1];
    assert_eq!(body(request), json!({"prompt": "5", "n": 3}));
}

#[test]
fn the_same_output_comes_whole_when_asked_for() {
    let service = service();
    let output =
        run(&["run", "chat", r#"{"prompt": "x"}"#, "--no-stream", "--stats", "--server", &service.url]);
    assert!(stderr(&output).contains("total_ms  12.500"), "{}", stderr(&output));
    assert_eq!(succeeded(output), "Hi there\n");
    let service = self::service();
    let answer = succeeded(run(&["--json", "run", "chat", "{}", "--no-stream", "--server", &service.url]));
    assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["output"], json!(["Hi", " there"]));
}

#[test]
fn json_of_a_stream_is_one_event_a_line() {
    let service = service();
    let text = succeeded(run(&["run", "chat", "prompt=x", "--json", "--server", &service.url]));
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["output", "log", "output", "done"]);
}

#[test]
fn a_stream_that_ends_in_an_error_or_too_early_fails() {
    for (events, words) in [
        (
            "event: error\ndata: {\"error\":{\"code\":\"predictor_failed\",\"message\":\"no luck\"}}\n\n",
            "no luck",
        ),
        ("event: output\ndata: \"Hi\"\n\n", "broke off"),
    ] {
        let service = Server::start(move |_, request| match &*request.method {
            "GET" => Reply::new(200, function().to_string()),
            _ => Reply::new(200, events),
        });
        let output = run(&["run", "chat", "prompt=x", "--server", &service.url]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn the_token_goes_with_every_request() {
    let service = service();
    succeeded(run(&["fn", "ls", "--server", &service.url, "--token", "t"]));
    assert_eq!(service.requests()[0].header("authorization"), Some("Bearer t"));
}

#[test]
fn functions_are_listed_aligned_and_removed() {
    let service = service();
    let text = succeeded(run(&["fn", "ls", "--server", &service.url]));
    assert_eq!(
        text,
        "NAME  REVISION      DEPLOYED             URL               DESCRIPTION\n\
         chat  0123456789ab  2026-11-24 06:00:00  http://h/fn/chat  Talks\n"
    );
    assert_eq!(succeeded(run(&["fn", "rm", "chat", "--server", &service.url])), "removed chat\n");
    let output = run(&["fn", "rm", "nope", "--server", &service.url]);
    assert!(stderr(&output).contains("function \"nope\" not found"), "{}", stderr(&output));
}

#[test]
fn a_component_is_pushed_with_its_settings_and_what_is_none_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let component = b"\0asm\x0d\0\x01\0";
    std::fs::write(folder.path().join("chat.wasm"), component).unwrap();
    std::fs::write(folder.path().join("old.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let service = service();
    let words = ["push", "chat.wasm", "--timeout=30s", "--env=KEY=secret", "--server", &service.url];
    let output = dormouse(&words, folder.path());
    assert!(stderr(&output).contains("warning: model \"m\" is not here"), "{}", stderr(&output));
    let text = succeeded(output);
    assert!(text.contains("http://h/fn/chat") && text.contains("dormouse run chat prompt=..."), "{text}");
    let request = &service.requests()[0];
    assert_eq!(request.target, "/v1/functions/chat");
    let body = String::from_utf8_lossy(&request.body).into_owned();
    assert!(body.contains(r#"{"timeout_ms":30000,"env":{"KEY":"secret"}}"#), "{body}");
    assert!(request.body.windows(component.len()).any(|window| window == component));

    let output = dormouse(&["push", "old.wasm", "--server", &service.url], folder.path());
    assert!(stderr(&output).contains("module, not a component"), "{}", stderr(&output));
    assert_eq!(service.requests().len(), 1);
}

#[test]
fn the_settings_in_force_are_printed_without_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".config/dormouse/config.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "token = 's3cret'\nlisten = '127.0.0.1:9'\n[predict]\nqueue_max = 5\n").unwrap();
    let text =
        succeeded(dormouse(&["serve", "--print-config", "--set", "predict.timeout=7s"], folder.path()));
    assert!(!text.contains("s3cret") && text.contains("# token"), "{text}");
    let settings: toml::Table = text.parse().unwrap();
    assert_eq!(settings["listen"].as_str(), Some("127.0.0.1:9"));
    assert_eq!(settings["predict"]["queue_max"].as_integer(), Some(5));
    assert_eq!(settings["predict"]["timeout"].as_str(), Some("7s"));
    let data_dir = folder.path().join(".local/share/dormouse");
    assert_eq!(settings["data_dir"].as_str(), data_dir.to_str());

    std::fs::write(&file, "listen = '127.0.0.1:9'\nlisen = 1\n").unwrap();
    let output = dormouse(&["serve", "--print-config"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2") && stderr(&output).contains("lisen"), "{}", stderr(&output));
}

#[cfg(feature = "gpu")]
#[test]
fn devices_are_listed_as_serve_takes_them() {
    let text = succeeded(run(&["devices", "--json"]));
    let devices: Value = serde_json::from_str(&text).unwrap();
    let devices = devices["devices"].as_array().unwrap();
    assert!(!devices.is_empty(), "no driver, not even Mesa's: apt-get install mesa-vulkan-drivers");
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device["device"], format!("gpu:{index}"));
        assert!(device["copy_bytes_per_second"].as_u64() > Some(0), "{device}");
    }
    let absent = format!("gpu:{}", devices.len());
    for (device, code, text) in [
        (&*absent, 1, format!("{absent}: this machine has {} adapters", devices.len())),
        ("cuda", 2, "\"cuda\" is none of auto, cpu, gpu and gpu:INDEX".to_owned()),
    ] {
        let output = run(&["serve", "--listen", "127.0.0.1:0", "--device", device]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(&text), "{}", stderr(&output));
    }
    let set = format!("engine.device={absent}");
    let printed = succeeded(run(&["serve", "--print-config", "--set", &set]));
    assert!(printed.contains(&format!("device = \"{absent}\"")), "{printed}");
}

#[test]
fn a_model_is_pulled_listed_shown_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Tiny.gguf"), model(1000)).unwrap();
    let text = succeeded(dormouse(&["model", "pull", "./Tiny.gguf"], folder.path()));
    assert!(text.starts_with("tiny pulled in "), "{text}");
    let text = succeeded(dormouse(&["model", "ls", "--json"], folder.path()));
    let models: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(models["models"][0]["name"], "tiny");
    assert_eq!(models["models"][0]["architecture"], "llama");
    let text = succeeded(dormouse(&["model", "info", "tiny"], folder.path()));
    for word in ["llama", "F32", "1.0 K", "none: prompts are plain text", "sha256:"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert_eq!(succeeded(dormouse(&["model", "rm", "tiny"], folder.path())), "removed tiny\n");
    let output = dormouse(&["model", "info", "tiny"], folder.path());
    assert!(stderr(&output).contains("no model named \"tiny\""), "{}", stderr(&output));
}

#[test]
fn completions_name_every_command() {
    let text = succeeded(run(&["completions", "bash"]));
    for command in ["serve", "push", "rollback", "pull"] {
        assert!(text.contains(command), "{command}");
    }
}
