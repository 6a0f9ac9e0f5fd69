from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from conftest import FakeHost
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, pipeline

from dormouse import lookalike, threads
from dormouse.lookalike.tensor import Tensor

assert transformers.__file__ is not None and transformers.__file__.startswith(lookalike.SITE)


@pytest.fixture
def model(fake_host: FakeHost) -> Any:
    return AutoModelForCausalLM.from_pretrained("m", torch_dtype=torch.float16).to("cuda").eval()


@pytest.fixture
def tokenizer(fake_host: FakeHost) -> Any:
    return AutoTokenizer.from_pretrained("m")


def with_tokens_of(model: Any) -> Any:
    """A tokenizer of the same host model: the fake's vocabularies are their own."""
    return AutoTokenizer(model._model)


def test_the_tutorial_runs(model: Any) -> None:
    tokenizer = with_tokens_of(model)
    inputs = tokenizer("Once upon a time", return_tensors="pt").cuda()
    outputs = model.cuda().generate(**inputs, max_new_tokens=3)
    assert tokenizer.decode(outputs[0]) == "Once upon a time w0 w1 w2"


def test_the_prompt_goes_to_the_model_as_text(model: Any, fake_host: FakeHost) -> None:
    inputs = with_tokens_of(model)("Once upon", return_tensors="pt").to("cuda")
    model.generate(inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=1)
    request = fake_host.models[0].requests[0]
    assert request.prompt == "Once upon" and request.sampling.temperature is None


def test_sampling_takes_the_defaults_of_transformers(model: Any, fake_host: FakeHost) -> None:
    torch.manual_seed(7)
    inputs = with_tokens_of(model)("a", return_tensors="pt")
    model.generate(**inputs, do_sample=True, num_return_sequences=2, repetition_penalty=1.5)
    first, second = fake_host.models[0].requests
    assert (first.sampling.temperature, first.sampling.top_k, first.sampling.repeat_penalty) == (1.0, 50, 1.5)
    assert (first.sampling.seed, second.sampling.seed) == (7, 8)
    assert first.max_tokens == 20


def test_the_new_tokens_can_be_cut_off(model: Any) -> None:
    tokenizer = with_tokens_of(model)
    inputs = tokenizer(["one two", "one two"], return_tensors="pt", padding=True)
    outputs = model.generate(**inputs, max_new_tokens=2)
    assert outputs.shape == (2, 4)
    new = outputs[:, inputs["input_ids"].shape[1] :]
    assert tokenizer.batch_decode(new, skip_special_tokens=True) == [" w0 w1", " w0 w1"]


def test_chats_are_rendered_by_the_host(model: Any, fake_host: FakeHost) -> None:
    tokenizer = with_tokens_of(model)
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer([text], return_tensors="pt").to(model.device)
    outputs = model.generate(**inputs, max_new_tokens=2)
    new = [ids[len(given) :] for given, ids in zip(inputs.input_ids, outputs, strict=True)]
    assert tokenizer.batch_decode(new)[0] == " w0 w1"
    prompt = fake_host.models[0].requests[-1].prompt
    assert text == "user: Hi<end>assistant:" and prompt == model._model.tokenize_rendered(text)
    assert tokenizer.decode(prompt) == text
    assert tokenizer.decode(prompt, skip_special_tokens=True) == "user: Hiassistant:"
    assert tokenizer.apply_chat_template(messages, return_tensors="pt").shape == (1, len(prompt))


def test_control_tokens_spelled_in_a_prompt_are_read_as_such(model: Any, fake_host: FakeHost) -> None:
    tokenizer = with_tokens_of(model)
    inputs = tokenizer("a <end>b", return_tensors="pt")
    model.generate(**inputs, max_new_tokens=1)
    end = tokenizer.convert_tokens_to_ids("<end>")
    assert end is not None and fake_host.models[0].requests[-1].prompt == inputs.input_ids[0].tolist()
    assert inputs.input_ids[0][-2].item() == end
    assert tokenizer.convert_tokens_to_ids("two words") is None


def test_a_streamer_in_a_thread_yields_as_it_comes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(threading.Thread, "start", threads._start)
    tokenizer = with_tokens_of(model)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    inputs = tokenizer("a", return_tensors="pt")
    options = {**inputs, "streamer": streamer, "max_new_tokens": 3}
    thread = threading.Thread(target=model.generate, kwargs=options)
    thread.start()
    assert list(streamer) == [" w0", " w1", " w2"]


def test_stopping_criteria_end_a_generation(model: Any) -> None:
    class Two(transformers.StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **options: Any) -> bool:
            return len(input_ids[0]) >= 3

    inputs = with_tokens_of(model)("a", return_tensors="pt")
    stopping = transformers.StoppingCriteriaList([Two()])
    assert model.generate(**inputs, max_new_tokens=5, stopping_criteria=stopping).shape == (1, 3)


def test_a_pipeline_answers_text_and_chats(fake_host: FakeHost) -> None:
    generator = pipeline("text-generation", model="m", max_new_tokens=2)
    generator.tokenizer = with_tokens_of(generator.model)
    assert generator("Once") == [{"generated_text": "Once w0 w1"}]
    assert generator("Once", return_full_text=False) == [{"generated_text": " w0 w1"}]
    chat = [{"role": "user", "content": "Hi"}]
    assert generator(chat)[0]["generated_text"][-1] == {"role": "assistant", "content": " w0 w1"}
    assert len(generator(["a", "b"])) == 2


def test_what_has_no_counterpart_is_named(model: Any) -> None:
    inputs = with_tokens_of(model)("a", return_tensors="pt")
    with pytest.raises(ValueError, match="num_beams is 4"):
        model.generate(**inputs, num_beams=4)
    with pytest.raises(TypeError, match="logits_processor"):
        model.generate(**inputs, logits_processor=[])
    with pytest.raises(ValueError, match="image-classification"):
        pipeline("image-classification", model="m")


def test_tensors_slice_like_tensors() -> None:
    tensor = Tensor([[1, 2, 3], [4, 5, 6]])
    assert tensor.shape == (2, 3) and tensor[0].tolist() == [1, 2, 3]
    assert tensor[:, 1:].tolist() == [[2, 3], [5, 6]] and tensor[1, -1].item() == 6
    assert tensor[0][1:].tolist() == [2, 3] and tensor.size(0) == 2 and tensor[0].unsqueeze(0).shape == (1, 3)


def test_blocks_without_gradients_work_as_contexts_and_decorators() -> None:
    with torch.no_grad(), torch.inference_mode():
        pass

    @torch.inference_mode()
    def one() -> int:
        return 1

    @torch.no_grad()
    def two() -> int:
        return 2

    assert (one(), two()) == (1, 2)
