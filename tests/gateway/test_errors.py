"""What a client reads of an error: no paths or addresses of the machine."""

from __future__ import annotations

import re

import pytest

from miner.errors import (
    BackendUnavailableError,
    ContextLengthError,
    EngineCrashedError,
    ModelNotFoundError,
    StreamInterruptedError,
)
from miner.gateway.errors import RefusedError, failure_of, public


def test_what_a_client_reads_of_an_error_tells_nothing_of_the_machine():
    down = BackendUnavailableError(
        "vllm at http://10.0.0.7:8000/v1 does not answer.", operator_hint="Set VLLM_API_BASE."
    )
    assert failure_of(down).message == "vllm does not answer."
    assert failure_of(down).headers == {"Retry-After": "1"}
    crash = EngineCrashedError("The engine for /srv/models/a.gguf died.", log_tail=["secret"])
    assert failure_of(crash).message == "The engine for <path> died."
    missing = ModelNotFoundError("vllm at https://user@host:1/v1 has no model 'org/name'.", hint="Available: a/b, c.")
    assert failure_of(missing).message == "vllm has no model 'org/name'."
    cut = StreamInterruptedError("vllm ended its response.", hint=StreamInterruptedError.PARTIAL_HINT)
    assert failure_of(cut).message == "vllm ended its response."
    long = ContextLengthError("The prompt is too long.", hint="Send less.")
    assert (failure_of(long).status, failure_of(long).message) == (400, "The prompt is too long. Send less.")
    busy = RefusedError(429, "rate_limited", "Too many.", retry_after=2.6)
    assert (failure_of(busy).status, failure_of(busy).headers) == (429, {"Retry-After": "3"})


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{root}/{rest}" for root, rest in [
            ("srv", "models/a.gguf"), ("home", "me/x"), ("bigdisk", "llms/x.gguf"), ("Users", "me/Library/m"),
            ("tmp", "a/b/"), ("root", ".cache/miner"), ("opt", "llm@2/bin+x"), ("volume1", "llm/a"), ("work", "a"),
            ("proc", "1/fd/3"),
        ]),
        "~/models/x", "C:\\Users\\me\\m.gguf", "D:/models/m.gguf", "'/{}/me/my models/x.gguf'".format("home"),
        '"C:\\Program Files\\m.gguf"',
    ],
)  # fmt: skip
def test_paths_of_files_are_redacted(path):
    for text in (f"It is at {path}.", f"{path}", f"({path})", f"Loading {path}, failed"):
        kept = public(text)
        assert "<path>" in kept
        assert not {"me", "models", "x.gguf", "m.gguf", "llms", "cache"} & set(re.split(r"[^\w.]", kept)), kept


@pytest.mark.parametrize(
    "text",
    [
        "Use /api/chat.", "#/properties/a is wrong", "at #/$defs/P/properties/x", "/v1/chat/completions takes POST",
        "There is no /v1/models/x.gguf here.", "POST /admin/models/a/load", "/properties/a/items/0", "and/or/either",
        "application/json", "GET /openapi.json lists what is.", "org/name/file", "<think>/<answer>/x", "1/2/3",
        "a pattern ^/a/b$", "/think/no_think", "text/event-stream", "model hf.co/org/name:Q4", "at 12:30/13:30",
    ],
)  # fmt: skip
def test_what_is_no_file_is_not_redacted(text):
    assert public(text) == text
