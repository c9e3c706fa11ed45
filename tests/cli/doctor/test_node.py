"""`miner doctor --url`: a real gateway over a service that a test writes, and servers that are none."""

from __future__ import annotations

import pytest

from miner.core.model_card import ModelState
from miner.core.wire import ModelInfo
from miner.errors import BackendOverloadedError, EngineStartError
from tests.cli.doctor.examine import examine
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers.faults import FaultServer, garbage_http, silent
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


class Named(Parrot):
    """Has a model."""

    def __init__(self):
        super().__init__(config())

    async def list_models(self):
        return [ModelInfo(id="small", context_length=40960)]


class Engines(Named):
    """Has engines, one of which has failed."""

    async def model_states(self):
        return [
            ModelState(name="small", backend="local", state="ready", context_length=4096, default=True),
            ModelState(name="broken", backend="local", state="failed", reason="llama.cpp did\nnot start."),
        ]


def test_a_node_that_is_well(miner):
    with in_thread(Gate(Named())) as gate:
        for url in (gate.url, f"{gate.url}/v1", f"{gate.url}/"):
            found = examine(miner, "--url", url)
            assert found.problems() == []
            for name in (
                "node",
                "clock",
                "node: version",
                "node: ready",
                "node: key",
                "node: metrics",
                "node: probe chat",
            ):
                assert found.row(name, "ok"), name


def test_a_failed_model_and_a_small_context(miner):
    with in_thread(Gate(Engines())) as gate:
        found = examine(miner, "--no-probe", "--url", gate.url)
    row = found.row("node: broken", "problem")
    assert row["fix"] == f"miner models reset broken --url {gate.url}"
    assert "llama.cpp did" in row["summary"]
    assert found.row("node: small", "note")["seen"]["context"] == 4096
    assert found.row("node: probe", "skipped")


@pytest.mark.parametrize(("trained", "hint"), [(4096, "trained for more"), (40960, "LLAMACPP_CTX_SIZE")])
def test_a_context_is_raised_only_below_the_trained_length(miner, trained, hint):
    class Short(Engines):
        async def list_models(self):
            return [ModelInfo(id="small", context_length=4096, trained_context_length=trained)]

    with in_thread(Gate(Short())) as gate:
        row = examine(miner, "--no-probe", "--url", gate.url).row("node: small", "note")
    assert hint in row["hint"]
    assert row["seen"]["trained"] == trained


def test_a_short_context_is_right_for_models_that_only_embed_or_rank(miner):
    class Vectors(Named):
        async def model_states(self):
            return [
                ModelState(name=name, state="ready", context_length=512, capabilities=[able, "timeout"])
                for name, able in (("minilm", "embeddings"), ("ranker", "rerank"))
            ]

    with in_thread(Gate(Vectors())) as gate:
        found = examine(miner, "--no-probe", "--url", gate.url)
    assert found.row("node: models", "ok")
    assert not [row for row in found.checks if "agents need" in row["summary"]]


@pytest.mark.parametrize("key", [None, "wrong-key-of-somebody"])
def test_a_node_that_wants_a_key(miner, key):
    with in_thread(StubServer(api_key="right")) as server:
        found = examine(miner, "--url", server.url, *(["--key", key] if key else []))
    row = found.row("node: key", "problem")
    assert ("refused" if key else "requires a key") in row["summary"]
    assert found.row("node: version, models, probe", "skipped")
    assert "wrong-key-of-somebody" not in found.text


def test_a_key_from_standard_input(miner):
    with in_thread(StubServer(["m"], api_key="right-key")) as server:
        done = miner("doctor", "--no-probe", "--url", server.url, "--key", "-", stdin=b"right-key\n")
    assert done.returncode == 0
    assert "this one is accepted" in done.stdout.decode()


def test_any_server_with_openais_api(miner):
    with in_thread(StubServer(["m"])) as server:
        found = examine(miner, "--url", server.v1, "--model", "n")
        assert "is no `miner serve`" in found.row("node", "note")["summary"]
        assert found.row("node: model", "problem")["fix"] == f"miner doctor --url {server.url} --model m"


def test_nothing_there(miner):
    port = closed_port()
    found = examine(miner, "--url", f"http://127.0.0.1:{port}")
    assert found.row("node", "problem")["fix"] == f"miner serve --port {port}"
    assert found.row("node: keys, models, probe", "skipped")


@pytest.mark.parametrize("behaviour", [silent(), garbage_http(everywhere=True)])
def test_what_is_no_server(miner, behaviour):
    with in_thread(FaultServer(behaviour)) as server:
        found = examine(miner, "--url", server.url)
    assert found.row("node", "problem")["fix"]


def test_the_settings_of_this_machine_do_not_matter(miner, tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff")
    with in_thread(Gate(Named())) as gate:
        found = examine(miner, "--no-probe", "--url", gate.url, LLAMACPP_PARALLEL="lots")
    assert found.problems() == []


class Several(Parrot):
    """Has models, none of which is the default; keeps the names that requests had."""

    def __init__(self, *models, error=None):
        super().__init__(config())
        self.listed, self.error, self.requested = list(models), error, []

    async def list_models(self):
        return self.listed

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        self.requested.append(model)
        if self.error is not None:
            raise self.error
        return "Hello."


def info(name, *, loaded, able=None, default=None):
    return ModelInfo(id=name, loaded=loaded, capabilities=able and frozenset(able), default=default)


def test_the_model_that_is_loaded_is_probed(miner):
    service = Several(info("slow", loaded=False), info("fast", loaded=True))
    with in_thread(Gate(service)) as gate:
        found = examine(miner, "--url", gate.url)
        assert "fast is probed: it is loaded" in found.row("node: model", "ok")["summary"]
        assert set(service.requested) == {"fast"}
        service.requested.clear()
        assert examine(miner, "--url", gate.url, "-m", "slow").row("node: probe chat", "ok")
        assert set(service.requested) == {"slow"}


def test_no_model_is_loaded_in_the_place_of_another(miner):
    service = Several(info("chats", loaded=False, able={"chat"}), info("vectors", loaded=True, able={"embeddings"}))
    with in_thread(Gate(service)) as gate:
        row = examine(miner, "--url", gate.url).row("node: probe", "skipped")
    assert row["summary"] == "nothing was probed: vectors is loaded, and could be unloaded for chats"
    assert row["fix"] == f"miner doctor --url {gate.url} --model NAME"
    assert service.requested == []


def test_a_model_is_loaded_where_none_is(miner):
    service = Several(info("vectors", loaded=False, able={"embeddings"}), info("chats", loaded=False, able={"chat"}))
    with in_thread(Gate(service)) as gate:
        assert examine(miner, "--url", gate.url).row("node: probe chat", "ok")
    assert set(service.requested) == {"chats"}


def test_a_server_that_does_not_say_what_is_loaded_is_not_probed(miner):
    with in_thread(StubServer(["a", "b"], side={"/api/ps": (404, {"error": "no such page"})})) as server:
        row = examine(miner, "--url", server.url).row("node: probe", "skipped")
        assert server.bodies == []
        assert row["fix"] == f"miner doctor --url {server.url} --model NAME"


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (BackendOverloadedError("Too many requests wait."), "miner ps --url {}"),
        (EngineStartError("The engine did not start."), "miner logs small --url {}"),
    ],
)
def test_the_way_out_of_a_probe_that_fails(miner, error, fix):
    service = Several(info("small", loaded=True), error=error)
    with in_thread(Gate(service)) as gate:
        assert examine(miner, "--url", gate.url).row("node: probe chat", "problem")["fix"] == fix.format(gate.url)
