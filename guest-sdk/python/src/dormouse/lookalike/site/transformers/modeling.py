"""A causal language model that lives in the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from dormouse import threads
from dormouse.llm import Completion, Model
from dormouse.lookalike import seed as seeds
from dormouse.lookalike.tensor import Tensor

from .generation import GenerationConfig, TextIteratorStreamer, TextStreamer
from .tokenization import PADDING

NEW_TOKENS = 20
"""Tokens generated when no length is given, as in `transformers`."""

TOP_K = 50
"""Likeliest tokens that are sampled from when nothing else is said, as in `transformers`."""


class BitsAndBytesConfig:
    """How weights would be quantized; the host's are as their file has them."""

    def __init__(self, **options: Any) -> None:
        self.options = options


class AutoConfig:
    """Facts about a model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **options: Any) -> SimpleNamespace:
        """Its context length, dimension and vocabulary."""
        return _config(Model(pretrained_model_name_or_path))


class AutoModelForCausalLM:
    """A host model that continues text. Moving, casting or compiling it returns it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.name_or_path = model.name
        self.generation_config = GenerationConfig()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        torch_dtype: Any = None,
        dtype: Any = None,
        device_map: Any = None,
        low_cpu_mem_usage: bool = False,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        quantization_config: Any = None,
        attn_implementation: str | None = None,
        use_flash_attention_2: bool = False,
        use_cache: bool = True,
        use_safetensors: bool | None = None,
        offload_folder: Any = None,
        max_memory: Any = None,
        cache_dir: Any = None,
        local_files_only: bool = False,
        revision: str = "main",
        variant: str | None = None,
        token: Any = None,
        use_auth_token: Any = None,
        trust_remote_code: bool = False,
    ) -> AutoModelForCausalLM:
        """Opens the model of that name in the host; how weights would be loaded is ignored."""
        return cls(Model(pretrained_model_name_or_path))

    @property
    def config(self) -> SimpleNamespace:
        """Facts about the model."""
        return _config(self._model)

    @property
    def device(self) -> str:
        """Where it is, in name."""
        return "cpu"

    @property
    def dtype(self) -> str:
        """How its weights are stored."""
        return self._model.info.quantization

    def to(self, *place: Any, **options: Any) -> AutoModelForCausalLM:
        """The same model, as are the next ones."""
        return self

    cuda = cpu = half = float = bfloat16 = eval = requires_grad_ = to

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        **options: Any,
    ) -> Any:
        """Continues each row of token ids; the answer's rows begin with them.

        Takes the options of `Options`; another one is a `TypeError` that names it.
        """
        given = {**self.generation_config.options, **(generation_config or GenerationConfig()).options}
        return _Generation(self._model, Options(inputs, **{**given, **options})).run()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name_or_path!r})"


