#!/usr/bin/env python3
"""The same requests to Dormouse and to the real Cog: whatever differs must be listed below, with its reason.

    BASE_URL=http://127.0.0.1:8080 TOKEN=... python cog_diff.py      # functions hello, reporter, failing, sleeper

Cog serves one predictor, so one server of it is started for each function, with the schema that Dormouse gives.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import httpx

BASE = os.environ.get("BASE_URL", "http://127.0.0.1:8080").rstrip("/")
TOKEN = os.environ.get("TOKEN", "")
HERE = Path(__file__).resolve().parent
PATIENCE = 60.0
# Ids are of one run, so that another on the same service meets none of them.
RUN = uuid.uuid4().hex[:8]

# Where the two differ, and why: by the case's name, first match counts. README.md argues each.
DIFFERENCES = [
    (r".*: (unknown path|wrong method.*)", "Cog's router answers without a body, Dormouse says in JSON what is wrong"),
    (r"hello: (no stream.*|put of a stream)", "the text: Cog's names its decorator"),
    (r"hello: (id of another type|webhook of another type|unknown webhook event)", "Cog answers in its framework's plain text, Dormouse in the JSON of its other validation errors"),
    (r"failing: (sync|put|vendor json|json with charset)", "Cog puts the exception's class before the message and leaves the logs out"),
    (r"hello: put twice", "one that has ended is answered again; Cog has forgotten it and runs it again"),
    (r"hello: get", "Dormouse shows predictions, Cog has no such route"),
    (r"hello: bad id", "Dormouse wants ids that fit a path, Cog takes any text"),
]

JSON = {"content-type": "application/json"}
ASYNC = {"prefer": "respond-async"}
SSE = {"accept": "text/event-stream"}


class Server:
    """A base URL to send requests to."""

    def __init__(self, base, token=""):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=base, headers=headers, timeout=PATIENCE)

    def send(self, method, path, headers=None, body=None, raw=None):
        content = raw if raw is not None else (None if body is None else json.dumps(body))
        headers = {**({} if content is None else JSON), **(headers or {})}
        return self.http.request(method, path, headers=headers, content=content)


class Oracle(Server):
    """The real Cog with one predictor."""

    def __init__(self, name, schema):
        self.dir = tempfile.TemporaryDirectory()
        folder = Path(self.dir.name)
        (folder / ".cog").mkdir()
        (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(schema))
        (folder / "run.py").write_text((HERE / "oracles" / f"{name}.py").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        bin_dir = str(Path(sys.executable).parent)
        env = {
            **os.environ,
            # Its worker starts `python`, which must be this one.
            "PATH": bin_dir + os.pathsep + os.environ["PATH"],
            "COG_PREDICT_TYPE_STUB": "run.py:Runner",
            "PORT": str(port),
        }
        command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=self.log, stderr=self.log)
        super().__init__(f"http://127.0.0.1:{port}")
        self.wait_until_ready()

    def wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if self.send("GET", "/health-check").json()["status"] == "READY":
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        self.log.seek(0)
        raise SystemExit(f"Cog does not start:\n{self.log.read()}")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def reason_of(case):
    """Why a case may differ, or None."""
    return next((reason for pattern, reason in DIFFERENCES if re.fullmatch(pattern, case)), None)


def events(text):
    """Events of a stream as (name, data).

    Logs come on their own way in Cog, so they are put together at the end; of a metric the last value counts.
    """
    found, logs, metrics = [], {}, {}
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" not in fields:
            continue
        name, data = fields.get("event"), json.loads(fields["data"])
        if name == "log":
            logs[data["source"]] = logs.get(data["source"], "") + data["data"]
        elif name == "metric":
            metrics[data["name"]] = normal(data)
        else:
            found.append((name, normal(data)))
    return found + sorted((source, text.removesuffix("\n")) for source, text in logs.items()) + sorted(metrics.items())


def normal(value):
    """What is left when what differs between any two runs is taken out."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in sorted(value.items())} | (
            {"predict_time": "seconds"} if "predict_time" in value else {}
        ) | ({"logs": value["logs"].removesuffix("\n")} if "logs" in value else {})
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, str) and value.startswith(RUN):
        return value.removeprefix(RUN)
    if isinstance(value, str) and re.fullmatch(r"pred_[0-9a-f]+|[a-z2-7]{26}", value):
        return "an id"
    return value


