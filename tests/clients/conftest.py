"""What the tests of clients share: where the service is, and someone who takes its webhooks."""

import http.server
import os
import queue
import threading

import pytest

PATIENCE = 60


@pytest.fixture(scope="session")
def base():
    return os.environ["BASE_URL"].rstrip("/")


@pytest.fixture(scope="session")
def token():
    return os.environ["TOKEN"]


@pytest.fixture
def receiver():
    """Takes messages; `url` is where, `next()` gives the next one's headers and body."""
    messages = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()
            messages.put((dict(self.headers.items()), body))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.next = lambda: messages.get(timeout=PATIENCE)
    yield server
    server.shutdown()
