"""OpenAI's Python client."""

import json

import openai
import pytest

MODEL = "smollm2"
ASK = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 12,
}


@pytest.fixture(scope="module")
def client(base, token):
    return openai.OpenAI(api_key=token, base_url=f"{base}/v1", max_retries=0)


def test_a_chat_streamed_and_whole_is_the_same(client):
    whole = client.chat.completions.create(**ASK)
    assert "Paris" in whole.choices[0].message.content and whole._request_id
    chunks = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    chunks = list(chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_response_is_streamed_by_events(client):
    with client.responses.stream(model=MODEL, input="What is the capital of France?", temperature=0) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()
    assert types[0] == "response.created" and types[-1] == "response.completed"
    assert "Paris" in final.output_text


def test_embeddings_are_the_same_in_both_encodings(client):
    packed = client.embeddings.create(model=MODEL, input="dormouse").data[0].embedding
    plain = client.embeddings.create(model=MODEL, input="dormouse", encoding_format="float").data[0].embedding
    assert packed == pytest.approx(plain, abs=1e-4)


def test_an_answer_follows_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"sleepy": {"type": "boolean"}},
        "required": ["sleepy"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema, "strict": True}}
    ask = {**ASK, "max_tokens": 32}
    answer = json.loads(client.chat.completions.create(**ask, response_format=form).choices[0].message.content)
    assert list(answer) == ["sleepy"] and isinstance(answer["sleepy"], bool)


def test_errors_have_their_own_classes(client, base):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**{**ASK, "model": "absent"})
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="wrong", base_url=f"{base}/v1", max_retries=0).models.list()
