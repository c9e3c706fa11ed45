"""Which of the known names was meant by one that is not known; the same for options, commands, settings and files."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NEAR = 0.65
"""Similarity of two names (`difflib`) from which one may be a slip for the other."""
_SURE = 0.8
"""Similarity from which it is a slip, whatever other names have the same parts."""
_SHORTEST = 3
"""Characters of a part of a name, or of its beginning, that say which name is meant."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is the same but for case and dashes, or differs by a slip, or by a part that is missing or
    one too many (`--rate` for `--request-rate`); None: none is near.
    """
    from difflib import SequenceMatcher  # here: `miner --help` needs none of it

    word = _plain(name)
    parts = set(word.split("_"))
    matcher = SequenceMatcher(b=word)
    best, best_rank = None, (False, 0.0)
    for each in known:
        other = _plain(each)
        if other == word:
            return each
        if other == f"no_{word}":  # the opposite
            continue
        matcher.set_seq1(other)
        likeness = matcher.ratio()
        theirs = set(other.split("_"))
        shared = min(len(word), len(other)) >= _SHORTEST and (
            parts <= theirs or theirs <= parts or other.startswith(word)
        )
        if likeness >= _NEAR or shared:
            rank = (shared or likeness >= _SURE, likeness)
            if rank > best_rank:
                best, best_rank = each, rank
    return best


def _plain(name: str) -> str:
    """Without what does not tell names apart: case, the dashes of an option, and what stands between parts."""
    return re.sub(r"[^\w]+", "_", name.lower().lstrip("-"))
