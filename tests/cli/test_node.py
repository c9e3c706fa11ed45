"""MINER_URL and MINER_KEY stand for --url and --key, and a command says so."""

from __future__ import annotations

import json

import pytest

from miner.core.wire import ModelInfo
from miner.errors import ModelNotFoundError
from tests.cli.test_gateway_client import Gate
from tests.gateway.serving import Parrot, config
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


def bearers(server):
    return {request.headers.get("authorization") for request in server.requests}


def test_a_command_takes_both_and_says_which_node_it_talks_to(miner):
    with in_thread(FaultServer(faults.ok(["Hello."]))) as server:
        done = miner("generate", "-m", "smollm2", "hi", MINER_URL=server.url, MINER_KEY="secret-of-node")
        assert (done.returncode, done.stdout) == (0, b"Hello.\n")
        assert f"miner: talking to {server.url} (MINER_URL)\n".encode() in done.stderr
        assert b"secret-of-node" not in done.stderr
        assert bearers(server) == {"Bearer secret-of-node"}
        assert miner("generate", "-q", "-m", "smollm2", "hi", MINER_URL=server.url).stderr == b""


def test_options_come_first(miner):
    with in_thread(FaultServer(faults.ok(["Hello."]))) as server:
        url = ("--url", server.url, "-m", "smollm2")
        done = miner("generate", *url, "--key", "typed", "hi", MINER_URL="http://127.0.0.1:1", MINER_KEY="other")
        assert (done.returncode, bearers(server)) == (0, {"Bearer typed"})
        assert b"MINER_" not in done.stderr


def test_a_key_goes_to_no_other_server_than_that_of_MINER_URL(miner):
    with in_thread(FaultServer(faults.ok(["Hello."]))) as server:
        url = ("--url", server.url, "-m", "smollm2")
        done = miner("generate", *url, "hi", MINER_URL="http://127.0.0.1:1", MINER_KEY="other")
        assert (done.returncode, bearers(server)) == (0, {None})
        assert b"MINER_KEY is for MINER_URL" in done.stderr
        server.requests.clear()
        assert miner("generate", *url, "hi", MINER_URL=f"{server.url}/v1", MINER_KEY="same").returncode == 0
        assert bearers(server) == {"Bearer same"}
        server.requests.clear()
        assert miner("generate", *url, "hi", MINER_KEY="alone").returncode == 0
        assert bearers(server) == {"Bearer alone"}


def test_backend_and_config_mean_this_machine(miner):
    with in_thread(FaultServer(faults.ok(["Hello."]))) as server:
        done = miner("generate", "--backend", "vllm", "-m", "smollm2", "hi", MINER_URL="http://127.0.0.1:1",
                     MINER_KEY="other", VLLM_API_BASE=server.v1)  # fmt: skip
        assert (done.returncode, done.stdout) == (0, b"Hello.\n")
        assert bearers(server) == {None}


@pytest.mark.parametrize("command", ["ps", "top", "logs", "list", "version", "doctor", "tokenize"])
def test_every_command_with_a_url_takes_it(miner, command):
    words = {"top": ["--once"], "tokenize": ["hi"]}.get(command, [])
    done = miner(command, *words, MINER_URL="http://127.0.0.1:1", MINER_MAX_RETRIES="0")
    assert done.returncode == 1
    assert b"miner: talking to http://127.0.0.1:1 (MINER_URL)" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "--show", "run.json"),
        ("bench", "--compare", "run.json", "run.json"),
        ("bench", "--concurrency", "none"),
        ("generate", "--tool-choice", "add", "hi"),
        ("generate",),
        ("chat", "--keep-alive", "zz", "--keepalive", "zz"),
    ],
)
def test_nothing_is_said_where_no_server_is_talked_to(miner, tmp_path, arguments):
    (tmp_path / "run.json").write_text("{}")
    done = miner(*arguments, MINER_URL="http://127.0.0.1:1")
    assert done.returncode == 2
    assert b"talking to" not in done.stderr


def test_a_wrong_one_is_refused_without_its_password(miner):
    done = miner("ps", "--json", MINER_URL="ftp://me:hidden@node")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["message"].startswith("MINER_URL='")
    assert b"hidden" not in done.stdout + done.stderr


def test_without_them_nothing_is_said(miner):
    done = miner("list", MINER_KEY="unused")
    assert done.returncode == 0
    assert b"MINER_" not in done.stderr


def test_config_show_knows_them(miner):
    done = miner("config", "show", "--json", MINER_URL="http://127.0.0.1:1", MINER_KEY="hidden-key")
    assert b"MINER_URL" in done.stdout
    assert b"hidden-key" not in done.stdout


def test_a_model_that_has_several_names_is_one(miner):
    class Named(Parrot):
        async def list_models(self):
            return [
                ModelInfo(id="you/gemma", aliases=["gemma"]),
                ModelInfo(id="demo", aliases=["smollm2"], loaded=False),
            ]

        async def _sole_model(self):
            raise ModelNotFoundError("There are several models and none was named.", available=["you/gemma", "demo"])

    with in_thread(Gate(Named(config(default_model=None)))) as gate:
        listed = miner("list", "--json", MINER_URL=gate.url)
        assert [model["name"] for model in json.loads(listed.stdout)["models"]] == ["you/gemma", "demo"]
        assert [model["loaded"] for model in json.loads(listed.stdout)["models"]] == [True, False]
        assert b"miner ps" not in miner("list", "--url", gate.url).stderr  # nothing says that it is a node
        refused = miner("generate", "hi", MINER_URL=gate.url)
        assert refused.returncode == 2
        assert b"you/gemma, demo." in refused.stderr


def test_the_hint_of_a_node_s_list_works_as_it_is_typed(miner):
    class Able(Parrot):
        async def list_models(self):
            return [ModelInfo(id="m", capabilities=frozenset({"chat"}))]

    with in_thread(Gate(Able(config(default_model="m")))) as gate:
        for options, settings in ((["--url", gate.url], {}), ([], {"MINER_URL": gate.url})):
            listed = miner("list", *options, **settings)
            command = listed.stderr.decode().partition("`miner ")[2].partition("`")[0].split()
            assert command == ["ps", "--all", *options]
            assert miner(*command, **settings).returncode == 0
