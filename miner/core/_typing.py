"""`override`, which the standard library has from Python 3.12 on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

__all__ = ["override"]

T = TypeVar("T")

if sys.version_info >= (3, 12):
    from typing import override
elif TYPE_CHECKING:
    from typing_extensions import override
else:

    def override(method: T) -> T:
        """Return the method; importing `typing_extensions` for this would cost a third of `miner --help`."""
        return method
