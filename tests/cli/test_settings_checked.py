"""Settings that can be seen to be wrong end `miner serve` and `miner generate` with 2 before there is a request."""

import os
import stat

import pytest

from miner.cli import main
from miner.config.config import MinerConfig
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.errors import ConfigError
from tests.models.conftest import make_gguf


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with things that are not what a setting needs, and no settings but those of the test."""
    for name in list(os.environ):
        if name.startswith(("LLAMACPP_", "MINER_", "DEFAULT_")) or name in ("LLM_BACKEND", "MODEL_PATH", "MODELS_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("some text")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    odd = {"llama.attention.key_length": 80, "llama.attention.value_length": 80}
    (tmp_path / "odd.gguf").write_bytes(make_gguf(odd))
    return tmp_path


WRONG = [
    ({"LLAMACPP_CHAT_TEMPLATE": "nowhere.jinja"}, ["LLAMACPP_CHAT_TEMPLATE", "nowhere.jinja", "No such file"]),
    ({"LLAMACPP_CHAT_TEMPLATE": "folder"}, ["LLAMACPP_CHAT_TEMPLATE", "folder"]),
    ({"LLAMACPP_CHAT_TEMPLATE": "latin"}, ["LLAMACPP_CHAT_TEMPLATE", "latin"]),
    ({"LLAMACPP_CHAT_TEMPLATE": "empty"}, ["LLAMACPP_CHAT_TEMPLATE", "is empty"]),
    ({"MODEL_PATH": "/no/such.gguf"}, ["MODEL_PATH", "/no/such.gguf"]),
    ({"MODEL_PATH": "no-such-name"}, ["MODEL_PATH", "no-such-name", "demo"]),
    ({"MODEL_PATH": "./folder"}, ["MODEL_PATH", "folder"]),
    ({"MODEL_PATH": "./broken.gguf"}, ["MODEL_PATH", "broken.gguf"]),
    ({"MODELS_DIR": "text"}, ["MODELS_DIR", "text", "not a folder"]),
    ({"LLAMACPP_SERVER": "./text"}, ["LLAMACPP_SERVER", "./text", "not executable"]),
    ({"LLAMACPP_SERVER": "/no/llama-server"}, ["LLAMACPP_SERVER", "/no/llama-server", "not there"]),
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
    (files / "server").write_text("#!/bin/sh\n")
    (files / "server").chmod(stat.S_IRWXU)
    LlamaCppService.check_settings(
        MinerConfig(
            llamacpp_chat_template="template", model_path="demo", models_dir="folder", llamacpp_server="./server",
            llamacpp_cache_type_k="q8_0", llamacpp_cache_type_v="q8_0",
        )
    )  # fmt: skip
    LlamaCppService.check_settings(MinerConfig(models_dir="not-made-yet"))
    LlamaCppService.check_settings()
