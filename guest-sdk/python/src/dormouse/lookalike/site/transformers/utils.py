"""`transformers.utils`: as far as files silence it."""

from __future__ import annotations


class logging:
    """`transformers.logging`: there is nothing to silence."""

    @staticmethod
    def set_verbosity_error() -> None:
        """Nothing is said."""

    set_verbosity_warning = set_verbosity_info = disable_progress_bar = set_verbosity_error
