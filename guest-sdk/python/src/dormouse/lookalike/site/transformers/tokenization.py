"""A tokenizer whose vocabulary lives in the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dormouse.llm import Model
from dormouse.lookalike.tensor import Tensor

PADDING = -1
"""Stands for padding, which the host needs none of."""


class BatchEncoding(dict[str, Any]):
    """Token ids with their mask, as a tokenizer answers. Moving it returns it."""

    def to(self, *place: Any, **options: Any) -> BatchEncoding:
        """The same encoding, as are `cuda` and `cpu`."""
        return self

    cuda = cpu = to

    @property
    def input_ids(self) -> Any:
        """The token ids."""
        return self["input_ids"]

    @property
    def attention_mask(self) -> Any:
        """1 for each token that counts."""
        return self["attention_mask"]


class AutoTokenizer:
    """The tokenizer of a host model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.name_or_path = model.name
        # Files set these to make padding work; the host needs none.
        self.pad_token = self.eos_token = self.bos_token = self.unk_token = ""
        self.pad_token_id = self.eos_token_id = self.bos_token_id = PADDING
        self.padding_side = "left"
        self._control: dict[int, bool] = {}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        use_fast: bool = True,
        legacy: bool = False,
        padding_side: str = "left",
        add_eos_token: bool = False,
        add_bos_token: bool = True,
        model_max_length: int | None = None,
        cache_dir: Any = None,
        local_files_only: bool = False,
        revision: str = "main",
        token: Any = None,
        use_auth_token: Any = None,
        trust_remote_code: bool = False,
    ) -> AutoTokenizer:
        """Opens the model of that name in the host; where files would come from is ignored."""
        return cls(Model(pretrained_model_name_or_path))

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._model.info.vocabulary

    @property
    def model_max_length(self) -> int:
        """The most tokens a sequence may have."""
        return self._model.info.context_length

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(
        self,
        text: Any,
        *,
        return_tensors: str | None = None,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
    ) -> BatchEncoding:
        """Token ids of a text, or of each of several."""
        texts = [text] if isinstance(text, str) else list(text)
        limit = max_length if truncation else None
        rows = [self._model.tokenize_rendered(one)[:limit] for one in texts]
        longest = max(map(len, rows), default=0)
        ids = [[PADDING] * (longest - len(row)) + row for row in rows] if padding else rows
        mask = [
            [0] * (len(padded) - len(row)) + [1] * len(row) for padded, row in zip(ids, rows, strict=True)
        ]
        if return_tensors is None and isinstance(text, str):
            return BatchEncoding(input_ids=ids[0], attention_mask=mask[0])
        if return_tensors is None:
            return BatchEncoding(input_ids=ids, attention_mask=mask)
        sources = [self._source(one, row) for one, row in zip(texts, rows, strict=True)]
        return BatchEncoding(input_ids=Tensor(ids, sources), attention_mask=Tensor(mask))

    def encode(self, text: str, **options: Any) -> Any:
        """The token ids alone."""
        return self(text, **options)["input_ids"]

    def tokenize(self, text: str) -> list[str]:
        """The text of each token."""
        return self.convert_ids_to_tokens(self._model.tokenize_rendered(text))

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token by its text, or of each of several; `None` for a text that is no token."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        ids = self._model.tokenize_rendered(tokens)
        return ids[0] if len(ids) == 1 else None

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        """The text of each token."""
        return [self._model.detokenize([token]) for token in _ids(ids)]

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of token ids, without control tokens where they are to be skipped."""
        ids = [token for token in _ids(token_ids) if token != PADDING]
        if skip_special_tokens:
            ids = [token for token in ids if not self._is_control(token)]
        return self._model.detokenize(ids)

    def batch_decode(
        self,
        sequences: Iterable[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The text of each row of token ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = True,
        return_tensors: str | None = None,
        return_dict: bool = False,
    ) -> Any:
        """A chat in the model's own template, as text or as token ids.

        It always ends where the assistant's turn begins, which is where generation goes on.
        """
        text = self._model.render(conversation)
        if not tokenize:
            return text
        encoding = self([text] if return_tensors else text, return_tensors=return_tensors)
        return encoding if return_dict else encoding.input_ids

    def _source(self, text: str, row: list[int]) -> str | None:
        """The text, where the model may read it itself: nothing cut off, no control token spelled in it."""
        return text if self._model.tokenize(text) == row else None

    def _is_control(self, token: int) -> bool:
        """Whether a token's text, as text, is another token."""
        if token not in self._control:
            text = self._model.detokenize([token])
            is_spelled = self._model.tokenize_rendered(text) == [token]
            self._control[token] = is_spelled and self._model.tokenize(text) != [token]
        return self._control[token]


def _ids(ids: Any) -> list[int]:
    ids = ids.tolist() if isinstance(ids, Tensor) else ids
    flat = [ids] if isinstance(ids, int) else list(ids)
    return list(flat[0]) if len(flat) == 1 and isinstance(flat[0], list) else flat
