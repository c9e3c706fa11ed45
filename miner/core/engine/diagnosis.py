"""Why an engine did not start or crashed, from llama.cpp's log and the exit status."""

from __future__ import annotations

import re
import signal
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_PREFIX = re.compile(r"^\d+\.\d+\.\d+\.\d+ [A-Z] +")
_AGAIN = "Download or convert the file again: it is damaged."
_SMALLER = "Lower LLAMACPP_CTX_SIZE or LLAMACPP_PARALLEL, or use a quantized KV cache or a smaller model."


class Reason(NamedTuple):
    """What went wrong, as the end of a sentence ("it ..."), and what the operator can do."""

    text: str
    operator_hint: str | None = None


SUSPENDED = Reason(
    "it was suspended (SIGSTOP or a debugger) and has been killed",
    "Find out what suspends processes on this machine; the next request restarts the engine.",
)

FROM_OUTSIDE = Reason(
    "it was terminated by a signal from another process",
    "Find out what terminates processes on this machine (systemd, pkill); the next request restarts the engine.",
)
"""Reason for an engine that was killed, or exited with status 0 unrequested."""


def check_model_file(path: Path) -> Reason | None:
    """What is wrong with a model file, judged by its first bytes; None: nothing."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return Reason(f"{path} is a directory, not a GGUF file", "Name the .gguf file in it.")
        if not stat.S_ISREG(mode):
            return Reason(f"{path} is not a regular file", "Name a .gguf file.")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        return Reason(f"{path} does not exist", "Check MODEL_PATH; `miner models list` shows what is there.")
    except OSError as error:
        return Reason(f"{path} cannot be read: {error.strerror}", "Check the file's owner and permissions.")
    if not magic:
        return Reason(f"{path} is empty", _AGAIN)
    if magic != b"GGUF":
        return Reason(f"{path} is not a GGUF file: it begins with {magic!r}", "Convert the model to GGUF.")
    return None


# The first pattern found anywhere in the log gives the reason; `{0}` is its first group.
_PATTERNS: tuple[tuple[str, str, str | None], ...] = (
    (r"failed to load multimodal model, '([^']*)'", "the vision projector {0} cannot be loaded",
     "Check the mmproj file; it must belong to this model."),
    (r"failed to open GGUF file '([^']*)' \(([^)]*)\)", "{0} cannot be opened: {1}", "Check MODEL_PATH."),
    (r"this GGUF file is version (\d+) but[^\n]*version (\d+)",
     "the file is GGUF version {0}, and this llama.cpp reads up to version {1}",
     "Update llama.cpp (`pip install -U xllamacpp`), or get the file again."),
    (r"(GGUFv1 is no longer supported)", "the file is GGUF version 1, which llama.cpp has dropped",
     "Convert the model again."),
    (r"invalid magic characters: ([^\n]*), expected", "the file is not a GGUF file: it begins with {0}",
     "Convert the model to GGUF."),
    (r"failed to read magic", "the file is empty or not a regular file", _AGAIN),
    (r"tensor '([^']*)' data is not within the file bounds|failed to read (?:header|key-value|tensor)|unexpectedly "
     r"reached end of file", "the file is truncated or damaged", _AGAIN),
    (r"unknown model architecture: '([^']*)'", "this llama.cpp does not support the architecture {0!r}",
     "Update llama.cpp: `pip install -U xllamacpp`."),
    (r"common_chat_templates_init: error: ([^\n]*)", "the chat template is not valid Jinja: {0}",
     "Fix the chat template, or unset LLAMACPP_CHAT_TEMPLATE to use the model's own."),
    (r"quantized V cache requires flash_attn|V cache quantization requires flash_attn",
     "a quantized V cache needs flash attention",
     "Set LLAMACPP_FLASH_ATTN=on, or LLAMACPP_CACHE_TYPE_V=f16."),
    (r"([KV]) cache type (\S+) with block size (\d+) does not divide (\S+)",
     "the {0} cache type {1} does not fit this model's heads ({3} is no multiple of {2})",
     "Choose another LLAMACPP_CACHE_TYPE_K or _V, for example q8_0."),
    (r"attempted to allocate ([\d.]+ [MG]i?B)", "there is not enough memory: an allocation of {0} failed", _SMALLER),
    (r"bad_alloc|[Oo]ut of memory|out of device memory|cudaMalloc failed|failed to allocate|insufficient memory|"
     r"Cannot allocate memory", "there is not enough memory", _SMALLER),
    (r"couldn't bind HTTP server socket|[Aa]ddress already in use",
     "its address is in use by another process", "Stop the other process, or start again."),
    (r"error: (?:invalid|unknown) argument: ([^\s]+)", "this llama-server does not support the option {0}",
     "Update llama.cpp, or unset LLAMACPP_SERVER to use the xllamacpp package."),
    (r"error while loading shared libraries: ([^\n]*)", "its libraries are missing: {0}",
     "Install them, or set LD_LIBRARY_PATH."),
    (r"miner-child: ([^\n]*(?: is not a llama-server| --help failed)[^\n]*)", "{0}",
     "Name a llama-server binary in LLAMACPP_SERVER, or unset it to use the xllamacpp package."),
    (r"miner-child: ([^\n]*)", "{0}", None),
    (r"(?:ModuleNotFoundError|ImportError): ([^\n]*)", "a Python package is missing or broken: {0}",
     'Install the engine again: pip install "llm-service-backends[llamacpp]".'),
    (r"GGML_ASSERT\(([^\n]*)\) failed", "an assertion of llama.cpp failed: {0}", None),
    (r"error loading model: ([^\n]*)", "llama.cpp cannot load the file: {0}", None),
)  # fmt: skip
Rules = Sequence[tuple[re.Pattern[str], str, str | None]]


def compiled(*rules: tuple[str, str, str | None]) -> Rules:
    """Rules of `explain_by`: pattern, text and hint, in both of which `{0}` is the pattern's first group."""
    return [(re.compile(pattern, re.MULTILINE), text, hint) for pattern, text, hint in rules]


