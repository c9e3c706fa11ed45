"""`miner keys`, as a user runs it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys

import aiohttp
import pytest

from miner.gateway.auth.keys import locked
from tests.cli.conftest import LONG, environment
from tests.gateway.middleware.test_auth import until
from tests.gateway.serving import Parrot, config, serving
from tests.paths import ROOT

pytestmark = pytest.mark.process


@pytest.fixture
def keys(miner, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments, **settings):
        done = miner("keys", *arguments, XDG_CONFIG_HOME=str(tmp_path / "config"), **settings)
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    return run


def test_new_list_revoke(keys, tmp_path):
    made = keys(
        "new",
        "alice",
        "--requests",
        "60",
        "--concurrency",
        "2",
        "--model",
        "a",
        "--model",
        "b",
        "--admin",
        "--unsupported",
        "skip",
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert re.fullmatch(r"mk-[\w-]{43}", key)
    path = tmp_path / "config" / "miner" / "keys.json"
    assert str(path) in made.stderr
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    [listed] = json.loads(keys("list", "--json").stdout)["keys"]
    assert len(listed.pop("sha256")) == 8
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed.pop("created"))
    assert listed == {
        "name": "alice", "limits": {"requests": 60, "concurrency": 2}, "models": ["a", "b"], "admin": True,
        "unsupported": "skip",
    }  # fmt: skip
    assert keys("new", "bob").returncode == 0
    lines = keys("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "alice", "bob"]
    assert lines[2].split()[2:] == ["-", "-", "-", "all", "-"]
    assert keys("revoke", "alice").returncode == 0
    assert [one["name"] for one in json.loads(keys("list", "--json").stdout)["keys"]] == ["bob"]


def test_a_key_for_no_model_is_shown_as_one(keys, tmp_path):
    """Earlier files have such keys: an empty list, and one of an empty name."""
    assert keys("new", "alice", "-m", "small").returncode == 0
    path = tmp_path / "config" / "miner" / "keys.json"
    for models in ([], [""]):
        path.write_text(
            json.dumps(
                json.loads(path.read_text())
                | {"keys": [{**entry, "models": models} for entry in json.loads(path.read_text())["keys"]]}
            )
        )
        assert keys("list").stdout.splitlines()[1].split()[-2:] == ["none", "-"]
        assert re.search(r"models +none", keys("show", "alice").stdout)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("new", "MINER_API_KEYS-1"), "cannot name a key"),
        ([], "No action given"),
        (["new"], "NAME"),
        (["new", "a b"], "'a b' cannot name a key"),
        (["new", "a", "--requests", "0"], "--requests 0"),
        (["new", "a", "--tokens", "many"], "--tokens many"),
        (["list", "a"], "'a'"),
        (["revoke", "a"], "No key named 'a'"),
        (["revoke", "a", "--admin"], "--admin"),
        (["make"], "make"),
        (["rm", "a"], "miner keys revoke"),
        (["delete", "a"], "miner keys revoke"),
        (["update", "a"], "Nothing to change"),
        (["update", "a", "--requests", "many"], "--requests many"),
        (["update", "a", "--model", "x", "--model", "none"], "--model none"),
        (["update", "a", "--requests", "1"], "No key named 'a'"),
        (["rotate", "a"], "No key named 'a'"),
        (["rotate", "a", "--grace", "soon"], "--grace"),
        (["rotate", "a", "--grace", "-5"], "--grace -5"),
        (["show", "a"], "No key named 'a'"),
    ],
)
def test_wrong_usage(keys, arguments, complaint):
    done = keys(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_is_given_once(keys):
    assert keys("new", "a").returncode == 0
    again = keys("new", "a")
    assert again.returncode == 2
    assert "A key named 'a' exists already" in again.stderr
    assert "`miner keys update a --admin`" in again.stderr
    assert again.stdout == ""


def test_a_new_key_comes_with_what_to_do_next(keys):
    first = keys("new", "a").stderr
    assert "requires a key within 2 s" in first
    assert "export MINER_KEY=" in first
    assert "miner keys update a --admin" in first
    second = keys("new", "b", "--admin").stderr
    assert "accepts it within 2 s" in second
    assert "miner keys update" not in second
    assert keys("new", "c", "-q").stderr == ""


def test_several_at_once_lose_nothing(keys, tmp_path):
    command = [sys.executable, "-m", "miner", "keys", "new", "--file", str(tmp_path / "k.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([*command, f"k{n}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for n in range(5)
    ]
    assert [one.wait(LONG) for one in running] == [0] * 5
    listed = json.loads(keys("list", "--json", MINER_API_KEYS_FILE=str(tmp_path / "k.json")).stdout)["keys"]
    assert sorted(one["name"] for one in listed) == [f"k{n}" for n in range(5)]


async def test_a_server_takes_new_and_revoked_keys(keys):
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        made = await asyncio.to_thread(keys, "new", "alice")
        key = made.stdout.strip()
        await until(session, served, 401)
        await until(session, served, 200, Authorization=f"Bearer {key}")
        await asyncio.to_thread(keys, "revoke", "alice")
        await until(session, served, 401, Authorization=f"Bearer {key}")


def test_update_changes_what_is_named_and_says_so(keys):
    assert keys("new", "alice", "--requests", "60", "--tokens", "1000", "--model", "a").returncode == 0
    changed = keys("update", "alice", "--requests", "90", "--tokens", "none", "--model", "none", "--admin", "--json")
    assert changed.returncode == 0, changed.stderr
    assert "requests per minute 60 -> 90" in changed.stderr
    assert "models a -> all" in changed.stderr
    assert "priority" not in changed.stderr
    shown = json.loads(changed.stdout)
    assert (shown["limits"], shown["admin"], shown.get("models")) == ({"requests": 90}, True, None)
    assert keys("update", "alice", "--no-admin", "--priority", "batch", "--unsupported", "skip").returncode == 0
    shown = json.loads(keys("show", "alice", "--json").stdout)
    assert (shown.get("admin", False), shown["priority"], shown["unsupported"]) == (False, "batch", "skip")
    assert keys("update", "alice", "--priority", "none", "--unsupported", "none").returncode == 0
    text = keys("show", "alice").stdout
    assert "interactive" in text
    assert "90" in text
    again = keys("update", "alice", "--requests", "90")
    assert (again.returncode, "nothing has changed" in again.stderr) == (0, True)


def test_a_rotated_key_is_printed_once_and_the_file_says_its_version(keys, tmp_path):
    path = tmp_path / "config" / "miner" / "keys.json"
    first = json.loads(keys("new", "alice", "--json").stdout)
    assert first["name"] == "alice"
    assert first["key"].startswith("mk-")
    assert json.loads(path.read_text()).get("version", 1) == 1
    done = keys("rotate", "alice", "--grace", "1h")
    assert done.returncode == 0, done.stderr
    second = done.stdout.strip()
    assert second != first["key"]
    assert "works until" in done.stderr
    content = path.read_text()
    assert json.loads(content)["version"] == 2
    assert not any(secret in content + done.stderr for secret in (first["key"], second))
    assert len(json.loads(keys("show", "alice", "--json").stdout)["former"]) == 1
    at_once = keys("rotate", "alice")
    assert "refused from now on" in at_once.stderr
    assert "former" not in json.loads(keys("show", "alice", "--json").stdout)


async def test_a_server_takes_changed_and_rotated_keys(keys):
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        made = await asyncio.to_thread(keys, "new", "alice", "--model", "other")
        old = {"Authorization": f"Bearer {made.stdout.strip()}"}
        await until(session, served, 200, **old)
        body = {"model": "parrot", "messages": [{"role": "user", "content": "hi"}]}
        await _until_chat(session, served, body, old, 404)
        await asyncio.to_thread(keys, "update", "alice", "--model", "none")
        await _until_chat(session, served, body, old, 200)
        partition = served.middleware[-2].keys.find(made.stdout.strip()).partition
        done = await asyncio.to_thread(keys, "rotate", "alice", "--grace", "1000")
        new = {"Authorization": f"Bearer {done.stdout.strip()}"}
        await until(session, served, 200, **new)
        assert served.middleware[-2].keys.find(done.stdout.strip()).partition == partition, "its data is lost"
        async with session.get(f"{served.v1}/models", headers=old) as answer:
            assert answer.status == 200
        last = await asyncio.to_thread(keys, "rotate", "alice", "--grace", "1")
        await until(session, served, 401, **new)
        async with session.get(f"{served.v1}/models", headers={"x-api-key": last.stdout.strip()}) as answer:
            assert answer.status == 200


async def _until_chat(session, served, body, headers, status):
    async with asyncio.timeout(LONG):
        while True:
            async with session.post(f"{served.v1}/chat/completions", json=body, headers=headers) as answer:
                if answer.status == status:
                    return
            await asyncio.sleep(0.1)


async def test_a_server_takes_a_changed_limit(keys):
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        made = await asyncio.to_thread(keys, "new", "alice", "--requests", "1")
        key = {"Authorization": f"Bearer {made.stdout.strip()}"}
        await until(session, served, 200, **key)
        body = {"model": "parrot", "messages": [{"role": "user", "content": "hi"}]}
        await _until_chat(session, served, body, key, 429)
        await asyncio.to_thread(keys, "update", "alice", "--requests", "none")
        await _until_chat(session, served, body, key, 200)
        async with session.post(f"{served.v1}/chat/completions", json=body, headers=key) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_keys_file_that_is_no_file_is_refused_at_once(keys, tmp_path, kind):
    path = tmp_path / "k.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for action in ("list", "new"):
        done = keys(action, *(["a"] if action == "new" else []), "--file", str(path))
        assert done.returncode == 2
        assert "is no regular file" in done.stderr


@pytest.mark.parametrize("kind", ["pipe", "directory", "loop", "full disk"])
def test_a_keys_file_that_cannot_be_used_says_what_to_do(tmp_path, kind):
    path, limit = tmp_path / "k.json", ""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        limit = "ulimit -f 0; "  # what is written is refused, as on a full disk
    command = [sys.executable, "-m", "miner", "keys", "new", "a", "--json", "--file", str(path)]
    done = subprocess.run(
        ["sh", "-c", f'{limit}exec "$@"', "sh", *command], env=environment(tmp_path), capture_output=True, timeout=LONG
    )
    assert done.returncode == 2, done.stderr
    hint = json.loads(done.stdout)["error"]["hint"]
    words = {"loop": "remove one of them", "full disk": "Free space"}
    assert words.get(kind, "Name a file") in hint


def test_a_link_to_the_keys_file_stays_one_and_revoking_reaches_the_file(keys, tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "k.json"
    assert keys("new", "alice", "--file", str(real)).returncode == 0
    real.chmod(0o640)
    link.symlink_to(real)
    done = keys("revoke", "alice", "--file", str(link))
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert json.loads(real.read_text()).get("keys", []) == []
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_write_protected_keys_file_is_refused_with_what_to_do(keys, tmp_path):
    path = tmp_path / "k.json"
    assert keys("new", "alice", "--file", str(path)).returncode == 0
    path.chmod(0o444)
    before = path.read_bytes()
    done = keys("new", "bob", "--file", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"chmod u+w {path}" in done.stderr
    assert path.read_bytes() == before


def test_a_wait_for_another_command_is_said(tmp_path):
    path = tmp_path / "k.json"
    command = [sys.executable, "-m", "miner", "keys", "new", "alice", "--file", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with locked(path):
        waiting = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "Waiting for another `miner keys`" in waiting.stderr.readline()
        assert not path.exists()
    out, err = waiting.communicate(timeout=LONG)
    assert waiting.returncode == 0, err
    assert out.startswith("mk-")
    assert "Waiting" not in err
