"""`miner models reset` against gateways that run: what is printed, and what to do where it does not work."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from miner.cli import main
from miner.cli.url_service import URLService
from miner.errors import BackendUnavailableError, ModelNotFoundError
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys
from tests.gateway.serving import Parrot, config, serving
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port
from tests.servers.threaded import in_thread

USER, BOSS = "key-of-user-0123456789", "key-of-boss-0123456789"


class Failing(Parrot):
    """Has engines that fail."""

    def reset_model(self, model):
        if model == "none":
            raise ModelNotFoundError("There is no model 'none'. Available: demo.", model=model, available=["demo"])
        if model == "down":
            raise BackendUnavailableError("The engines are gone.")
        self.was_reset = [*getattr(self, "was_reset", []), model]


class Gate:
    """A gateway over a service, for `in_thread`."""

    def __init__(self, service):
        self._serving = serving(service)
        self.url = ""

    async def __aenter__(self):
        self.url = (await self._serving.__aenter__()).url
        return self

    async def __aexit__(self, *error):
        await self._serving.__aexit__(*error)


@pytest.fixture
def miner(tmp_path, monkeypatch, capsys):
    """Run the command; gives exit status, standard output and standard error."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("MINER_SERVE_HOST", "MINER_SERVE_PORT", "MINER_API_KEYS", "MINER_API_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        status = main.run(["models", "reset", *arguments])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


@pytest.fixture
def keys(miner):
    entries = [
        KeyEntry(name=name, sha256=hash_of(key).hex(), admin=name == "boss")
        for name, key in (("user", USER), ("boss", BOSS))
    ]
    write_keys(key_path(None), KeyFile(keys=entries))


@pytest.mark.parametrize("name", ["..", "a/../b", "a/b", "a%2Fb", "a?b#c", "x y", "back\\slash", "ä"])
def test_a_name_reaches_the_gateway_as_it_is_typed(miner, name):
    service = Failing(config())
    with in_thread(Gate(service)) as gate:
        told = miner(name, "--url", gate.url)[2]
    # A name that could be a path is refused by the gateway, with what it got.
    assert getattr(service, "was_reset", None) == [name] or f"There is no model {name!r}." in told


def test_a_gateway_without_keys_at_the_address_of_the_settings(miner, monkeypatch):
    service = Failing(config())
    with in_thread(Gate(service)) as served:
        monkeypatch.setenv("MINER_SERVE_HOST", "0.0.0.0")  # where it listens; asked is this machine
        monkeypatch.setenv("MINER_SERVE_PORT", served.url.rpartition(":")[2])
        assert miner("demo") == (0, "reset demo: the next request starts its engine again\n", "")
        status, out, _ = miner("org/name:Q4", "--url", f"{served.url}/v1/", "--json")
    assert (status, json.loads(out)) == (0, {"reset": "org/name:Q4"})
    assert service.was_reset == ["demo", "org/name:Q4"]


@pytest.mark.usefixtures("keys")
def test_a_wrong_key_is_told_from_none_and_by_where_it_came_from(miner, monkeypatch):
    with in_thread(Gate(Failing(config()))) as served:
        assert "requires an API key" in miner("demo", "--url", served.url)[2]
        assert "refused the key of --key" in miner("demo", "--url", served.url, "--key", "wrong")[2]
        monkeypatch.setenv("MINER_KEY", "wrong-too")
        status, _, told = miner("demo", "--url", served.url)
    assert (status, "refused the key of MINER_KEY" in told, "wrong-too" in told) == (2, True, False)


@pytest.mark.usefixtures("keys")
def test_a_key_with_line_ends_is_the_key_and_one_with_some_inside_is_named(miner, monkeypatch):
    with in_thread(Gate(Failing(config()))) as served:
        assert miner("demo", "--url", served.url, "--key", f" {BOSS}\r\n")[0] == 0
        status, _, told = miner("demo", "--url", served.url, "--key", "one\r\ntwo")
        assert (status, "--key has a control character" in told, "one" in told) == (2, True, False)
        monkeypatch.setenv("MINER_KEY", f"{BOSS}\r")
        assert miner("demo", "--url", served.url)[0] == 0
        monkeypatch.setenv("MINER_KEY", "one\rtwo")
        assert "MINER_KEY has a control character" in miner("demo", "--url", served.url)[2]


def test_an_address_that_is_none_and_https_of_a_plain_server_have_hints_of_their_own(miner):
    for url in ("http://127.0.0.1:99999", "http://[::1"):
        told = miner("demo", "--url", url)[2]
        assert "Correct --url" in told
        assert "miner serve" not in told
    with in_thread(Gate(Failing(config()))) as served:
        told = miner("demo", "--url", served.url.replace("http:", "https:"))[2]
    assert "speaks http, not https" in told


@pytest.mark.usefixtures("keys")
def test_keys(miner, monkeypatch):
    service = Failing(config())
    with in_thread(Gate(service)) as served:
        none = miner("demo", "--url", served.url)
        user = miner("demo", "--url", served.url, "--key", USER)
        assert not hasattr(service, "was_reset")
        boss = miner("demo", "--url", served.url, "--key", BOSS)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{BOSS}\n"))
        read = miner("demo", "--url", served.url, "--key", "-")
    assert (none[0], user[0], boss[0], read[0]) == (2, 2, 0, 0)
    assert service.was_reset == ["demo", "demo"]
    for _, out, err in (none, user):
        assert out == ""
        assert "the admin right" in err
        assert "miner keys new NAME --admin" in err
        assert USER not in err


def test_what_the_gateway_refuses(miner):
    with in_thread(Gate(Failing(config()))) as served:
        missing = miner("none", "--url", served.url)
        down = miner("down", "--url", served.url)
    with in_thread(Gate(Parrot(config()))) as served:
        engineless = miner("m", "--url", served.url)
    assert missing[0] == 2
    refused = r"miner: The gateway at http://127.0.0.1:\d+: There is no model 'none'. Available: demo."
    assert re.search(refused, missing[2])
    assert down[0] == 1
    assert "The engines are gone." in down[2]
    assert engineless[0] == 2
    assert "no engines of its own" in engineless[2]


def test_no_server_or_another_server(miner):
    status, out, err = miner("m", "--url", f"http://127.0.0.1:{closed_port()}", "--json")
    assert status == 1
    assert "cannot be reached" in err
    assert "miner serve" in err
    assert "--url" in err
    assert json.loads(out)["error"]["code"]
    missing = {"/admin/models/m/reset": (404, {"detail": "Not Found"})}
    for side in ({}, missing):
        with in_thread(StubServer(side=side)) as server:
            status, _, err = miner("m", "--url", server.url)
        assert status == 1
        assert "has no admin routes" in err
    status, _, err = miner("m", "--url", "localhost:8088")
    assert status == 2
    assert "must start with http://" in err


def test_sentences_about_a_server_begin_with_its_article(miner):
    nobody = miner("m", "--url", f"http://127.0.0.1:{closed_port()}")
    assert nobody[2].startswith("miner: The gateway at http://127.0.0.1:")
    service = URLService(config(openai_api_base="http://127.0.0.1:9/v1"))
    assert str(service._no_sole_model(["a", "b"])).startswith("The server serves several models and none was named.")
    upstream = service._upstream(service.endpoint())
    assert "while the server at http://127.0.0.1:9/v1 processed" in upstream.closed_error().message
