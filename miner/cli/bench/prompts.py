"""Prompts of a given length in tokens, all different, so that no prefix cache has seen one before."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

from msgspec import Struct

from miner.cli.bench.words import WORDS

Count = Callable[[str], Awaitable[int]]
"""Returns the tokens of a text; the same constant more for every text does no harm."""

_FEW, _MANY = 8, 104
_TRIES = 6
_SHORTEST = "a"


class Scale(Struct, frozen=True):
    """How many tokens a word has."""

    tokens_per_word: float = 1.0
    constant: float = 0.0
    """Tokens that a text has apart from its words, such as the one that begins a text."""

    @property
    def exact(self) -> bool:
        """Whether every word is one token, so that lengths need no check."""
        return self.tokens_per_word == 1.0

    def words(self, tokens: int) -> int:
        """Words of a text with so many tokens."""
        return max(1, round((tokens - self.constant) / self.tokens_per_word))


class Prompts:
    """Makes texts of random words.

    Args:
        seed: the same seed makes the same texts in the same order.
    """

    def __init__(self, seed: int, scale: Scale) -> None:
        self._random = random.Random(f"prompts {seed}")
        self._scale = scale

    def text(self, tokens: int) -> str:
        """The next text."""
        return " ".join(self._random.choices(WORDS, k=self._scale.words(tokens)))

    async def exact_text(self, tokens: int, count: Count) -> str:
        """The next text, its length checked and corrected by counting: the closest that was found. Not every length can
        be had where even the shortest word is several tokens.
        """
        words, per_word = self.text(tokens).split(), self._scale.tokens_per_word
        closest, off = words, math.inf
        for _ in range(_TRIES):
            more = tokens - await count(" ".join(words))
            if abs(more) < off:
                closest, off = words.copy(), abs(more)
            if not more:
                break
            if more >= per_word:
                words += self._random.choices(WORDS, k=int(more / per_word))
            elif more > 0:
                words += [_SHORTEST] * max(1, more // 2)
            else:
                del words[max(1, len(words) - math.ceil(-more / per_word)) :]
        return " ".join(closest)


async def measure_scale(count: Count, seed: int, *, whole: bool) -> Scale:
    """Find out how many tokens a word has, by counting two texts.

    Args:
        whole: `count` counts the text alone, so that what it counts beside the words belongs to the length; else that
            is the chat template, which does not.
    """
    prompts = Prompts(seed, Scale())
    few, many = await count(prompts.text(_FEW)), await count(prompts.text(_MANY))
    per_word = (many - few) / (_MANY - _FEW)
    if per_word <= 0:
        raise ValueError(f"{_FEW} words were counted as {few} tokens, {_MANY} words as {many}")
    return Scale(per_word, few - _FEW * per_word if whole else 0.0)
