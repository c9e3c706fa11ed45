"""Settings that can be seen to be wrong end `miner serve` and `miner generate` with 2 before there is a request."""

import os
import stat
import time

import pytest

from miner.cli import main
from miner.config.config import MinerConfig
from miner.core.engine.launchers import check_server_binary
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.errors import ConfigError, EngineStartError
from tests.core.models.conftest import make_gguf
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process  # LLAMACPP_SERVER is asked for its help


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A directory with things that are not what a setting needs, and no settings but those of the test."""
    for name in list(os.environ):
        if name.startswith(("LLAMACPP_", "MINER_", "DEFAULT_")) or name in ("LLM_BACKEND", "MODEL_PATH", "MODELS_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("some text")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "directory").mkdir()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    (tmp_path / "nonsense").write_text("not a program at all")
    (tmp_path / "nonsense").chmod(stat.S_IRWXU)
    os.mkfifo(tmp_path / "pipe.gguf")
    odd = {"llama.attention.key_length": 80, "llama.attention.value_length": 80}
    (tmp_path / "odd.gguf").write_bytes(make_gguf(odd))
    return tmp_path


WRONG = [
    ({"LLAMACPP_CHAT_TEMPLATE": "nowhere.jinja"}, ["LLAMACPP_CHAT_TEMPLATE", "nowhere.jinja", "No such file"]),
    ({"LLAMACPP_CHAT_TEMPLATE": "directory"}, ["LLAMACPP_CHAT_TEMPLATE", "directory"]),
    ({"LLAMACPP_CHAT_TEMPLATE": "latin"}, ["LLAMACPP_CHAT_TEMPLATE", "latin"]),
    ({"LLAMACPP_CHAT_TEMPLATE": "empty"}, ["LLAMACPP_CHAT_TEMPLATE", "is empty"]),
    ({"MODEL_PATH": "/no/such.gguf"}, ["MODEL_PATH", "/no/such.gguf"]),
    ({"MODEL_PATH": "no-such-name"}, ["MODEL_PATH", "no-such-name", "demo"]),
    ({"MODEL_PATH": "./directory"}, ["MODEL_PATH", "directory"]),
    ({"MODEL_PATH": "./broken.gguf"}, ["MODEL_PATH", "broken.gguf"]),
    ({"MODELS_DIR": "text"}, ["MODELS_DIR", "text", "not a directory"]),
    ({"LLAMACPP_SERVER": "./text"}, ["LLAMACPP_SERVER", "./text", "not executable"]),
    ({"LLAMACPP_SERVER": "/no/llama-server"}, ["LLAMACPP_SERVER", "/no/llama-server", "not there"]),
    ({"LLAMACPP_SERVER": "/bin/ls"}, ["LLAMACPP_SERVER=/bin/ls", "not a llama-server", "--model", "unset"]),
    ({"LLAMACPP_SERVER": "true"}, ["LLAMACPP_SERVER=true", "not a llama-server"]),
    ({"LLAMACPP_SERVER": "./nonsense"}, ["LLAMACPP_SERVER=./nonsense", "cannot be run"]),
    ({"MODEL_PATH": "./pipe.gguf"}, ["MODEL_PATH", "pipe.gguf", "a FIFO"]),
    ({"MODEL_PATH": "pipe.gguf"}, ["MODEL_PATH", "pipe.gguf", "a FIFO"]),
    (
        {"MINER_LLM_FALLBACKS": "ollama, olama"},
        ["MINER_LLM_FALLBACKS='ollama, olama'", "'olama'", "vllm", "mean ollama"],
    ),
    ({"LLAMACPP_CACHE_TYPE_V": "q8_0", "LLAMACPP_FLASH_ATTN": "off"}, ["LLAMACPP_CACHE_TYPE_V", "LLAMACPP_FLASH_ATTN"]),
    ({"LLAMACPP_CACHE_TYPE_K": "q4_0", "MODEL_PATH": "./odd.gguf"}, ["LLAMACPP_CACHE_TYPE_K", "80"]),
    ({"LLAMACPP_THREADS": "600"}, ["LLAMACPP_THREADS", "600"]),
]


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["generate", "Hi"]])
@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_a_wrong_setting_is_named(files, monkeypatch, capsys, command, settings, words):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main.run(command) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert [word for word in words if word not in written.err] == []
    assert "Traceback" not in written.err


def test_a_fallbacks_settings_count_too(files, monkeypatch, capsys):
    monkeypatch.setenv("LLM_BACKEND", "ollama")
    monkeypatch.setenv("MODEL_PATH", "/no/such.gguf")
    OllamaService.check_settings(MinerConfig())  # what it does not use is none of its affair
    monkeypatch.setenv("MINER_LLM_FALLBACKS", "llamacpp")
    assert main.run(["serve", "--port", "0"]) == 2
    assert "MODEL_PATH" in capsys.readouterr().err


def test_what_belongs_to_another_server_is_not_looked_at(files, monkeypatch):
    given = {"llamacpp_chat_template": "nowhere", "model_path": "/no/such.gguf", "models_dir": "text"}
    LlamaCppService.check_settings(MinerConfig(llamacpp_api_base="http://127.0.0.1:9", **given))
    with pytest.raises(ConfigError):
        LlamaCppService.check_settings(MinerConfig(**given))


def test_right_settings_are_let_pass(files):
    (files / "template").write_text("{{ messages }}")
    (files / "server").write_text("#!/bin/sh\necho '-m, --model FNAME'\n")
    (files / "server").chmod(stat.S_IRWXU)
    LlamaCppService.check_settings(
        MinerConfig(
            llamacpp_chat_template="template", model_path="demo", models_dir="directory", llamacpp_server="./server",
            llamacpp_cache_type_k="q8_0", llamacpp_cache_type_v="q8_0",
        )
    )  # fmt: skip
    LlamaCppService.check_settings(MinerConfig(models_dir="not-made-yet"))
    LlamaCppService.check_settings()


def test_a_server_that_never_answers_its_help_is_refused(files):
    (files / "server").write_text("#!/bin/sh\nsleep 600 &\necho --mod\nwait\n")
    (files / "server").chmod(stat.S_IRWXU)
    with pytest.raises(EngineStartError, match="it is not a llama-server"):
        check_server_binary("./server", timeout=1)


def test_a_chosen_backend_has_no_fallbacks(files, monkeypatch, capsys):
    monkeypatch.setenv("MINER_LLM_FALLBACKS", "olama")
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:9")
    assert main.run(["generate", "--backend", "ollama", "Hi"]) == 1  # nothing answers there
    assert "MINER_LLM_FALLBACKS" not in capsys.readouterr().err


UNKNOWN = [
    ("MINER_API_KEY", "did you mean MINER_API_KEYS?"),
    ("Miner_Serve_Prot", "did you mean MINER_SERVE_PORT?"),
    ("MINER_DEFAULT_MODEL", "did you mean DEFAULT_MODEL?"),
    ("MINER_LLAMACPP_THREADS", "did you mean LLAMACPP_THREADS?"),
    ("MINER_XYZZY", ".env.example"),
]


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize(("name", "words"), UNKNOWN)
def test_an_unknown_variable_is_reported(files, monkeypatch, capfd, place, name, words):
    if place == "environment":
        monkeypatch.setenv(name, "a-secret-value")
    else:
        (files / ".env").write_text(f"{name}=a-secret-value\n")
    monkeypatch.setenv("MINER_CACHE", "somewhere")
    monkeypatch.setenv("MINER_MAX_MODEL_LEN", "7")  # of `miner vllm`
    monkeypatch.setenv("MINER_NOTHING", "")
    monkeypatch.setenv("MODEL_PATH", "/no/such.gguf")
    for command in (["generate", "Hi"], ["serve", "--port", "0"]):
        assert main.run(command) == 2
        written = capfd.readouterr().err
        assert written.count("is not a setting") == 1
        assert f"{name.upper()} is not a setting: " in written
        assert words in written
        assert "a-secret-value" not in written


def test_it_is_reported_before_an_open_address_is_refused(files, monkeypatch, capfd):
    monkeypatch.setenv("MINER_API_KEY", "0123456789abcdef")
    assert main.run(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "did you mean MINER_API_KEYS?" in capfd.readouterr().err


def test_serving_names_the_fallbacks(miner):
    process = miner.start(
        "serve", "--port", "0", LLM_BACKEND="vllm", VLLM_API_BASE="http://127.0.0.1:9/v1", MINER_LLM_FALLBACKS="ollama",
        OLLAMA_BASE_URL="http://127.0.0.1:9", MINER_SERVE_PRELOAD="false",
    )  # fmt: skip
    assert process.stderr is not None
    line = next(line for line in process.stderr if b"Serving at" in line)
    assert line.rstrip().endswith(b" with vllm, then ollama.")


def served(miner, *arguments, **settings):
    """What `miner serve` writes until it is ready."""
    process = miner.start("serve", "--port", "0", *arguments, **settings)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.decode())
        if "nope" in lines[-1]:
            break
    time.sleep(1)
    process.terminate()
    return "".join(lines) + process.stderr.read().decode(), process.wait(60)


def test_a_missing_default_model_is_reported_once(miner):
    with in_thread(StubServer(models=["a", "b"])) as server:
        written, _ = served(miner, "--model", "nope", LLM_BACKEND="vllm", VLLM_API_BASE=server.v1)
    assert written.count("nope") == 1
    assert "DEFAULT_MODEL" in written
    assert "a, b" in written


@pytest.mark.parametrize(("typed", "shown"), [(["--model", "nope"], "--model 'nope'"), ([], "DEFAULT_MODEL='nope'")])
def test_llama_cpp_is_not_served_without_its_default_model(files, monkeypatch, capsys, typed, shown):
    if not typed:
        monkeypatch.setenv("DEFAULT_MODEL", "nope")
    assert main.run(["serve", "--port", "0", *typed]) == 2
    written = capsys.readouterr().err
    assert written.startswith(f"miner: {shown}: there is no such model.")
    assert written.count("nope") == 1
    assert "change --model or DEFAULT_MODEL" in written
