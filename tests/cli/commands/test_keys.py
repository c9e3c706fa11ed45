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

from tests.cli.conftest import LONG
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
    [listed] = json.loads(keys("list", "--json").stdout)
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
    assert [one["name"] for one in json.loads(keys("list", "--json").stdout)] == ["bob"]


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
    assert again.stdout == ""


def test_several_at_once_lose_nothing(keys, tmp_path):
    command = [sys.executable, "-m", "miner", "keys", "new", "--file", str(tmp_path / "k.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([*command, f"k{n}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for n in range(5)
    ]
    assert [one.wait(LONG) for one in running] == [0] * 5
    listed = json.loads(keys("list", "--json", MINER_API_KEYS_FILE=str(tmp_path / "k.json")).stdout)
    assert sorted(one["name"] for one in listed) == [f"k{n}" for n in range(5)]


async def test_a_server_takes_new_and_revoked_keys(keys):
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        made = await asyncio.to_thread(keys, "new", "alice")
        key = made.stdout.strip()
        await until(session, served, 401)
        await until(session, served, 200, Authorization=f"Bearer {key}")
        await asyncio.to_thread(keys, "revoke", "alice")
        await until(session, served, 401, Authorization=f"Bearer {key}")
