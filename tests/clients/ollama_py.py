#!/usr/bin/env python3
"""Dormouse with the unmodified `ollama` client.

    BASE_URL=http://127.0.0.1:8080 TOKEN=... LLM=smollm2 CHAT=chat python ollama_py.py
"""

import json

import ollama
from _check import BASE, CHAT, LLM, TOKEN, check, done

client = ollama.Client(host=BASE, headers={"authorization": f"Bearer {TOKEN}"} if TOKEN else {})
GREEDY = {"temperature": 0, "num_predict": 24}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@check("list and show")
def _():
    names = [model.model for model in client.list().models]
    assert f"{LLM}:latest" in names, names
    shown = client.show(LLM)
    assert shown.modelinfo["general.architecture"] and "completion" in shown.capabilities, shown


@check("chat, whole and in pieces")
def _():
    whole = client.chat(LLM, messages=QUESTION, options=GREEDY)
    assert "Paris" in whole.message.content and whole.eval_count > 0, whole
    pieces = list(client.chat(LLM, messages=QUESTION, options=GREEDY, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert pieces[-1].done and pieces[-1].done_reason in ("stop", "length"), pieces[-1]


@check("generate, raw too")
def _():
    text = client.generate(LLM, prompt="Name a color.", options=GREEDY)
    assert text.response and text.total_duration > 0, text
    raw = client.generate(LLM, prompt="Once upon a", raw=True, options=GREEDY)
    assert raw.response.startswith(" time"), raw.response


@check("a schema holds the answer")
def _():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
    answer = client.chat(LLM, messages=QUESTION, format=schema, options=GREEDY)
    assert isinstance(json.loads(answer.message.content)["n"], int), answer


@check("tools")
def _():
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    answer = client.chat(LLM, messages=[{"role": "user", "content": "What is 1 + 2?"}], tools=[add], options=GREEDY)
    assert answer.message.content or answer.message.tool_calls, answer


@check("embed")
def _():
    vectors = client.embed(LLM, input=["a cat", "a cat", "tax law"]).embeddings
    assert vectors[0] == vectors[1] != vectors[2]
    assert len(client.embeddings(LLM, prompt="a cat").embedding) == len(vectors[0])


@check("load, ps, unload")
def _():
    client.generate(LLM, prompt="", keep_alive="10m")
    awake = client.ps().models
    assert any(model.model == f"{LLM}:latest" and model.expires_at for model in awake), awake
    assert client.generate(LLM, prompt="", keep_alive=0).done_reason == "unload"
    assert not any(model.model == f"{LLM}:latest" for model in client.ps().models)


@check("a function under a model's name")
def _():
    answer = client.chat(CHAT, messages=QUESTION, options=GREEDY)
    assert "Paris" in answer.message.content, answer


@check("errors")
def _():
    for call in (
        lambda: client.chat("absent", messages=QUESTION),
        lambda: client.show("absent"),
        lambda: client.delete("absent"),
        lambda: client.copy(LLM, "other"),
        lambda: client.pull("absent"),
    ):
        try:
            call()
        except ollama.ResponseError as error:
            assert error.status_code in (400, 404) and error.error, error
        else:
            raise AssertionError("it should have failed")


done()
