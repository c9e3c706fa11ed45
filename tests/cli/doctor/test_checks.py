"""What each check says of what is right, and of what is wrong; a process of its own each time."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.cli.commands.test_backends import path_with, third_party
from tests.cli.conftest import LONG, environment
from tests.cli.doctor.examine import examine
from tests.paths import ROOT
from tests.servers.faults import FaultServer, garbage_http, html_page, silent
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.process

GOOD_KEY = "mk-Zk3J8s0Qw1LrT5yVbN7uXc2"
ECHO = (
    "from miner.core.llms import LLMService\n"
    "class EchoService(LLMService):\n"
    "    def __init__(self, config): self.config = config\n"
    "    async def generate(self, prompt, model, max_tokens, temperature, top_p): return prompt\n"
    "    async def _get_model(self, model_name): pass\n"
)


def free_port() -> str:
    return str(closed_port())


def test_nothing_is_wrong_in_an_empty_directory(miner):
    found = examine(miner, "--no-probe", MINER_SERVE_PORT=free_port())
    assert found.problems() == []
    assert (found.status, found.err) == (0, "")
    for name in (
        r"\.env", "settings", "miner.toml", "backend llamacpp", "llamacpp: model", "port", "address", "API keys",
        "keys file", "proxy variables", "Python", "memory", "disk: models", "open files", "GPU",
    ):  # fmt: skip
        assert found.row(name)["verdict"] in ("ok", "note", "skipped"), name
    assert found.summary["text"] in ("nothing is wrong", *(f"{n} note{'s' * (n > 1)}" for n in range(1, 9)))


def test_a_real_model_is_probed(miner):
    found = examine(miner, MINER_SERVE_PORT=free_port())
    chat = found.row("llamacpp: probe chat", "ok")
    assert chat["seen"]["tokens"] == 3
    assert chat["seen"]["load_seconds"] > 0
    assert "after loading the model" in chat["summary"]
    assert found.row("llamacpp: probe tools")["verdict"] == "ok"
    assert found.row("llamacpp: probe JSON Schema")["verdict"] == "ok"
    assert found.row("llamacpp: context")["seen"]["trained"] == 8192


def test_all_probes_of_a_server_succeed(miner):
    def reply(body):
        return "true" if "response_format" in body else "Hello there you."

    with in_thread(StubServer(["m"], max_model_len=40960, reply=reply)) as server:
        found = examine(miner, LLM_BACKEND="vllm", VLLM_API_BASE=server.v1, MINER_SERVE_PORT=free_port())
    assert found.row("vllm", "ok")["seen"]["version"] == "0.32.0"
    assert found.row("vllm: model", "ok")
    assert found.row("vllm: context", "ok")["seen"]["context"] == 40960
    for kind in ("chat", "tools", "JSON Schema"):
        assert found.row(f"vllm: probe {kind}", "ok"), kind


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        [
            ({"LLAMACPP_PARALLEL": "lots"}, "LLAMACPP_PARALLEL", "must be a valid integer", "unset LLAMACPP_PARALLEL"),
            ({"LLAMACPP_THREADS": "9" * 5000}, "LLAMACPP_THREADS", "LLAMACPP_THREADS", "unset LLAMACPP_THREADS"),
            ({"MINER_SERVE_PORT": "70000"}, "MINER_SERVE_PORT", "65535", "unset MINER_SERVE_PORT"),
            ({"VLLM_API_BASE": "localhost:8000"}, "VLLM_API_BASE", "http://", "unset VLLM_API_BASE"),
            ({"DEFAULT_TOP_P": "nan"}, "DEFAULT_TOP_P", "DEFAULT_TOP_P", "unset DEFAULT_TOP_P"),
            ({"llamacpp_ctx_size": "ä\x07"}, "LLAMACPP_CTX_SIZE", "integer", "unset llamacpp_ctx_size"),
            (
                {"MINER_SRVE_PORT": "1"}, "MINER_SRVE_PORT", "did you mean MINER_SERVE_PORT",
                'export MINER_SERVE_PORT="$MINER_SRVE_PORT"; unset MINER_SRVE_PORT',
            ),
            (
                {"MINER_LLM_BACKEND": "vllm"}, "MINER_LLM_BACKEND", "did you mean LLM_BACKEND",
                'export LLM_BACKEND="$MINER_LLM_BACKEND"; unset MINER_LLM_BACKEND',
            ),
            (
                {"SERVE_PORT": "1"}, "SERVE_PORT", "did you mean MINER_SERVE_PORT",
                'export MINER_SERVE_PORT="$SERVE_PORT"; unset SERVE_PORT',
            ),
            (
                {"LLAMACPP_PARALEL": "1"}, "LLAMACPP_PARALEL", "did you mean LLAMACPP_PARALLEL",
                'export LLAMACPP_PARALLEL="$LLAMACPP_PARALEL"; unset LLAMACPP_PARALEL',
            ),
            ({"LLM_BACKEND": "olama"}, "LLM_BACKEND", "there is no backend 'olama'", "export LLM_BACKEND=ollama"),
        ],
        [
            ({"MINER_CONFIG": "/nowhere/miner.toml"}, r"miner\.toml", "no configuration file",
             "miner config init -o /nowhere/miner.toml"),
        ],
    ],
)  # fmt: skip
def test_each_wrong_setting_is_a_problem(miner, wrong):
    settings = {name: value for pair, *_ in wrong for name, value in pair.items()}
    found = examine(miner, "--no-probe", **settings)
    for _, name, summary, fix in wrong:
        row = found.row(name, "problem")
        assert summary in row["summary"]
        assert row["fix"] == fix
    assert found.row("Python", "ok")


@pytest.mark.parametrize(
    "idle",
    [
        [
            (
                {"VLLM_API_BASE": "http://127.0.0.1:9/v1"},
                "VLLM_API_BASE",
                "has no effect while LLM_BACKEND is llamacpp",
            ),
            ({"LLAMACPP_ALIAS": "a"}, "LLAMACPP_ALIAS", "no effect without MODEL_PATH"),
            ({"MINER_NOTHING_LIKE_IT": "1"}, "MINER_NOTHING_LIKE_IT", "is not a setting"),
            ({"MINER_SERVE_MAX_QUEUED": "3"}, "MINER_SERVE_MAX_QUEUED", "queue of their own"),
        ],
        [({"LLAMACPP_API_BASE": "http://127.0.0.1:9", "LLAMACPP_THREADS": "2"}, "LLAMACPP_THREADS", "no effect")],
        [
            (
                {"LLM_BACKEND": "ollama", "OLLAMA_HOST": "h"},
                "OLLAMA_HOST",
                "the setting of this meaning is OLLAMA_BASE_URL",
            )
        ],
    ],
)
def test_a_setting_without_effect_is_a_note(miner, idle):
    found = examine(miner, "--no-probe", **{name: value for pair, *_ in idle for name, value in pair.items()})
    for _, name, summary in idle:
        row = found.row(name, "note")
        assert summary in row["summary"]
        assert row["fix"]


def test_values_are_shown_with_their_sources(miner, tmp_path):
    (tmp_path / ".env").write_text("LLAMACPP_PARALLEL=2\nLLAMACPP_CTX_SIZE=4096\n")
    found = examine(miner, "--no-probe", "--model", "demo", LLAMACPP_PARALLEL="3")
    assert found.row("settings")["seen"] == {
        "DEFAULT_MODEL": {"value": "demo", "source": "--model"},
        "LLAMACPP_CTX_SIZE": {"value": "4096", "source": ".env"},
        "LLAMACPP_PARALLEL": {"value": "3", "source": "environment"},
    }
    assert "LLAMACPP_PARALLEL in .env is hidden by the environment" in found.row("settings")["summary"]
    assert "3 slots of 4096 tokens" in found.row("llamacpp: context")["summary"]


@pytest.mark.parametrize("line", ["LLAMACPP_PARALLEL=lots\n", "MINER_SRVE_PORT=9\n"])
def test_the_line_that_fixes_a_file_does_so(miner, tmp_path, line):
    (tmp_path / ".env").write_text(f"LLAMACPP_THREADS=2\n{line}")
    name = line.partition("=")[0]
    fix = examine(miner, "--no-probe").row(name, "problem")["fix"]
    subprocess.run(["sh", "-c", fix], cwd=tmp_path, check=True)
    after = examine(miner, "--no-probe")
    assert name not in [row["name"] for row in after.checks]
    assert "LLAMACPP_THREADS" in after.row("settings")["seen"]


@pytest.mark.parametrize("content", [b"VLLM_API_KEY=\xff\xfe\n", None, b"A = = 'x\n\"\x00"])
def test_an_env_file_that_cannot_be_read_stops_nothing(miner, tmp_path, content):
    path = tmp_path / ".env"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    found = examine(miner, "--no-probe")
    if content != b"A = = 'x\n\"\x00":
        assert found.row(r"\.env", "problem")["fix"]
    assert found.row("llamacpp: model", "ok")
    assert found.row("backend ollama")


def test_a_file_of_secrets_that_others_can_read(miner, tmp_path):
    (tmp_path / ".env").write_text("VLLM_API_KEY=abc\n")
    (tmp_path / ".env").chmod(0o644)
    assert examine(miner, "--no-probe").row(r"\.env", "note")["fix"] == "chmod 600 .env"
    (tmp_path / ".env").chmod(0o600)
    assert examine(miner, "--no-probe").row(r"\.env")["verdict"] == "ok"


# miner.toml


def test_each_error_of_the_file_is_a_row(miner, tmp_path):
    (tmp_path / "miner.toml").write_text(
        '[models.a]\nfile = "demo"\ncontxt = 1\n[models.b]\nfile = "demo"\nslots = "x"\n'
    )
    found = examine(miner, "--no-probe")
    assert "Did you mean context?" in found.row(r"models\.a\.contxt", "problem")["hint"]
    assert found.row(r"models\.b\.slots", "problem")["fix"] == "${EDITOR:-vi} +6 miner.toml"
    assert found.row("engines", "skipped")


def test_several_models_without_a_default_are_a_note_as_serving_works(miner, tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("one", "two"):
        write_tiny_model(tmp_path / "models" / f"{name}.gguf")
    found = examine(miner, "--no-probe", LLM_BACKEND="llamacpp", MODELS_DIR=str(tmp_path / "models"))
    row = found.row("llamacpp: model", "note")
    assert "no default" in row["summary"]
    assert row["fix"] == "export DEFAULT_MODEL=one"
    assert found.row("llamacpp: context, memory, probe", "skipped")


def test_a_short_context_is_right_for_a_model_that_only_embeds(miner, tmp_path):
    write_tiny_model(tmp_path / "one.gguf")
    settings = {"LLM_BACKEND": "llamacpp", "MODEL_PATH": str(tmp_path / "one.gguf"), "LLAMACPP_CTX_SIZE": "512"}
    assert examine(miner, "--no-probe", **settings).row("llamacpp: context")["verdict"] != "ok"
    assert examine(miner, "--no-probe", LLAMACPP_POOLING="mean", **settings).row("llamacpp: context", "ok")


def test_a_valid_file_is_used_and_its_values_shown(miner, tmp_path):
    with in_thread(StubServer(["Qwen"], max_model_len=40960)) as server:
        (tmp_path / "miner.toml").write_text(
            '[models.small]\nbackend = "llamacpp"\nfile = "demo"\ncontext = 2048\nslots = 1\n'
            f'[backends.gpu]\nkind = "vllm"\nurl = "{server.v1}"\n'
            '[models.q]\nbackend = "gpu"\nname = "Qwen"\n[models.lost]\nbackend = "gpu"\nname = "Qwem"\n'
        )
        found = examine(miner, "--no-probe", MINER_LLM_FALLBACKS="vllm", MINER_SERVE_PORT=free_port())
    assert found.row(r"miner\.toml", "ok")["seen"]["set"]["models.small.context"]["value"] == 2048
    assert found.row("MINER_LLM_FALLBACKS", "note")
    assert found.row("gpu", "ok")
    assert found.row("gpu: model", "problem")["fix"] == 'name = "Qwen"  # in [models.NAME] of miner.toml'
    assert found.row("small: context", "note")["seen"]["context"] == 2048
    assert found.row("models together", "ok")


@pytest.mark.parametrize("content", [b"[models\n", b"\xff\xfe", b"a = " + b"[" * 5000, b"", b"x" * (1 << 21)])
def test_a_file_that_is_none(miner, tmp_path, content):
    (tmp_path / "miner.toml").write_bytes(content)
    found = examine(miner, "--no-probe")
    assert [row for row in found.checks if row["group"] == "Settings" and row["verdict"] == "problem"]
    assert found.row("Python")


# Backends


BROKEN = {
    "raises": ("raise RuntimeError('it is\\nbroken')\n", "it is broken"),
    "exits": ("import os; os._exit(7)\n", "exit status 7"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n", "signal 11"),
    "hangs": ("import time; time.sleep(1000)\n", "longer than"),
    "leaves": ("import sys; sys.exit(3)\n", "SystemExit"),
    "nosyntax": ("print('noise' * 1000) class X: pass\n", "invalid syntax"),
    "needy": ("import not_installed_at_all\n", "module 'not_installed_at_all' is missing"),
    "alien": ("print('noise' * 100)\nclass X: pass\n", "it is not a subclass of"),
}


def test_a_broken_package_breaks_its_own_row_only(miner, tmp_path):
    for name, (source, _) in BROKEN.items():
        third_party(tmp_path / "plugins", name, f"{name}_module:X", source)
    found = examine(
        miner, "--no-probe", "--timeout", "30", LLM_BACKEND="crashes", PYTHONPATH=path_with(tmp_path / "plugins")
    )
    for name, (_, why) in BROKEN.items():
        row = found.row(f"backend {name}", "problem")
        assert why in row["summary"]
        assert row["fix"]
    assert found.row("backend llamacpp", "ok")
    assert found.row("crashes", "skipped")


def test_a_package_that_works(miner, tmp_path):
    third_party(tmp_path / "plugins", "echo", "echo_module:EchoService", ECHO)
    found = examine(miner, "--no-probe", LLM_BACKEND="echo", PYTHONPATH=path_with(tmp_path / "plugins"))
    assert "echo-pack 1.5" in found.row("backend echo", "ok")["summary"]
    assert found.row("echo", "ok")


def test_a_check_that_hangs_is_a_row_and_ends_nothing(miner, tmp_path):
    hangs = ECHO + "    async def _health(self):\n        import time\n        time.sleep(1000)\n"
    third_party(tmp_path / "plugins", "stuck", "stuck_module:EchoService", hangs)
    began = time.monotonic()
    found = examine(
        miner, "--no-probe", "--timeout", "10", LLM_BACKEND="stuck", PYTHONPATH=path_with(tmp_path / "plugins")
    )
    assert "did not finish within" in found.row("stuck", "problem")["summary"]
    assert found.row("backend stuck", "ok")
    assert found.row("Python", "ok")
    assert time.monotonic() - began < LONG / 2


def test_the_engine_that_is_named_is_missing(miner, tmp_path):
    found = examine(miner, "--no-probe", LLAMACPP_SERVER=str(tmp_path / "none"))
    assert "is not there" in found.row("backend llamacpp", "problem")["summary"]


# Engines


@pytest.mark.parametrize(
    ("behaviour", "summary"),
    [
        (silent(), "did not respond within"), (garbage_http(everywhere=True), "invalid response"),
        (html_page(200, everywhere=True), "did not send|invalid|not"),
        (html_page(502, everywhere=True), "unavailable|502"),
    ],
)  # fmt: skip
def test_servers_that_are_none(miner, behaviour, summary):
    with in_thread(FaultServer(behaviour)) as server:
        found = examine(
            miner, LLM_BACKEND="vllm", MINER_LLM_FALLBACKS="ollama, openai, llamacpp", VLLM_API_BASE=server.v1,
            OLLAMA_BASE_URL=server.url, MINER_OPENAI_API_BASE=server.v1, LLAMACPP_API_BASE=server.url,
        )  # fmt: skip
    for kind in ("vllm", "ollama", "openai", "llamacpp"):
        row = found.row(kind, "problem")
        assert re.search(summary, row["summary"]), row
        assert row["fix"]
        assert found.row(f"{kind}: model, context, probe", "skipped")


def test_a_url_without_its_version(miner):
    with in_thread(StubServer()) as server:
        row = examine(miner, LLM_BACKEND="vllm", VLLM_API_BASE=server.url).row("vllm", "problem")
    assert row["fix"] == f"export VLLM_API_BASE={server.v1}"


def test_ollama_lacks_the_model_and_has_a_small_context(miner):
    with in_thread(StubServer(["llama3.2"], max_model_len=131072)) as server:
        found = examine(miner, "--no-probe", LLM_BACKEND="ollama", OLLAMA_BASE_URL=server.url, DEFAULT_MODEL="qwen3")
        assert found.row("ollama: model", "problem")["fix"] == "ollama pull qwen3"
        found = examine(
            miner, "--no-probe", LLM_BACKEND="ollama", OLLAMA_BASE_URL=server.url, DEFAULT_MODEL="llama3.2",
            OLLAMA_NUM_CTX="1024",
        )  # fmt: skip
        assert found.row("ollama: model", "ok")


@pytest.mark.parametrize(
    ("running", "options", "model"),
    [("other:latest", [], None), ("other:latest", ["-m", "llama3.2"], "llama3.2"), ("llama3.2:latest", [], "llama3.2")],
)
def test_what_ollama_has_loaded_is_not_disturbed(miner, running, options, model):
    side = {"/api/ps": {"models": [{"name": running, "model": running}]}}
    settings = {"LLM_BACKEND": "ollama", "DEFAULT_MODEL": "llama3.2", "MINER_SERVE_PORT": free_port()}
    with in_thread(StubServer(["llama3.2", "other"], side=side)) as server:
        found = examine(miner, *options, OLLAMA_BASE_URL=server.url, **settings)
        assert {body["model"] for body in server.bodies} == ({model} if model else set())
    if model is None:
        row = found.row("ollama: probe", "skipped")
        assert "other is loaded, and could be unloaded for llama3.2" in row["summary"].replace(":latest", "")
        assert row["fix"] == "miner doctor --model llama3.2"


def test_an_engine_beyond_the_tested_versions_is_a_note(miner):
    side = {"/version": {"version": "0.99.1"}}
    with in_thread(StubServer(side=side)) as server:
        row = examine(miner, "--no-probe", LLM_BACKEND="vllm", VLLM_API_BASE=server.v1).row("vllm", "note")
    assert "0.99.1, newer than what is tested (0.32.0)" in row["summary"]


def test_a_server_of_llama_cpp_that_refuses_the_key(miner):
    side = {"/props": (401, {"error": {"message": "Invalid API Key", "code": 401}})}
    with in_thread(StubServer(side=side)) as server:
        settings = {"LLM_BACKEND": "llamacpp", "LLAMACPP_API_BASE": server.url, "LLAMACPP_API_KEY": "wrong-one"}
        row = examine(miner, "--no-probe", **settings).row("llamacpp", "problem")
    assert "refused the API key" in row["summary"]
    assert row["fix"] == "export LLAMACPP_API_KEY=..."


# Exposure


def test_the_port_is_taken(miner):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        row = examine(miner, "--no-probe", MINER_SERVE_PORT=str(port)).row("port", "problem")
    assert f"127.0.0.1:{port} is in use by" in row["summary"]
    assert f"pid {os.getpid()}" in row["summary"] or not Path("/proc/net/tcp").exists()
    assert row["fix"].startswith("export MINER_SERVE_PORT=")


def test_an_address_of_another_machine(miner):
    row = examine(miner, "--no-probe", MINER_SERVE_HOST="203.0.113.7").row("port", "problem")
    assert row["fix"] == "export MINER_SERVE_HOST=127.0.0.1"


@pytest.mark.parametrize(
    ("settings", "verdict", "words"),
    [
        ({}, "problem", "does not start"),
        ({"MINER_SERVE_ALLOW_UNAUTHENTICATED": "true"}, "problem", "anybody who reaches 0.0.0.0"),
        ({"MINER_API_KEYS": GOOD_KEY}, "note", "without TLS"),
        ({"MINER_SERVE_HOST": "127.0.0.1"}, "ok", "this machine only"),
    ],
)
def test_who_can_reach_the_node(miner, settings, verdict, words):
    found = examine(
        miner, "--no-probe", **({"MINER_SERVE_HOST": "0.0.0.0", "MINER_SERVE_PORT": free_port()} | settings)
    )
    assert words in found.row("address", verdict)["summary"]


WEAK = {
    "short": "5 characters", "passwordpassword": "common words", "sk-changeme-changeme": "common words",
    "abcabcabcabcabcabc": "repeats", "aaaaaaaaaaaaaaaaaaaa": "repeats", "abcdefghijklmnopqrst": "up or down|common",
    "1234567890123456": "repeats|up or down|common", "aaaabbbbaabbababa": "variety|repeats",
}  # fmt: skip


def test_keys_that_could_be_guessed(miner):
    found = examine(miner, "--no-probe", MINER_API_KEYS=",".join([GOOD_KEY, *WEAK]))
    rows = [row["summary"] for row in found.checks if row["name"] == "API keys"]
    assert len(rows) == len(WEAK)
    for number, (row, (key, why)) in enumerate(zip(rows, WEAK.items(), strict=True), 2):
        assert f"key {number} of MINER_API_KEYS" in row
        assert re.search(why, row)
        assert key not in found.text or key == "short"
    assert GOOD_KEY not in found.text
    assert examine(miner, "--no-probe", MINER_API_KEYS=GOOD_KEY).row("API keys", "ok")


def test_the_engines_key_is_no_key_for_clients(miner):
    found = examine(miner, "--no-probe", MINER_API_KEYS=GOOD_KEY, VLLM_API_KEY=GOOD_KEY)
    assert "VLLM_API_KEY" in found.row("API keys", "problem")["summary"]


def test_a_keys_file_that_others_can_write(miner, tmp_path):
    path = tmp_path / "keys.json"
    assert miner("keys", "new", "alice", MINER_API_KEYS_FILE=str(path)).returncode == 0
    assert "1 key," in examine(miner, "--no-probe", MINER_API_KEYS_FILE=str(path)).row("keys file", "ok")["summary"]
    path.chmod(0o666)
    assert (
        examine(miner, "--no-probe", MINER_API_KEYS_FILE=str(path)).row("keys file", "problem")["fix"]
        == f"chmod 600 {path}"
    )
    path.write_text("{")
    assert (
        "not valid"
        in examine(miner, "--no-probe", MINER_API_KEYS_FILE=str(path)).row("keys file", "problem")["summary"]
    )
    path.unlink()
    assert (
        "no such file"
        in examine(miner, "--no-probe", MINER_API_KEYS_FILE=str(path)).row("keys file", "problem")["summary"]
    )


def test_key_files_of_the_configuration(miner, tmp_path):
    (tmp_path / "key").write_text("the-key-of-the-engine\n")
    (tmp_path / "key").chmod(0o644)
    (tmp_path / "miner.toml").write_text(
        '[backends.gpu]\nkind = "vllm"\nurl = "http://127.0.0.1:9/v1"\nkey_file = "key"\n[models.q]\nbackend = "gpu"\n'
    )
    found = examine(miner, "--no-probe")
    assert found.row("key_file of gpu", "problem")["fix"] == f"chmod 600 {tmp_path / 'key'}"
    assert "the-key-of-the-engine" not in found.text


@pytest.mark.parametrize(
    ("value", "verdict"), [("0.0.0.0/0", "problem"), ("::/0", "problem"), ("nowhere", "problem"), ("10.0.0.0/8", "ok")]
)
def test_trusted_proxies(miner, value, verdict):
    assert examine(miner, "--no-probe", MINER_SERVE_TRUSTED_PROXIES=value).row("proxies in front", verdict)


def test_web_pages_of_any_origin(miner):
    assert examine(miner, "--no-probe", MINER_SERVE_CORS_ORIGINS="*").row("web pages", "note")
    assert examine(miner, "--no-probe", MINER_SERVE_CORS_ORIGINS="not an origin").row("web pages", "problem")


def test_an_engine_that_listens_for_others(miner):
    class Open(StubServer):
        async def start(self):
            import asyncio

            self._server = await asyncio.start_server(self._connected, "0.0.0.0", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            return self

    with in_thread(Open()) as server:
        found = examine(miner, "--no-probe", LLM_BACKEND="vllm", VLLM_API_BASE=server.v1)
    assert f"0.0.0.0:{server.port}" in found.row("vllm: address", "note")["summary"]


# Network


def test_proxy_variables(miner):
    proxies = {"http_proxy": "http://user:secret-pass@127.0.0.1:9", "LLM_BACKEND": "vllm"}
    found = examine(miner, "--no-probe", VLLM_API_BASE="http://engine.example/v1", NO_PROXY="other", **proxies)
    row = found.row("proxy variables", "note")
    assert row["fix"] == "export NO_PROXY=other,localhost,127.0.0.1,::1"
    assert row["seen"]["through"]["vllm"] == "127.0.0.1:9 (http_proxy)"
    assert "secret-pass" not in found.text
    found = examine(miner, "--no-probe", VLLM_API_BASE="http://127.0.0.1:9/v1", NO_PROXY="*", **proxies)
    assert found.row("proxy variables", "ok")
    found = examine(
        miner, "--no-probe", LLM_BACKEND="vllm", VLLM_API_BASE="http://e.example/v1", ALL_PROXY="socks5://h:1"
    )
    assert "not a usable proxy" in found.row("proxy variables", "problem")["summary"]


def test_certificates_that_are_none(miner, tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")
    for name, value in (("SSL_CERT_FILE", "/nowhere.pem"), ("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))):
        assert examine(miner, "--no-probe", **{name: value}).row(name, "problem")["fix"] == f"unset {name}"


@pytest.mark.parametrize(("seconds", "verdict"), [(0, "ok"), (30, "note"), (-4000, "problem"), (10**7, "problem")])
def test_the_clock_by_the_date_of_a_server(miner, seconds, verdict):
    class Dated(StubServer):
        async def handle(self, writer: ResponseWriter) -> None:
            await writer.respond(200, {"data": [{"id": "m"}]}, date=formatdate(time.time() + seconds, usegmt=True))

    with in_thread(Dated()) as server:
        found = examine(miner, "--no-probe", LLM_BACKEND="openai", MINER_OPENAI_API_BASE=server.v1)
    row = found.row("clock", verdict)
    if seconds:
        assert ("behind" if seconds > 0 else "ahead") in row["summary"]
        assert row["fix"] == "sudo timedatectl set-ntp true"


@pytest.mark.parametrize(
    ("status", "token", "verdict"), [(200, "hf_abcdef", "ok"), (401, "hf_abcdef", "problem"), (503, "", "note")]
)
def test_the_hub(miner, status, token, verdict):
    class Hub(RawServer):
        async def handle(self, writer: ResponseWriter) -> None:
            await writer.respond(status, {})

    with in_thread(Hub()) as hub:
        found = examine(miner, "--no-probe", HF_ENDPOINT=hub.url, HF_TOKEN=token, HF_HUB_OFFLINE="")
    assert found.row("hub", verdict)
    assert "hf_abcdef" not in found.text


# Machine


def test_a_small_limit_of_open_files(tmp_path):
    command = f"ulimit -n 80 && exec {sys.executable} -m miner doctor --no-probe --json"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment(tmp_path, HF_HUB_OFFLINE="1"), capture_output=True,
        timeout=LONG,
    )  # fmt: skip
    found = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    assert found["open files"]["verdict"] == "problem"
    assert found["open files"]["fix"] == "ulimit -n 65536"
    assert not [name for name, row in found.items() if "this check failed" in row["summary"]]


def test_directories_that_cannot_be_written(miner, tmp_path):
    (tmp_path / "file").write_text("x")
    found = examine(
        miner, "--no-probe", MODELS_DIR=str(tmp_path / "file" / "models"), XDG_CACHE_HOME=str(tmp_path / "file")
    )
    assert found.row("disk: models", "problem")["fix"].startswith("export MODELS_DIR=")
    assert found.row("disk: cache", "problem")


def test_a_directory_that_nobody_can_write(miner):
    assert (
        "cannot be written"
        in examine(miner, "--no-probe", MODELS_DIR="/proc/none").row("disk: models", "problem")["summary"]
    )


def test_text_that_is_not_utf8(miner):
    found = examine(miner, "--no-probe", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="POSIX", LANG="POSIX")
    assert found.row("text encoding", "note")["fix"] == "export LC_ALL=C.UTF-8"


def with_program(directory: Path, name: str, script: str) -> str:
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("script", "name", "verdict", "words", "fix"),
    [
        (
            'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18', "GPU driver", "problem",
            "Driver/library version mismatch", "sudo reboot",
        ),
        (
            "echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\"; exit 9",
            "GPU driver", "problem", "communicate", "sudo modprobe nvidia",
        ),
        ('echo "No devices were found"; exit 6', "GPU driver", "problem", "No devices", "lspci | grep -i nvidia"),
        ("exec sleep 60", "GPU driver", "problem", "hangs", "nvidia-smi"),
        (
            'case "$1" in *memory*) echo "8000, 16000";; *name*) echo "Some GPU, 570.1";; esac', "GPU", "note",
            "computes on the CPU only", "export LLAMACPP_SERVER=/path/to/llama-server",
        ),
    ],
)  # fmt: skip
def test_gpus(miner, tmp_path, script, name, verdict, words, fix):
    found = examine(miner, "--no-probe", PATH=with_program(tmp_path / "bin", "nvidia-smi", script))
    row = found.row(name, verdict)
    assert words in row["summary"]
    assert row["fix"] == fix


HOMELESS = """
import pwd, sys
def no(uid):
    raise KeyError(uid)
pwd.getpwuid = no
sys.path.insert(0, sys.argv[1])
from miner.cli.main import run
sys.exit(run(["doctor", "--no-probe", "--json"]))
"""


def test_no_home_directory(tmp_path):
    """A container's user without an entry in the list of users has none; whoever runs this has one there."""
    settings = environment(tmp_path, HF_HUB_OFFLINE="1")
    del settings["HOME"], settings["XDG_CACHE_HOME"]
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, str(ROOT)],
        cwd=tmp_path, env=settings, capture_output=True, timeout=LONG,
    )  # fmt: skip
    found = json.loads(done.stdout)["checks"]
    assert done.returncode == 1
    wrong = [row for row in found if row["verdict"] == "problem"]
    assert any("HOME" in (row["fix"] or "") for row in wrong), wrong
    assert {row["name"] for row in found} >= {"Python", "open files", "GPU", "API keys"}
