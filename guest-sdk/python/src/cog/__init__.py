"""`import cog` of a Cog predictor, answered by the Dormouse SDK.

Not to be installed beside the real `cog`: the two are the same name.
"""

import dormouse as _dormouse
from dormouse import *  # noqa: F403
from dormouse import __all__ as _names
from dormouse.files import open_url as URLFile
from dormouse.files import receive as URLPath

__version__ = _dormouse.__version__


class ExperimentalFeatureWarning(FutureWarning):
    """Never raised; files import it to silence it."""


__all__ = [*_names, "ExperimentalFeatureWarning", "URLFile", "URLPath"]
