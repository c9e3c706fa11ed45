"""Which slot of an engine computes a request: the one that holds the beginning of its conversation.

An engine keeps the last prompt of each slot, and moves others to main memory (`--cache-ram`). It picks a slot by
itself, by the longest common prefix; but agents share long system prompts and tools, so with more conversations than
slots it overwrites one conversation with the next, and does not look into its memory, since some other slot is similar
enough. So each request names its slot (`id_slot`), and what would be lost is saved before.

How an engine saves and restores is its own decision, by two rules of `get_available_slot` in llama.cpp's
`server-context.cpp`: a slot whose prompt has nearly nothing in common with the new one is saved, and then replaced by
the best one in memory. So a prompt that is longer than the context saves a slot and changes nothing in it (it is
refused right after), and a prompt of one token saves and empties it, so that the next request is restored from memory.

Prompts of an earlier run of the engine may be in files (`slot_store.py`): such a one is loaded into a slot when a
request goes on with it.

What a slot holds is known from the requests alone, as hashes of blocks of their bodies: approximate, and enough to
choose. Plain data and synchronous methods; `EngineServer` sends the requests.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import blake2b
from typing import Any

import msgspec

from miner.core.wire import TokenUsage

BLOCK = 256
"""Bytes of a request body that are compared as one: about 64 tokens."""
_MAX_BYTES = 1 << 20
_IMAGE_BYTES = 64
_DIGEST = 8
_BYTES_PER_TOKEN = 4
_LITTLE = 64
"""Of so many tokens one may be lost and read again: copying the others takes as long."""
_SHARED = 8
"""Blocks from which a common prefix decides about the slot."""
_MIN_KEPT_TOKENS = 512
_MIN_ERASED_TOKENS = 1024
_MIN_FILED_TOKENS = 256
_WORTH = 8
"""A prompt is restored from its file where at least the n-th part of it need not be read again."""
_PROMPT_FIELDS = ("tools", "chat_template_kwargs", "reasoning_effort", "response_format")
"""Fields beside the messages that chat templates write into the prompt, at its beginning."""


class Step(Enum):
    """A request to the engine before the actual one."""

    SAVE = "save"
    """Copy the slot's prompt to main memory."""
    BLANK = "blank"
    """Move it there, so that the next request restores its own from there."""
    ERASE = "erase"
    """Forget it."""
    RESTORE = "restore"
    """Load a prompt that an earlier run of the engine left in a file."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The beginning of a prompt, in hashes that each stand for a block and all before it."""

    blocks: tuple[bytes, ...] = ()
    size: int = 0
    """Bytes."""
    digest: bytes = b""
    """Of all bytes."""
    tokens: int = 0
    """About how many; corrected by the reply."""
    conversation: bool = False
    """Whether it is likely to go on: there are tools or earlier replies."""
    portable: bool = True
    """Whether another run of the engine may go on with it: not with LoRA scales of its own, which no state records."""
    origin: int = field(default=0, compare=False)
    """A number of the conversation that it goes on from."""
    data: bytes = field(default=b"", compare=False, repr=False)
    """The bytes, until a slot is chosen."""

    def shared(self, other: Trace) -> int:
        """The number of blocks that both begin with."""
        low, high = 0, min(len(self.blocks), len(other.blocks))
        while low < high:  # a block that is equal in both stands for all before it
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.blocks[middle - 1] == other.blocks[middle - 1] else (low, middle - 1)
        return low

    def continues(self, other: Trace) -> bool:
        """Whether all of the other stands at its beginning. This one has its data."""
        if not other.size or other.size > self.size or self.shared(other) < len(other.blocks):
            return False
        return _digest(self.data[: other.size]) == other.digest

    def lost_to(self, other: Trace) -> int:
        """About how many of its tokens are lost where the other takes its slot: none where that continues it."""
        if not self.size or other.continues(self):
            return 0
        return max(1, round(self.tokens * (1 - self.shared(other) * BLOCK / self.size)))

    @property
    def worth_keeping(self) -> bool:
        """Whether reading it again would cost more than saving it."""
        return self.conversation and self.tokens >= _MIN_KEPT_TOKENS


