"""Stand-ins for `torch` and `transformers`, as far as Cog tutorials use them to run a language model.

The weights live in the host, so what moves, casts or compiles a model changes nothing here, and what
would read its weights or logits is missing. The build puts `SITE` on the component's path and compares
an author's file with what is there (`dormouse.build.usage`).
"""

import os

SITE = os.path.join(os.path.dirname(__file__), "site")
"""The folder that holds the packages `torch` and `transformers`."""

PACKAGES = ("torch", "transformers")
"""What an author imports and this folder answers."""
