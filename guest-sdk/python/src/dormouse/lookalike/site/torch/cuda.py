"""`torch.cuda`: there is no GPU inside a component; the host's is the model's."""

from __future__ import annotations


def is_available() -> bool:
    """Never: `"cuda" if is_available() else "cpu"` then names the processor."""
    return False


def device_count() -> int:
    """None."""
    return 0


def empty_cache() -> None:
    """Nothing is kept."""


def synchronize() -> None:
    """Nothing is pending."""


def manual_seed_all(seed: int) -> None:
    """The seed of completions that sample."""
    from dormouse.lookalike import seed as seeds

    seeds.current = seed


manual_seed = manual_seed_all
