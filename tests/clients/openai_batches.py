#!/usr/bin/env python3
"""Files, batches, and functions under models' names with the unmodified `openai` client.

    BASE_URL=http://127.0.0.1:8080 TOKEN=... LLM=smollm2 CHAT=chat python openai_batches.py
"""

import io
import json
import time

import openai
from _check import BASE, CHAT, LLM, TOKEN, check, done

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=TOKEN or "none")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
# Longest wait for a batch.
PATIENCE = 120.0


def upload(lines):
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return client.files.create(file=("in.jsonl", io.BytesIO(text)), purpose="batch")


def line(custom_id, model):
    body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def start(file):
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def wait(batch):
    end = time.monotonic() + PATIENCE
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < end, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    return batch


@check("files")
def _():
    file = upload([line("a", LLM)])
    assert file.object == "file" and file.purpose == "batch" and file.bytes > 0, file
    assert client.files.retrieve(file.id).id == file.id
    assert json.loads(client.files.content(file.id).read())["custom_id"] == "a"
    assert file.id in [other.id for other in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted
    try:
        client.files.retrieve(file.id)
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("it is still there")


@check("a batch of models and functions")
def _():
    batch = wait(start(upload([line("model", LLM), line("function", CHAT), line("absent", "absent")])))
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1), counts
    answers = {}
    for text in client.files.content(batch.output_file_id).text.splitlines():
        answer = json.loads(text)
        answers[answer["custom_id"]] = answer["response"]["body"]["choices"][0]["message"]["content"]
    assert "Paris" in answers["model"] and "Paris" in answers["function"], answers
    errors = json.loads(client.files.content(batch.error_file_id).text)
    assert errors["custom_id"] == "absent" and errors["response"]["status_code"] == 404, errors
    assert batch.id in [other.id for other in client.batches.list(limit=5)]


@check("a batch whose input is wrong")
def _():
    batch = start(upload([line("a", LLM), line("a", LLM)]))
    assert batch.status == "failed" and batch.errors.data[0].code == "duplicate_custom_id", batch


@check("a batch that is canceled")
def _():
    batch = start(upload([line(f"r{at}", LLM) for at in range(200)]))
    client.batches.cancel(batch.id)
    assert wait(client.batches.retrieve(batch.id)).status == "cancelled"


@check("a function answers chats and responses")
def _():
    chat = client.chat.completions.create(model=CHAT, messages=QUESTION, temperature=0, max_tokens=16)
    assert "Paris" in chat.choices[0].message.content and chat.usage.completion_tokens > 0, chat
    stream = client.chat.completions.create(model=CHAT, messages=QUESTION, temperature=0, max_tokens=16, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == chat.choices[0].message.content, text
    response = client.responses.create(model=CHAT, input="What is the capital of France?", temperature=0)
    assert "Paris" in response.output_text, response
    assert CHAT in [model.id for model in client.models.list()]


done()
