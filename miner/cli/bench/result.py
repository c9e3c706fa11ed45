"""The result of `miner bench`: what `--json` prints and `--output` writes, and what reports and comparisons read.

Times are seconds, lengths tokens, memory bytes, rates per second. A figure that was not measured is null, never 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from miner import __version__
from miner.cli.bench.hiding import shown_command, taken
from miner.cli.bench.statistics import Statistics
from miner.cli.doctor.redact import Redaction
from miner.cli.parser import UsageError
from miner.config.file.problems import hidden

__all__ = [
    "Goodput", "Machine", "Result", "Run", "Sample", "Statistics", "Target", "TimelinePoint", "Workload", "from_json",
    "hide_secrets", "read", "rounded", "to_json",
]  # fmt: skip

KIND = "miner-bench"
VERSION = 1
"""Goes up when a reader of the version before would misread the file; new fields do not."""


class Target(Struct, kw_only=True):
    """What was measured."""

    url: str | None = None
    """The server's address, without credentials; None: a backend in this process."""
    backend: str
    """`openai` for an address, else the backend's name."""
    endpoint: str = "chat"
    """`chat`, `completions` or `embeddings`."""
    model: str | None = None
    engine: str | None = None
    """Name and version of the engine, such as `vllm 0.32.0`, where it tells."""


class Machine(Struct, kw_only=True):
    """The machine that the load came from. With a URL the engine may run on another."""

    cpu: str | None = None
    cores: int
    """Those that this process may use."""
    memory: int | None = None
    gpus: list[str] = []
    os: str
    python: str


class Workload(Struct, kw_only=True):
    """What was sent."""

    prompt_tokens: list[int]
    """Lengths that were asked for, of the text without the chat template; requests take them in turn."""
    max_tokens: list[int]
    shared_prefix: int = 0
    """Tokens at the start of all prompts that are the same."""
    turns: int = 1
    """Requests of one conversation, each with all that came before."""
    cancel: float = 0.0
    """Share of the requests that are cancelled after some tokens."""
    seed: int = 0
    ignore_eos: bool = False
    warmup: int = 0
    """Requests before each run that are not counted."""
    requests: int | None = None
    """Of each run; None: as many as `duration` had room for."""
    duration: float | None = None
    burstiness: float = 1.0
    """Of the arrivals of an open loop: 1 is a Poisson process, less is burstier (gamma distribution)."""
    temperature: float | None = None
    """None: the target's default."""
    extra_body: dict[str, Any] = {}
    """Other fields of each request, without secrets."""
    tokens_counted_by: str = ""
    """How the lengths of the prompts were made: `tokenizer` (the target counts tokens), `usage` (fitted by the
    `prompt_tokens` of responses) or `estimate`."""


class Sample(Struct, kw_only=True):
    """One request that was sent. A figure of a request that failed before it had one is None."""

    start: float
    """Seconds since the start of the run."""
    ttft: float | None = None
    """From sending to the first token."""
    e2e: float | None = None
    """From sending to the last token; None: the request failed or was cancelled."""
    tpot: float | None = None
    """(e2e - ttft) / (output_tokens - 1); None with fewer than two tokens."""
    output_tokens: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    queue: float | None = None
    """Waiting in the server's queue, where it tells."""
    turn: int = 0
    """Place in its conversation, from 0."""
    max_tokens: int = 0
    """Its limit."""
    cancelled: bool = False
    """It was cancelled on purpose."""
    error: str | None = None
    """Code of the error that it ended with, such as `overloaded`, `429` or `stream_interrupted`."""
    good: bool | None = None
    """Whether it met the objective; None: there is none, or it was cancelled."""


class TimelinePoint(Struct, kw_only=True):
    """One interval of a run; the interval ends at the next point."""

    time: float
    """Start of the interval, in seconds since the start of the run."""
    running: int
    """Most requests in flight at once in the interval."""
    started: int
    completed: int
    failed: int
    output_tokens: int


class Goodput(Struct, kw_only=True):
    """Requests that met the objective. A failed one did not; a cancelled one does not count."""

    share: float
    """Of the requests that were not cancelled."""
    requests_per_second: float


