"""Commands against a server at --url."""

import json

import pytest

from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.openai_stub import StubServer
from tests.servers.threaded import in_thread

pytestmark = pytest.mark.process


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_url_with_or_without_v1_and_the_key_from_standard_input(miner, suffix):
    with in_thread(FaultServer(faults.ok(["Hel", "lo."]))) as server:
        url = f"{server.url}{suffix}"
        done = miner(
            "generate", "--url", url, "--key", "-", "-m", "smollm2", "hi", stdin=b"secret\n", LLM_BACKEND="ollama"
        )
        (request,) = [each for each in server.generations if each.method == "POST"]
    assert (done.returncode, done.stdout) == (0, b"Hello.\n")
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    assert json.loads(request.body)["model"] == "smollm2"


def test_without_a_model_the_servers_only_one_is_used(miner):
    with in_thread(StubServer(["smollm2"])) as server:
        done = miner("generate", "--url", server.url, "--json", "hi")
    assert done.returncode == 0
    assert json.loads(done.stdout)["model"] == "smollm2"


def test_a_server_that_is_not_there_is_named_with_what_to_do(miner):
    done = miner("generate", "--url", "http://127.0.0.1:1", "-m", "x", "hi", MINER_MAX_RETRIES="0")
    assert done.returncode == 1
    text = done.stderr.decode()
    assert "127.0.0.1:1" in text
    assert "`miner serve` starts one" in text
    assert "MINER_OPENAI" not in text


def test_fallbacks_of_the_environment_are_not_those_of_a_url(miner):
    with in_thread(FaultServer(faults.ok(["no"]))) as other:
        done = miner(
            "generate", "--url", "http://127.0.0.1:1", "-m", "x", "hi",
            MINER_MAX_RETRIES="0", MINER_LLM_FALLBACKS="vllm", VLLM_API_BASE=other.v1,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == b""