def seen(response):
    """A response as it is compared."""
    kind = response.headers.get("content-type", "").split(";")[0]
    head = {"status": response.status_code, "type": kind}
    if response.status_code == 405:
        head["allow"] = sorted(response.headers.get("allow", "").replace(" ", "").split(","))
        return head
    if response.status_code in (400, 404, 415):
        # Texts of frameworks.
        return head
    if kind == "text/event-stream":
        return {**head, "events": events(response.text)}
    if kind == "application/json":
        return {**head, "body": normal(response.json())}
    return head


def settled(server, path):
    """Waits until nothing of that id runs."""
    deadline = time.monotonic() + PATIENCE
    while server.send("POST", f"{path}/cancel").status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.05)


def cases(name):
    """(case, function of a server that gives responses)"""
    post, one = "/predictions", lambda *args, **kw: lambda server: [server.send(*args, **kw)]
    run = lambda given, headers=None: one("POST", post, headers, {"input": given})
    yield "openapi is there", lambda server: [server.send("HEAD", "/openapi.json")] and []
    yield "unknown path", one("GET", "/no/such/path")
    yield "wrong method", one("GET", post)
    yield "wrong method of cancel", one("GET", f"{post}/a/cancel")
    yield "cancel of nothing", one("POST", f"{post}/nothing/cancel")
    yield "broken json", one("POST", post, JSON, raw="{bad")
    yield "empty json", one("POST", post, JSON, raw="")
    yield "half json", one("POST", post, JSON, raw='{"input": {')
    yield "text", one("POST", post, {"content-type": "text/plain"}, raw="{}")
    yield "form", one("POST", post, {"content-type": "application/x-www-form-urlencoded"}, raw="{}")
    yield "vendor json", one("POST", post, {"content-type": "application/vnd.api+json"}, raw='{"input": {"name": "a", "count": 1, "ms": 1}}')
    yield "json with charset", one("POST", post, {"content-type": "application/json; charset=utf-8"}, raw='{"input": {"name": "a", "count": 1, "ms": 1}}')
    yield "input is a number", run(5)
    yield "input is a list", run([1])
    yield "input is text", run("a")
    if name == "hello":
        yield "sync", run({"name": "Ada"})
        yield "unicode", run({"name": "Zoë 🦔 \u2028 \" \\ \n"})
        yield "unknown keys", one("POST", post, None, {"input": {"name": "Ada", "nope": 1}, "created_at": "x", "context": {"a": "b"}})
        yield "own id", one("POST", post, None, {"id": f"{RUN}mine-1", "input": {"name": "Ada"}})
        yield "no body", lambda server: [server.send("POST", post)]
        yield "empty object", one("POST", post, None, {})
        yield "null input", run(None)
        yield "missing", run({})
        yield "a number for text", run({"name": 5})
        yield "null for text", run({"name": None})
        yield "a list for text", run({"name": ["a", 1]})
        yield "an object for text", run({"name": {"a": 1}})
        yield "too short", run({"name": ""})
        yield "too long", run({"name": "x" * 81})
        yield "no stream", run({"name": "Ada"}, SSE)
        yield "no stream among others", run({"name": "Ada"}, {"accept": "application/json, text/event-stream;q=0.5"})
        yield "async", run({"name": "Ada"}, ASYNC)
        yield "async in other words", run({"name": "Ada"}, {"prefer": "Respond-Async"})
        yield "async with a wait", run({"name": "Ada"}, {"prefer": "respond-async, wait=5"})
        yield "async and wrong", run({}, ASYNC)
        yield "async with own id", one("POST", post, ASYNC, {"id": f"{RUN}mine-2", "input": {"name": "Ada"}})
        yield "put", one("PUT", f"{post}/{RUN}put-1", None, {"input": {"name": "Ada"}})
        yield "put with the same id", one("PUT", f"{post}/{RUN}put-2", None, {"id": f"{RUN}put-2", "input": {"name": "Ada"}})
        yield "put with another id", one("PUT", f"{post}/{RUN}put-3", None, {"id": "other", "input": {"name": "Ada"}})
        yield "put and wrong", one("PUT", f"{post}/{RUN}put-4", None, {"input": {}})
        yield "put without a body", lambda server: [server.send("PUT", f"{post}/{RUN}put-5")]
        yield "put async", one("PUT", f"{post}/{RUN}put-6", ASYNC, {"input": {"name": "Ada"}})
        yield "put of a stream", one("PUT", f"{post}/{RUN}put-7", SSE, {"input": {"name": "Ada"}})
        yield "put twice", lambda server: [
            server.send("PUT", f"{post}/{RUN}put-8", None, {"input": {"name": name}}) for name in ("Ada", "Bob")
        ]
        yield "get", one("GET", f"{post}/{RUN}put-1")
        yield "cancel of one that has ended", one("POST", f"{post}/{RUN}put-1/cancel")
        yield "bad id", one("POST", post, None, {"id": "a b/c", "input": {"name": "Ada"}})
        yield "id of another type", one("POST", post, None, {"id": 5, "input": {"name": "Ada"}})
        yield "webhook of another type", one("POST", post, None, {"webhook": 5, "input": {"name": "Ada"}})
        yield "unknown webhook event", one("POST", post, None, {"webhook_events_filter": ["odd"], "input": {"name": "Ada"}})
    if name == "reporter":
        yield "sync", run({"count": 3})
        yield "default", run({})
        yield "one", run({"count": 1})
        yield "too few", run({"count": 0})
        yield "too many", run({"count": 1001})
        yield "a fraction", run({"count": 1.5})
        yield "text for a number", run({"count": "3"})
        yield "stream", run({"count": 3}, SSE)
        yield "stream of one", run({"count": 1}, SSE)
        yield "stream and wrong", run({"count": 0}, SSE)
        yield "put stream", one("PUT", f"{post}/{RUN}stream-1", SSE, {"input": {"count": 2}})
        yield "stream with own id", one("POST", post, SSE, {"id": f"{RUN}stream-2", "input": {"count": 2}})
    if name == "failing":
        yield "sync", run({"number": 1})
        yield "put", one("PUT", f"{post}/{RUN}fail-1", None, {"input": {}})
        yield "async", run({}, ASYNC)
    if name == "sleeper":
        path = f"{post}/{RUN}long-1"

        def running(server):
            """A prediction that runs, asked for again, canceled, and gone."""
            first = server.send("PUT", path, ASYNC, {"input": {"ms": 60000}})
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                again = server.send("PUT", path, ASYNC, {"input": {"ms": 60000}})
                if again.json().get("status") == "processing" and again.json().get("output"):
                    break
                time.sleep(0.05)
            health = server.send("GET", "/health-check")
            canceled = server.send("POST", f"{path}/cancel")
            settled(server, path)
            return [first, again, canceled, server.send("POST", f"{path}/cancel")]

        yield "running, canceled, gone", running
        yield "short sleep", run({"ms": 1})
        yield "short sleep as a stream", run({"ms": 1}, SSE)


def main():
    failures = compared = 0
    for name in ("hello", "reporter", "failing", "sleeper"):
        ours = Server(f"{BASE}/fn/{name}", TOKEN)
        schema = ours.send("GET", "/openapi.json").raise_for_status().json()
        oracle = Oracle(name, schema)
        try:
            for case, ask in cases(name):
                case = f"{name}: {case}"
                found = [seen(response) for response in ask(ours)]
                oracle.wait_until_ready()
                expected = [seen(response) for response in ask(oracle)]
                compared += 1
                is_same, reason = found == expected, reason_of(case)
                if is_same == (reason is None):
                    print(f"PASS {case}" + (f" (differs: {reason})" if reason else ""))
                else:
                    failures += 1
                    print(f"FAIL {case}" + ("" if not is_same else " no longer differs"))
                    print(f"     Dormouse {json.dumps(found)[:1000]}\n     Cog      {json.dumps(expected)[:1000]}")
        finally:
            oracle.stop()
    print(f"TOTAL {compared - failures} passed, {failures} failed, 0 skipped")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