class Run(Struct, kw_only=True):
    """One concurrency or one request rate.

    Latencies are those of completed requests alone. Names are vLLM's (`vllm bench serve`).
    """

    name: str
    """Such as `concurrency 4` or `rate 2/s`; with several lengths of prompts or outputs those too."""
    concurrency: int | None = None
    """Requests in flight in a closed loop; None: an open loop."""
    request_rate: float | None = None
    """Arrivals per second of an open loop; None: a closed loop."""
    prompt_length: int
    """Tokens of each prompt that were asked for."""
    max_tokens: int
    round: int = 1
    """Counts the repetitions of the same run, from 1."""
    requests: int
    """Sent: completed, failed, cancelled."""
    completed: int
    failed: int
    cancelled: int = 0
    duration: float
    """From the first request to the end of the last one."""
    partial: bool = False
    """It was stopped before its end (Ctrl-C)."""
    errors: dict[str, int] = {}
    """Failed requests by code."""
    error_examples: dict[str, str] = {}
    """One message for each code."""
    ttft: Statistics | None = None
    tpot: Statistics | None = None
    itl: Statistics | None = None
    """Gaps between chunks that carry tokens."""
    e2e: Statistics | None = None
    tokens_per_second: Statistics | None = None
    """Output tokens of a request by its e2e."""
    queue: Statistics | None = None
    prompt_tokens: Statistics | None = None
    """As the server counts them, with the chat template."""
    output_tokens: Statistics | None = None
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache, of all requests; None: the server does not tell."""
    request_throughput: float
    """Completed requests by the duration."""
    output_throughput: float
    """Output tokens of completed requests by the duration."""
    total_throughput: float
    """The same with their prompt tokens."""
    goodput: Goodput | None = None
    loop_lag: Statistics | None = None
    """How late this process's event loop was, in seconds: what it measured is late by as much."""
    samples: list[Sample] = []
    timeline: list[TimelinePoint] = []


class Result(Struct, kw_only=True):
    """A whole measurement."""

    kind: str = KIND
    version: int = VERSION
    miner: str = __version__
    created: str
    """UTC, ISO 8601."""
    command: str
    """The command line, without secrets."""
    target: Target
    machine: Machine
    workload: Workload
    objective: dict[str, float] | None = None
    """Upper limits in seconds by name: `ttft`, `tpot`, `itl`, `e2e`."""
    runs: list[Run] = []
    notes: list[str] = []
    """What a reader of the figures must know."""


def hide_secrets(result: Result, *known: str | None) -> None:
    """Replace the secrets of a result by `***`: those of the command line, of the address and of the fields that were
    sent, by the names that `miner.toml` has for secrets; and where a server repeats one in an error.

    Args:
        known: other secrets, such as the key.
    """
    sent = result.workload.extra_body
    result.command = shown_command(result.command)
    result.workload.extra_body = hidden(sent, ())
    if result.target.url is not None:
        result.target.url = hidden(result.target.url, ("url",))
    redaction = Redaction()
    redaction.add([*known, *taken(sent, result.workload.extra_body)])
    result.notes = redaction(result.notes)
    for run in result.runs:
        run.errors, run.error_examples = redaction(run.errors), redaction(run.error_examples)


def to_json(result: Result) -> bytes:
    """The result as indented JSON, numbers rounded to a microsecond."""
    return msgspec.json.format(msgspec.json.encode(_rounded(msgspec.to_builtins(result))), indent=2) + b"\n"


def rounded(run: Run) -> Run:
    """The run with its numbers as `to_json` writes them, so that all that shows it has the figures of the file."""
    return msgspec.convert(_rounded(msgspec.to_builtins(run)), Run)


def from_json(data: bytes, *, name: str = "The result") -> Result:
    """Read what `to_json` wrote.

    Args:
        name: what an error calls it.

    Raises:
        UsageError: it is something else, or of a later version.
    """
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is not a result of `miner bench`: {error}.", operator_hint=_HINT) from None
    if head.kind != KIND:
        raise UsageError(f"{name} is not a result of `miner bench`: its kind is {head.kind!r}.", operator_hint=_HINT)
    if head.version > VERSION:
        raise UsageError(
            f"{name} has version {head.version}; this miner ({__version__}) reads up to {VERSION}.",
            operator_hint="Update miner.",
        )
    try:
        found = msgspec.json.decode(data, type=Result)
    except msgspec.DecodeError as error:
        raise UsageError(f"{name} is damaged: {error}.", operator_hint=_HINT) from None
    for run in found.runs:
        if min(run.requests, run.completed, run.failed, run.cancelled, run.duration) < 0:
            raise UsageError(f"{name} is damaged: {run.name!r} has less than no requests or time.", operator_hint=_HINT)
    hide_secrets(found)  # earlier versions wrote some
    return found


def read(path: str) -> Result:
    """Read a file that `--output` or `--json` wrote.

    Raises:
        UsageError: there is none, or it is something else.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", operator_hint=_HINT) from None
    if len(data) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST // 2**20} MiB.", operator_hint=_HINT)
    return from_json(data, name=path)


_LARGEST = 512 * 2**20
"""Bytes of a file."""
_HINT = "`miner bench ... --output FILE` writes one."


class _Head(Struct):
    """What says how to read the rest."""

    kind: str = ""
    version: int = 0


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
