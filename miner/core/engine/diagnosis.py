"""Why an engine did not start or died, in plain words, from what llama.cpp printed and how the process ended."""

from __future__ import annotations

import re
import signal
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["FROM_OUTSIDE", "STOPPED", "Reason", "check_model_file", "describe_exit", "explain"]

_PREFIX = re.compile(r"^\d+\.\d+\.\d+\.\d+ [A-Z] +")
_AGAIN = "Get the file again: it is not what it was made as."
_SMALLER = "Take a smaller LLAMACPP_CTX_SIZE or LLAMACPP_PARALLEL, a quantised KV cache, or a smaller model."


class Reason(NamedTuple):
    """What went wrong, as the end of a sentence, and what to do."""

    text: str
    hint: str | None = None


STOPPED = Reason(
    "it was stopped from outside (SIGSTOP, or a debugger) and has been killed",
    "Look for what stops processes here; the next request starts another one.",
)


FROM_OUTSIDE = Reason(
    "it was ended by a signal from outside",
    "Look for what ends processes here (systemd, pkill); the next request starts another one.",
)
"""Of one that ends with status 0, unasked."""


def check_model_file(path: Path) -> Reason | None:
    """What can be seen without an engine: None for a readable file that begins as a GGUF does."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return Reason(f"{path} is a directory, not a GGUF file", "Name the .gguf file in it.")
        if not stat.S_ISREG(mode):
            return Reason(f"{path} is no file", "Name a .gguf file.")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        return Reason(f"there is no file {path}", "Check MODEL_PATH; `miner models list` shows what is there.")
    except OSError as error:
        return Reason(f"{path} cannot be read: {error.strerror}", "Check the file's owner and permissions.")
    if not magic:
        return Reason(f"{path} is empty", _AGAIN)
    if magic != b"GGUF":
        return Reason(f"{path} is not a GGUF file: it begins with {magic!r}", "Convert the model to GGUF.")
    return None


# The first pattern that is found anywhere in the log names the reason; `{0}` is its first group.
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
    (r"failed to read magic", "the file is empty, or is no file", _AGAIN),
    (r"tensor '([^']*)' data is not within the file bounds|failed to read (?:header|key-value|tensor)|unexpectedly "
     r"reached end of file", "the file is truncated or damaged", _AGAIN),
    (r"unknown model architecture: '([^']*)'", "this llama.cpp does not know the architecture {0!r}",
     "Update llama.cpp: `pip install -U xllamacpp`."),
    (r"common_chat_templates_init: error: ([^\n]*)", "the chat template is not valid Jinja: {0}",
     "Mend the chat template, or leave it out to use the model's own."),
    (r"quantized V cache requires flash_attn|V cache quantization requires flash_attn",
     "a quantised V cache needs flash attention",
     "Set LLAMACPP_FLASH_ATTN=on, or LLAMACPP_CACHE_TYPE_V=f16."),
    (r"([KV]) cache type (\S+) with block size (\d+) does not divide (\S+)",
     "the {0} cache type {1} does not fit this model's heads ({3} is no multiple of {2})",
     "Choose another LLAMACPP_CACHE_TYPE_K or _V, for example q8_0."),
    (r"attempted to allocate ([\d.]+ [MG]i?B)", "there is not enough memory: it asked for {0} in one piece", _SMALLER),
    (r"bad_alloc|[Oo]ut of memory|out of device memory|cudaMalloc failed|failed to allocate|insufficient memory|"
     r"Cannot allocate memory", "there is not enough memory", _SMALLER),
    (r"couldn't bind HTTP server socket|EngineAddress already in use|address already in use",
     "its address is taken by another process", "Stop the other process, or start again."),
    (r"error: (?:invalid|unknown) argument: ([^\s]+)", "this llama-server does not know the option {0}",
     "Update llama.cpp, or unset LLAMACPP_SERVER to use the xllamacpp package."),
    (r"error while loading shared libraries: ([^\n]*)", "its libraries are not there: {0}",
     "Install them, or set LD_LIBRARY_PATH."),
    (r"miner-child: ([^\n]*(?: is no llama-server| --help does not answer)[^\n]*)", "{0}",
     "Name a llama-server binary in LLAMACPP_SERVER, or unset it to use the xllamacpp package."),
    (r"miner-child: ([^\n]*)", "{0}", None),
    (r"(?:ModuleNotFoundError|ImportError): ([^\n]*)", "a Python package is missing or broken: {0}",
     'Install the engine again: pip install "llm-service-backends[llamacpp]".'),
    (r"GGML_ASSERT\(([^\n]*)\) failed", "llama.cpp met a state that it does not expect: {0}", None),
    (r"error loading model: ([^\n]*)", "llama.cpp cannot load the file: {0}", None),
)  # fmt: skip
_COMPILED = [(re.compile(pattern, re.MULTILINE), text, hint) for pattern, text, hint in _PATTERNS]

_SIGNALS: dict[int, Reason] = {
    signal.SIGKILL: Reason(
        "most likely the kernel ended it for want of memory",
        _SMALLER,
    ),
    signal.SIGILL: Reason(
        "this processor lacks instructions that the build uses",
        "Compile llama-server on this machine and name it in LLAMACPP_SERVER.",
    ),
    signal.SIGSEGV: Reason("it touched memory that is not its own: a fault in llama.cpp or in the model file"),
    signal.SIGABRT: Reason("llama.cpp gave up on a failed check"),
    signal.SIGBUS: Reason("its model file was cut or changed, or the disk failed, while it was in use", _AGAIN),
    **dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), FROM_OUTSIDE),
}

_BEYOND_WORDS = {*_SIGNALS} - {signal.SIGSEGV, signal.SIGABRT}  # here the log cannot know why, however much it holds


def explain(lines: Sequence[str], status: int | None) -> Reason:
    """The reason that the log gives, or the signal if that says more, else the last telling line."""
    text = "\n".join(lines)
    if status is not None and -status in _BEYOND_WORDS:
        return _SIGNALS[-status]
    for pattern, words, hint in _COMPILED:
        match = pattern.search(text)
        if match:
            groups = [group or "" for group in match.groups()]
            return Reason(words.format(*groups), hint)
    if status is not None and -status in _SIGNALS:
        return _SIGNALS[-status]
    said = [_PREFIX.sub("", line) for line in lines if "error" in line.lower() or " E " in line]
    last = (said or [_PREFIX.sub("", line) for line in lines] or [""])[-1]
    return Reason(f"its last words: {last}" if last else "it said nothing")


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
