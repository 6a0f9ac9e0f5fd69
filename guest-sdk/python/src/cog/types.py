"""`from cog.types import ...` of a Cog predictor."""

from dormouse.types import *  # noqa: F403