_RULES = compiled(*_PATTERNS)

_SIGNALS: dict[int, Reason] = {
    signal.SIGKILL: Reason("most likely the kernel killed it because memory ran out", _SMALLER),
    signal.SIGILL: Reason(
        "this CPU lacks instructions that the build uses",
        "Compile llama-server on this machine and name it in LLAMACPP_SERVER.",
    ),
    signal.SIGSEGV: Reason("segmentation fault: a bug in llama.cpp, or a damaged model file"),
    signal.SIGABRT: Reason("a check inside llama.cpp failed"),
    signal.SIGBUS: Reason("its model file was truncated or changed, or the disk failed, while in use", _AGAIN),
    **dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), FROM_OUTSIDE),
}

LAST_LINE = "its last log line"
_IN_LOG = {signal.SIGSEGV, signal.SIGABRT}
"""Signals whose reason the log may have."""


def explain(lines: Sequence[str], status: int | None) -> Reason:
    """Why llama.cpp failed: see `explain_by`."""
    return explain_by(_RULES, _SIGNALS, lines, status)


def explain_by(rules: Rules, signals: Mapping[int, Reason], lines: Sequence[str], status: int | None) -> Reason:
    """Return the reason of the first rule that matches the log, or that of the signal if it says more, else the last
    line with an error.
    """
    text = "\n".join(lines)
    if status is not None and -status in signals and -status not in _IN_LOG:
        return signals[-status]
    for pattern, message, hint in rules:
        match = pattern.search(text)
        if match:
            groups = [group or "" for group in match.groups()]
            return Reason(message.format(*groups), hint)
    if status is not None and -status in signals:
        return signals[-status]
    errors = [line for line in lines if "error" in line.lower() or " E " in line]
    last = _PREFIX.sub("", (errors or lines or [""])[-1])
    return Reason(f"{LAST_LINE}: {last}" if last else "it printed nothing")


def describe_exit(status: int | None) -> str:
    """`exit status 1`, `killed by SIGKILL`, ..."""
    if status is None:
        return "not running"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
