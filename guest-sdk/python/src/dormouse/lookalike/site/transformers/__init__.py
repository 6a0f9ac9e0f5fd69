"""The names of `transformers` that a tutorial uses to run a language model. See `dormouse.lookalike`."""

from __future__ import annotations

from dormouse.lookalike import seed as _seed

from . import utils
from .generation import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)
from .modeling import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from .pipelines import TextGenerationPipeline, pipeline
from .tokenization import AutoTokenizer, BatchEncoding
from .utils import logging

__version__ = "0.0.0+dormouse"

LlamaForCausalLM = MistralForCausalLM = Qwen2ForCausalLM = AutoModelForCausalLM
PreTrainedModel = AutoModelForCausalLM
LlamaTokenizer = LlamaTokenizerFast = PreTrainedTokenizerFast = AutoTokenizer
PreTrainedTokenizer = PreTrainedTokenizerBase = AutoTokenizer


def set_seed(seed: int, deterministic: bool = False) -> None:
    """The seed of completions that sample."""
    _seed.current = seed


__all__ = [
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BatchEncoding",
    "BitsAndBytesConfig",
    "GenerationConfig",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextStreamer",
    "logging",
    "pipeline",
    "set_seed",
    "utils",
]
