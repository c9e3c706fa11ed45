"""How many examples the tests with random input try: few in every run, all of them where FULL_FUZZING is set."""

from __future__ import annotations

import os

__all__ = ["examples"]


def examples(few: int, full: int) -> int:
    """`few`, or `full` where the environment has FULL_FUZZING (a run by hand: minutes more)."""
    return full if os.environ.get("FULL_FUZZING") else few
