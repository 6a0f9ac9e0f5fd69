"""The seed that `torch.manual_seed` and `transformers.set_seed` set for completions that sample."""

current: int | None = None
