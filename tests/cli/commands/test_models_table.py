"""`miner models list` with a miner.toml: its models, and what they do where its gateway runs."""

from __future__ import annotations

import json

import pytest

from miner.cli import main
from miner.core.model_card import ModelState
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread
from tests.tiny_model import write_tiny_model

TABLE = """
[backends.local]
kind = "llamacpp"
[backends.den]
kind = "openai"
url = "http://127.0.0.1:{port}"
[models.small]
backend = "local"
file = "tiny.gguf"
context = 512
slots = 1
[models.far]
backend = "den"
"""


class Running(Parrot):
    """The gateway of the table."""

    def __init__(self):
        super().__init__(config())

    async def model_states(self):
        return [
            ModelState(name="small", backend="local", state="ready", slots=1),
            ModelState(name="far", backend="den", state="remote"),
        ]


@pytest.fixture
def miner(tmp_path, monkeypatch, capsys):
    """Run `miner models list` beside the table; gives exit status, standard output and standard error."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("MINER_SERVE_PORT", str(closed_port()))
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "tiny.gguf")
    (tmp_path / "miner.toml").write_text(TABLE.format(port=closed_port()))

    def run(*arguments):
        status = main.run(["models", "list", *arguments])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


def states(out):
    return {line.split()[0]: line.split()[2] for line in out.splitlines()[1:] if not line.startswith(" ")}


def test_the_models_of_the_file_are_listed_without_a_gateway(miner):
    status, out, err = miner()
    assert status == 0
    assert states(out) == {"small": "unloaded", "far": "unavailable"}
    assert "512" in out
    assert "den" in out
    assert "miner.toml: 2 models. No gateway was asked" in err
    assert json.loads(miner("--json")[1])["models"][0]["name"] == "small"


def test_a_gateway_says_what_is_loaded(miner):
    with in_thread(Gate(Running())) as gate:
        status, out, err = miner("--url", gate.url)
        assert (status, states(out)) == (0, {"small": "ready", "far": "remote"})
        assert f"As the gateway at {gate.url} serves them" in err


def test_a_gateway_that_was_named_may_serve_others(miner, tmp_path):
    file = tmp_path / "miner.toml"
    file.write_text(file.read_text().replace("[models.small]", "[models.tiny]"))
    with in_thread(Gate(Running())) as gate:
        status, out, err = miner("--url", gate.url)
        assert (status, states(out)) == (0, {"small": "ready", "far": "remote"})
        assert f"The gateway at {gate.url} serves other models than" in err
        assert "As the gateway" not in err


def test_without_the_file_or_with_a_backend_the_models_directory_is_listed(miner, tmp_path, monkeypatch):
    assert "SOURCE" in miner("--backend", "llamacpp")[1]
    monkeypatch.setenv("LLM_BACKEND", "llamacpp")
    assert "SOURCE" in miner()[1]
    assert states(miner("--config", "miner.toml")[1]).keys() == {"small", "far"}
    monkeypatch.delenv("LLM_BACKEND")
    (tmp_path / "miner.toml").unlink()
    assert "SOURCE" in miner()[1]
    with in_thread(StubServer(["there"])) as server:
        status, out, _ = miner("--url", server.url)
        assert (status, out.splitlines()[1].split()) == (0, ["there", "2048", "test"])
        listed = json.loads(miner("--url", server.url, "--json")[1])["models"]
        assert [(model["name"], model["context_length"]) for model in listed] == [("there", 2048)]


def test_a_gateway_that_was_named_must_answer(miner):
    status, out, err = miner("--url", f"http://127.0.0.1:{closed_port()}")
    assert (status, out) == (1, "")
    assert "miner serve" in err


def test_a_context_beyond_the_training_is_noted(miner, tmp_path, capsys):
    (tmp_path / "miner.toml").write_text('[models.small]\nfile = "tiny.gguf"\ncontext = 32768\n')
    assert main.run(["config", "check"]) == 0
    written = capsys.readouterr()
    text = written.out + written.err
    assert "miner.toml:3: models.small.context" in text
    assert "trained for 2048 tokens" in text


def test_a_file_without_models_says_how_to_add_them(miner, tmp_path):
    (tmp_path / "miner.toml").write_text('[backends.local]\nkind = "llamacpp"\n')
    status, out, err = miner()
    assert (status, out) == (0, "")
    assert "miner config init --add" in err
