"""The lock of the keys file."""

import json
import os

import pytest

from miner.errors import ConfigError
from miner.gateway.auth import keys
from miner.gateway.auth.keys import KeyFile, locked, read_keys, write_keys


def test_the_wait_for_the_lock_is_told_once_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_SILENT_SECONDS", 0.1)
    monkeypatch.setattr(keys, "_LOCK_SECONDS", 0.5)
    path, told = tmp_path / "k.json", []
    held = pytest.raises(ConfigError, match="has held the keys file")
    with locked(path), held, locked(path, lambda: told.append(1)):
        pass
    assert told == [1]
    with locked(path, lambda: told.append(2)):
        pass
    assert told == [1]


def test_a_link_and_its_file_have_one_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_LOCK_SECONDS", 0.1)
    (tmp_path / "link.json").symlink_to("k.json")
    with locked(tmp_path / "k.json"), pytest.raises(ConfigError, match="has held"), locked(tmp_path / "link.json"):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / ".k.json.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"\.k\.json\.lock"), locked(tmp_path / "k.json"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_new_lock_belongs_to_the_files_owner(tmp_path):
    path = tmp_path / "k.json"
    write_keys(path, KeyFile())
    others = (4321, 4322) if os.geteuid() == 0 else (os.geteuid(), os.getegid())  # only root gives files away
    os.chown(path, *others)
    with locked(path):
        write_keys(path, read_keys(path))
    for each in (path, tmp_path / ".k.json.lock"):
        assert (each.stat().st_uid, each.stat().st_gid) == others


ENTRY = {"name": "a", "sha256": "a" * 64}
SHARED = ENTRY | {"partition": "c" * 32}
FORMER = {"sha256": "a" * 64, "until": "2099-01-01T00:00:00Z"}
WRONG = [
    {"name": "a b"}, {"name": ""}, {"name": "nobody"}, {"name": 1}, {"name": None}, {"sha256": None},
    {"sha256": "a" * 63}, {"sha256": "A" * 64}, {"created": 1}, {"created": "yesterday"}, {"limits": None},
    {"limits": {"requests": -1}}, {"limits": {"tokens": 1.5}}, {"limits": {"x": 1}}, {"models": "m"}, {"models": [1]},
    {"admin": 1}, {"priority": "fast"}, {"unsupported": "x"}, {"partition": "../x"}, {"partition": ""},
    {"former": None}, {"former": [{"sha256": "x", "until": "2099-01-01"}]}, {"former": [FORMER | {"until": "soon"}]},
]  # fmt: skip
"""What no entry may have."""


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"keys": [{"name": "a", "sha256": "00"}]}',
        json.dumps({"keys": [{"name": "a", "sha256": digit * 64} for digit in "01"]}),
        '{"version": 0}', '{"version": -1}', '{"version": null}', '{"keys":' + "[" * 100_000,
        *(json.dumps({"keys": [ENTRY | wrong]}) for wrong in WRONG),
        json.dumps({"keys": [ENTRY, ENTRY | {"name": "b"}]}),
        json.dumps({"keys": [ENTRY, {"name": "b", "sha256": "b" * 64, "former": [FORMER]}]}),
        json.dumps({"keys": [SHARED, SHARED | {"name": "b", "sha256": "b" * 64}]}),
    ],
)  # fmt: skip
def test_a_damaged_file_is_restored_or_moved_away(tmp_path, content):
    (tmp_path / "k.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_keys(tmp_path / "k.json")
    assert str(tmp_path / "k.json") in caught.value.message
    assert "Restore a copy" in caught.value.hints
    assert "move it away" in caught.value.hints
    assert "miner keys new" in caught.value.hints
