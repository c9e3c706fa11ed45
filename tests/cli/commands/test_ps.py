"""`miner ps`, `load`, `unload` and `stop` against a gateway that runs."""

from __future__ import annotations

import json

import pytest

from miner.cli import main
from miner.core.model_card import ModelState
from miner.errors import ModelNotFoundError, UnsupportedFeatureError
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread


class Managed(Parrot):
    """Has engines, of which a test says what they do."""

    def __init__(self):
        super().__init__(config())
        self.calls = []
        self.states = [
            ModelState(name="small", backend="local", state="ready", memory=3 << 20, slots=4, slots_busy=1, queued=2,
                       context_length=4096, default=True),
            ModelState(name="broken", backend="local", state="failed", reason="llama.cpp did\nnot start."),
            ModelState(name="kept", backend="local", state="ready", pinned=True),
            ModelState(name="far", backend="den", state="remote"),
            ModelState(name="idle", backend="local", state="unloaded", memory=3 << 30),
        ]  # fmt: skip

    async def model_states(self):
        return self.states

    async def _get_model(self, model_name):
        if model_name == "none":
            raise ModelNotFoundError("There is no model 'none'.", model=model_name, available=["small"])

    async def load_model(self, model=None, *, keep_alive=None):
        self.calls.append(("load", model, keep_alive))
        return await super().load_model(model)

    async def unload_model(self, model):
        self.calls.append(("unload", model))
        return model == "small"

    async def stop_model(self, model):
        if model == "far":
            raise UnsupportedFeatureError("den does not stop models: they stay loaded.", param="model")
        self.calls.append(("stop", model))
        return model == "small"

    def pin_model(self, model):
        self.calls.append(("pin", model))


@pytest.fixture
def miner(tmp_path, monkeypatch, capsys):
    """Run the command; gives exit status, standard output and standard error."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main.run(list(arguments))
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


def test_ps_shows_what_is_loaded_and_why_something_is_not(miner):
    with in_thread(Gate(Managed())) as gate:
        status, out, err = miner("ps", "--url", gate.url)
        assert (status, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].split() == ["NAME", "BACKEND", "STATE", "MEMORY", "CONTEXT", "BUSY", "QUEUED", "UNTIL"]
        assert lines[1].split() == ["small*", "local", "ready", "3.00", "MiB", "4096", "1/4", "2", "evicted"]
        assert lines[2].split()[:3] == ["broken", "local", "failed"]
        assert lines[3] == "  llama.cpp did not start."
        assert lines[4].split()[-1] == "pinned"
        assert "far" not in out
        assert "far" in miner("ps", "--all", "--url", gate.url)[1]
        idle = next(line for line in miner("ps", "--all", "--url", gate.url)[1].splitlines() if "idle" in line)
        assert idle.split()[2:4] == ["unloaded", "-"], "MEMORY is what is in use"
        everything = json.loads(miner("ps", "--all", "--json", "--url", gate.url)[1])["models"]
        assert next(model for model in everything if model["name"] == "idle")["memory"] is None
        shown = json.loads(miner("ps", "--json", "--url", gate.url)[1])
        assert [model["name"] for model in shown["models"]] == ["small", "broken", "kept"]


def test_load_unload_and_stop(miner):
    service = Managed()
    with in_thread(Gate(service)) as gate:
        url = ("--url", gate.url)
        status, out, err = miner("load", "small", *url)
        assert (status, out) == (0, "small is loaded\n")
        assert " s, 3.00 MiB, 4 slots of 4096 tokens. It stays until another model needs its memory.\n" in err
        assert "`miner unload small` undoes it." in err
        assert miner("load", "small", "--keep-alive", "2h", "--pin", *url)[:2] == (0, "small is loaded and pinned\n")
        freed = "3.00 MiB of memory are free again.\n"
        assert miner("unload", "small", *url) == (0, "small is unloaded\n", freed)
        assert miner("unload", "kept", *url) == (0, "kept was not loaded\n", "")
        assert miner("stop", "small", *url) == (0, "small is stopped\n", freed)
        assert json.loads(miner("stop", "small", "--json", *url)[1]) == {
            "model": "small", "stopped": True, "freed": 3 << 20,
        }  # fmt: skip
        service.calls.pop()
        loaded = json.loads(miner("load", "small", "--json", *url)[1])
        assert 0 <= loaded.pop("seconds") < 60
        assert loaded == {
            "model": "small", "loaded": True, "state": "ready", "memory": 3 << 20, "slots": 4, "context_length": 4096,
        }  # fmt: skip
        service.calls.pop()
        assert service.calls == [
            ("load", "small", None), ("load", "small", "2h"), ("pin", "small"), ("unload", "small"),
            ("unload", "kept"), ("stop", "small"),
        ]  # fmt: skip


@pytest.mark.parametrize("command", ["load", "unload", "stop"])
def test_failures_say_what_to_do(miner, command):
    port = closed_port()
    status, out, err = miner(command, "small", "--url", f"http://127.0.0.1:{port}")
    assert (status, out) == (1, "")
    assert "miner serve" in err
    assert miner(command, "small", "--url", "nowhere")[0] == 2
    assert miner(command)[0] == 2
    with in_thread(Gate(Managed())) as gate:
        if command == "load":
            status, _, err = miner("load", "none", "--url", gate.url)
            assert (status, "no model 'none'" in err) == (2, True)
        if command == "stop":
            status, _, err = miner("stop", "far", "--url", gate.url)
            assert (status, "does not stop models" in err) == (2, True)
