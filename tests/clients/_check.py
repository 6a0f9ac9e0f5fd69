"""One line per check; a script exits with 1 when one failed."""

import os
import sys
import traceback
import urllib.request

BASE = os.environ.get("BASE_URL", "http://127.0.0.1:8080").rstrip("/")
TOKEN = os.environ.get("TOKEN", "")
LLM = os.environ.get("LLM", "smollm2")
HELLO = os.environ.get("HELLO", "hello")
CHAT = os.environ.get("CHAT", "chat")

_failed = []


def check(name):
    """Runs a function as a check of this name, at once."""

    def run(function):
        try:
            function()
            print(f"ok   {name}")
        except Exception:
            _failed.append(name)
            print(f"FAIL {name}\n{traceback.format_exc()}")
        return function

    return run


def component(function):
    """The component of a function, built beside this script or named by the environment."""
    path = os.environ.get("COMPONENT")
    if not path:
        sys.exit("COMPONENT names a component to deploy, such as hello's .wasm")
    with open(path, "rb") as file:
        return file.read()


def request(method, path):
    headers = {"authorization": f"Bearer {TOKEN}"} if TOKEN else {}
    return urllib.request.urlopen(urllib.request.Request(BASE + path, method=method, headers=headers))


def done():
    if _failed:
        sys.exit(f"{len(_failed)} failed: {', '.join(_failed)}")