class Options:
    """The options of `generate` that have a meaning here."""

    def __init__(
        self,
        inputs: Any = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        max_new_tokens: int | None = None,
        max_length: int | None = None,
        do_sample: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        num_return_sequences: int = 1,
        num_beams: int = 1,
        stop_strings: str | Sequence[str] = (),
        stopping_criteria: Sequence[Callable[..., Any]] = (),
        streamer: TextStreamer | None = None,
        tokenizer: Any = None,
        eos_token_id: Any = None,
        pad_token_id: Any = None,
        bos_token_id: Any = None,
        use_cache: bool = True,
        early_stopping: bool = False,
        return_dict_in_generate: bool = False,
    ) -> None:
        if num_beams != 1:
            raise ValueError(f"num_beams is {num_beams}, the host decodes one beam")
        if num_return_sequences < 1:
            raise ValueError(f"num_return_sequences is {num_return_sequences}, it must be at least 1")
        ids = inputs if inputs is not None else input_ids
        if ids is None:
            raise ValueError("generate needs input_ids")
        self.ids = ids if isinstance(ids, Tensor) else Tensor(ids)
        self.mask = attention_mask
        self.max_new_tokens = max_new_tokens
        self.max_length = max_length
        self.sampling: dict[str, Any] = {"repeat_penalty": repetition_penalty}
        if do_sample:
            self.sampling |= {
                "temperature": 1.0 if temperature is None else temperature,
                "top_p": top_p,
                "top_k": TOP_K if top_k is None else top_k,
                "min_p": min_p,
            }
        self.do_sample = do_sample
        self.sequences = num_return_sequences
        self.stop = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
        self.criteria = list(stopping_criteria or ())
        self.streamer = streamer
        self.as_dict = return_dict_in_generate

    def new_tokens(self, prompt_tokens: int) -> int:
        """Tokens to generate after a prompt of that length."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is not None:
            return max(self.max_length - prompt_tokens, 1)
        return NEW_TOKENS


AutoModelForCausalLM.generate.takes = Options  # type: ignore[attr-defined]


class _Generation:
    """One call of `generate`: every row's completion is started before the first is waited for."""

    def __init__(self, model: Model, options: Options) -> None:
        self._model = model
        self._options = options

    def run(self) -> Any:
        options = self._options
        rows = [(row, source) for row, source in self._rows() for _ in range(options.sequences)]
        running = [self._start(row, source, number) for number, (row, source) in enumerate(rows)]
        generated: list[list[int]] = [[] for _ in rows]
        pieces = [
            self._pieces(row, completion, new)
            for (row, _), completion, new in zip(rows, running, generated, strict=True)
        ]
        if options.streamer is not None:
            self._stream(rows, pieces)
            if threads.is_deferred() and isinstance(options.streamer, TextIteratorStreamer):
                return None  # the thread's target: whoever reads the streamer runs it
        for rest in pieces:
            for _ in rest:
                pass
        outputs = [row + new for (row, _), new in zip(rows, generated, strict=True)]
        longest = max(map(len, outputs))
        sequences = Tensor([output + [PADDING] * (longest - len(output)) for output in outputs])
        return SimpleNamespace(sequences=sequences) if options.as_dict else sequences

    def _rows(self) -> list[tuple[list[int], Any]]:
        ids = self._options.ids
        data = ids.tolist() if ids.ndim == 2 else [ids.tolist()]
        sources = ids.sources or [None] * len(data)
        return list(zip(data, sources, strict=True))

    def _start(self, row: list[int], source: Any, number: int) -> Completion:
        options = self._options
        prompt: Any = [token for token in row if token != PADDING] if source is None else source
        sampling = dict(options.sampling)
        if options.do_sample and seeds.current is not None:
            sampling["seed"] = seeds.current + number
        return self._model.generate(
            prompt, max_tokens=options.new_tokens(len(row)), stop=[s for s in options.stop if s], **sampling
        )

    def _pieces(self, row: list[int], completion: Completion, new: list[int]) -> Iterator[str]:
        """The completion's text; its tokens are added to `new` on the way."""
        for chunk in completion.chunks():
            new.extend(chunk.tokens)
            if chunk.text:
                yield chunk.text
            ids = Tensor([row + new])
            if any(_says_yes(criterion(ids, None)) for criterion in self._options.criteria):
                return

    def _stream(self, rows: list[tuple[list[int], Any]], pieces: list[Iterator[str]]) -> None:
        streamer = self._options.streamer
        if len(rows) != 1 or streamer is None:
            raise ValueError(f"a streamer takes one sequence, and there are {len(rows)}")
        row = [token for token in rows[0][0] if token != PADDING]
        streamer.begin("" if streamer.skip_prompt else self._model.detokenize(row), pieces[0])
        if isinstance(streamer, TextIteratorStreamer) and not threads.is_deferred():
            streamer.drain()


def _says_yes(answer: Any) -> bool:
    return any(answer) if isinstance(answer, (list, Tensor)) else bool(answer)


def _config(model: Model) -> SimpleNamespace:
    info = model.info
    return SimpleNamespace(
        model_type=info.architecture,
        hidden_size=info.dimension,
        max_position_embeddings=info.context_length,
        vocab_size=info.vocabulary,
        eos_token_id=PADDING,
        pad_token_id=PADDING,
    )