def trace_of(body: dict[str, Any], *, conversation: bool = False) -> Trace:
    """The trace of a request body for chat or completions.

    Args:
        conversation: it is likely to go on, even if its messages do not show that.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        prompt = body.get("prompt")
        if "input_prefix" in body:  # of `/infill`, where the prompt is in the middle
            prompt = [body.get("input_extra"), body["input_prefix"]]
        data = _encoded(prompt)[:-1]  # without what closes it
    else:
        data = msgspec.json.encode([body[name] for name in _PROMPT_FIELDS if name in body])
        for message in messages:
            if len(data) < _MAX_BYTES:
                data += _encoded(message)
        conversation = conversation or any(
            isinstance(message, dict) and message.get("role") == "assistant" for message in messages
        )
    tokens, data = len(data) // _BYTES_PER_TOKEN, data[:_MAX_BYTES]
    running, blocks = blake2b(digest_size=_DIGEST), []
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        running.update(data[start : start + BLOCK])
        blocks.append(running.digest())
    return Trace(tuple(blocks), len(data), _digest(data), tokens, conversation, not body.get("lora"), data=data)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_DIGEST).digest()


def _encoded(value: Any) -> bytes:
    """JSON of a prompt or a message, of which long texts and images are shortened: hashing must not take long."""
    return msgspec.json.encode(_shortened(value))


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        if value.startswith("data:"):
            return f"{value[:_IMAGE_BYTES]}{value[-_IMAGE_BYTES:]}{len(value)}"
        return value if len(value) <= _MAX_BYTES else value[:_MAX_BYTES]
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return value if value and isinstance(value[0], int) else [_shortened(item) for item in value]
    return value


@dataclass(slots=True)
class _Slot:
    held: Trace | None = None
    """What it holds; None: nothing."""
    busy: int = 0
    released: int = 0
    """Number of its last release: the lowest is the least recently used."""


@dataclass(slots=True)
class Placement:
    """The slot of one request."""

    slot: int
    trace: Trace
    shared: int
    """Blocks of its prompt that the slot holds already."""
    steps: list[Step] = field(default_factory=list)
    total_tokens: int | None = None
    """Tokens of prompt and reply, once the reply says."""
    usage: TokenUsage | None = None

    @property
    def new_tokens(self) -> int:
        """About how many tokens have to be read."""
        return max(0, self.trace.tokens - self.shared * BLOCK // _BYTES_PER_TOKEN)

    def record(self, usage: TokenUsage | None) -> None:
        """What the reply says about its tokens, if it does."""
        if usage is not None:
            self.usage, self.total_tokens = usage, usage.total_tokens


class SlotTable:
    """The slots of one run of an engine, and what it has in main memory.

    Args:
        slots: their number. More requests than that are never placed at once, or share one.
        memory: bytes that the engine may use for saved prompts; 0: it saves none.
        size_of: bytes of a saved prompt of so many tokens.
    """

    def __init__(self, slots: int, *, memory: int = 0, size_of: Callable[[int], int] = int) -> None:
        self._slots = [_Slot() for _ in range(slots)]
        self._memory = memory
        self._size_of = size_of
        self._saved: deque[Trace] = deque()
        """As the engine has them: the oldest first, which it drops first."""
        self._numbers = itertools.count(1)

    def place(self, trace: Trace, wanted: int | None = None, filed: Trace | None = None) -> Placement:
        """Choose the slot of a request, and mark it as busy until `release`.

        Args:
            wanted: the slot that the client asked for.
            filed: the prompt in a file of which this one has the most.
        """
        if wanted is not None and wanted >= 0:
            number, steps = wanted % len(self._slots), list[Step]()
        else:
            number, steps = self._choose(trace, filed)
        slot = self._slots[number]
        restores = Step.RESTORE in steps
        if restores and filed is not None:
            if Step.SAVE in steps and slot.held is not None:
                self._save(slot.held)
            slot.held = replace(filed, origin=next(self._numbers))
        base = self._best_saved(trace) if Step.BLANK in steps else slot.held
        if base is not None and trace.continues(base):
            trace = replace(trace, origin=base.origin, conversation=trace.conversation or len(base.blocks) >= _SHARED)
        else:
            trace = replace(trace, origin=next(self._numbers))
        self._leave(slot.held, trace, [] if restores else steps)
        slot.busy += 1
        slot.held = None if Step.BLANK in steps else slot.held
        return Placement(number, trace, base.shared(trace) if base is not None else 0, steps)

    def not_restored(self, placement: Placement) -> None:
        """The file could not be loaded: its slot is empty."""
        self._slots[placement.slot].held = None
        placement.shared = 0

    def to_file(self) -> list[tuple[int, Trace]]:
        """The idle slots whose prompts are worth a file, the one that was used last first."""
        found = [
            (slot.released, number, slot.held) for number, slot in enumerate(self._slots)
            if not slot.busy and slot.held is not None
            and slot.held.portable and slot.held.tokens >= _MIN_FILED_TOKENS
        ]  # fmt: skip
        return [(number, held) for _, number, held in sorted(found, key=lambda one: -one[0])]

    def size_of(self, trace: Trace) -> int:
        """About how many bytes its state takes."""
        return self._size_of(trace.tokens)

    def begin(self, placement: Placement) -> None:
        """The engine has taken the request: from now on the slot holds its prompt."""
        placement.trace = replace(placement.trace, data=b"")
        self._slots[placement.slot].held = placement.trace

    def resume(self, placement: Placement) -> Placement:
        """A second request for the rest of a reply: on the same slot, if it is still free."""
        slot = self._slots[placement.slot]
        if slot.busy or slot.held is not placement.trace:
            return self.place(placement.trace)
        slot.busy += 1
        return Placement(placement.slot, placement.trace, len(placement.trace.blocks))

    def release(self, placement: Placement) -> None:
        """The request is done, successful or not."""
        slot = self._slots[placement.slot]
        slot.busy -= 1
        slot.released = next(self._numbers)
        if placement.total_tokens is not None and slot.held is placement.trace:
            slot.held = placement.trace = replace(placement.trace, tokens=placement.total_tokens)

    def _choose(self, trace: Trace, filed: Trace | None) -> tuple[int, list[Step]]:
        free = [(number, slot) for number, slot in enumerate(self._slots) if not slot.busy] or [
            min(enumerate(self._slots), key=lambda item: item[1].busy)
        ]
        shares = {number: slot.held.shared(trace) if slot.held else 0 for number, slot in free}
        lost = {number: slot.held.lost_to(trace) if slot.held else 0 for number, slot in free}
        # Of equals the one that loses least: a conversation that goes on before a copy of its beginning, and both
        # before an empty slot, since prompts of less than a block share none.
        best, slot = max(
            free, key=lambda item: (shares[item[0]], -lost[item[0]], item[1].held is not None, -item[1].released)
        )
        saved = self._best_saved(trace)
        if filed is not None:
            there = max(shares[best], saved.shared(trace) if saved is not None else 0)
            gained = filed.shared(trace) - there
            if gained > len(trace.blocks) // _LITTLE and gained * _WORTH >= len(filed.blocks):
                number, slot = self._least(free)
                keep = self._memory and _kept(slot)
                return number, [Step.SAVE, Step.RESTORE] if keep else [Step.RESTORE]
        if saved is not None and (
            saved.shared(trace) > shares[best] + len(trace.blocks) // _LITTLE
            or (trace.continues(saved) and (slot.held is None or lost[best]))
        ):
            number, slot = self._least(free)
            steps = self._forgotten(slot)
            if not steps and slot.held is not None and not self._survives(saved, slot.held):
                steps = [Step.ERASE]
            # An engine looks for a saved prompt only on a slot that holds something else.
            return number, [*steps, Step.BLANK]
        if slot.held is not None and (shares[best] >= _SHARED or not lost[best]):
            keep = self._memory and slot.held.worth_keeping and lost[best] > slot.held.tokens // _LITTLE
            return best, [Step.SAVE] if keep else []
        number, slot = self._least(free)
        return number, self._forgotten(slot)

    def _least(self, free: list[tuple[int, _Slot]]) -> tuple[int, _Slot]:
        """The slot that loses least: an empty one, one whose prompt is not worth keeping, the least recently used."""
        return min(free, key=lambda item: (item[1].held is not None, _kept(item[1]), item[1].released))

    def _forgotten(self, slot: _Slot) -> list[Step]:
        """An engine would save any prompt that is replaced: a long one that will not go on is dropped instead."""
        held = slot.held
        if self._memory and held is not None and not held.worth_keeping and held.tokens >= _MIN_ERASED_TOKENS:
            return [Step.ERASE]
        return []

    def _leave(self, held: Trace | None, trace: Trace, steps: list[Step]) -> None:
        """Record what the engine will have in memory after these steps and the request."""
        if not self._memory:
            return
        restored = self._best_saved(trace) if Step.BLANK in steps else None
        if held is not None and Step.ERASE not in steps:
            replaced = 2 * held.shared(trace) < len(held.blocks)
            if Step.SAVE in steps or Step.BLANK in steps or replaced:
                self._save(held)
        if restored is not None and restored in self._saved:
            self._saved.remove(restored)

    def _best_saved(self, trace: Trace) -> Trace | None:
        """The saved prompt that the engine restores for this one."""
        return max(self._saved, key=lambda one: (one.shared(trace), trace.continues(one)), default=None)

    def _save(self, trace: Trace) -> None:
        size = self._size_of(trace.tokens)
        if size > self._memory:
            return
        # An earlier state of the same conversation is replaced.
        self._saved = deque(one for one in self._saved if one.origin != trace.origin)
        used = sum(self._size_of(one.tokens) for one in self._saved) + size
        while self._saved and used > self._memory:
            used -= self._size_of(self._saved.popleft().tokens)
        self._saved.append(trace)

    def _survives(self, saved: Trace, added: Trace) -> bool:
        """Whether a saved prompt is still there once another one was added."""
        newer = itertools.dropwhile(lambda one: one is not saved, self._saved)
        return sum(self._size_of(one.tokens) for one in (*newer, added)) <= self._memory


def _kept(slot: _Slot) -> bool:
    return slot.held is not None and slot.held.worth_keeping
