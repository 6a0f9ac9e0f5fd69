"""`pipeline("text-generation")`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dormouse.lookalike.tensor import Tensor

from .modeling import AutoModelForCausalLM
from .tokenization import AutoTokenizer

TASKS = ("text-generation",)
"""Tasks that a host model can do."""


def pipeline(
    task: str | None = None,
    model: Any = None,
    *,
    tokenizer: Any = None,
    device: Any = None,
    device_map: Any = None,
    torch_dtype: Any = None,
    dtype: Any = None,
    model_kwargs: Any = None,
    trust_remote_code: bool = False,
    framework: str | None = None,
    token: Any = None,
    **options: Any,
) -> TextGenerationPipeline:
    """A text generator on a host model; further options are those of its calls."""
    if task is not None and task not in TASKS:
        raise ValueError(f"pipeline task {task!r} has no host model, {' and '.join(TASKS)} has")
    if model is None:
        raise ValueError("pipeline needs the name of a host model")
    causal = AutoModelForCausalLM.from_pretrained(model) if isinstance(model, str) else model
    if not isinstance(tokenizer, AutoTokenizer):
        tokenizer = AutoTokenizer.from_pretrained(causal.name_or_path)
    return TextGenerationPipeline(causal, tokenizer, **options)


class TextGenerationPipeline:
    """Continues text or answers chats."""

    task = "text-generation"

    def __init__(self, model: AutoModelForCausalLM, tokenizer: AutoTokenizer, **options: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._options = options

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """`[{"generated_text": ...}]` for a text or chat; a list of these for several."""
        options = {**self._options, **options}
        is_full = options.pop("return_full_text", True)
        for ignored in ("truncation", "padding", "batch_size", "clean_up_tokenization_spaces"):
            options.pop(ignored, None)
        if _is_chat(text_inputs) or isinstance(text_inputs, str):
            return self._answer(text_inputs, is_full, options)
        return [self._answer(one, is_full, options) for one in text_inputs]

    def _answer(self, prompt: Any, is_full: bool, options: dict[str, Any]) -> list[dict[str, Any]]:
        text = prompt
        if _is_chat(prompt):
            text = self.tokenizer.apply_chat_template(prompt, tokenize=False)
        inputs = self.tokenizer([text], return_tensors="pt")
        outputs: Tensor = self.model.generate(**inputs, **options)
        start = inputs.input_ids.shape[1]
        return [{"generated_text": self._text(prompt, row[start:], is_full)} for row in outputs]

    def _text(self, prompt: Any, new: Tensor, is_full: bool) -> Any:
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        if not is_full:
            return text
        return [*prompt, {"role": "assistant", "content": text}] if _is_chat(prompt) else prompt + text


def _is_chat(prompt: Any) -> bool:
    is_list = isinstance(prompt, Sequence) and not isinstance(prompt, str)
    return is_list and all(isinstance(message, dict) and "role" in message for message in prompt)
