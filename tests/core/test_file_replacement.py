"""A file that is replaced stays whose it was, with its mode, where its links lead."""

import os
import stat

import pytest

from miner.core import file_replacement
from miner.core.file_replacement import replace_file
from miner.errors import ConfigError

OTHERS = (4321, 4322) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
"""User and group that a file is given to: only root gives files away."""


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_new_file_is_its_owners_only(tmp_path):
    replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert mode_of(tmp_path / "f") == 0o600


@pytest.mark.parametrize(("private", "after"), [(False, 0o640), (True, 0o600)])
def test_the_mode_stays_unless_the_file_becomes_private(tmp_path, private, after):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace_file(path, b"new", private=private)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == after
    assert names(tmp_path) == ["f"]


def test_owner_and_group_stay(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o640)
    os.chown(path, *OTHERS)
    replace_file(path, b"new")
    found = path.stat()
    assert path.read_bytes() == b"new"
    assert (found.st_uid, found.st_gid, mode_of(path)) == (*OTHERS, 0o640)


def test_a_file_that_could_not_be_given_back_is_not_written(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "f"
    path.write_bytes(b"old")
    of_others = os.stat_result((*path.stat()[:4], 4321, 4322, *path.stat()[6:]))
    monkeypatch.setattr(file_replacement, "_replaceable", lambda _: of_others)
    monkeypatch.setattr(file_replacement.os, "fchown", refused)
    with pytest.raises(ConfigError, match="belongs to user 4321, group 4322") as caught:
        replace_file(path, b"new")
    assert "sudo -u '#4321'" in caught.value.hints
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_one(tmp_path, exists):
    real, link = tmp_path / "real", tmp_path / "link"
    if exists:
        real.write_bytes(b"old")
    link.symlink_to("real")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_a_write_protected_file_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="write-protected") as caught:
        replace_file(path, b"new")
    assert f"chmod u+w {path}" in caught.value.hints
    assert path.read_bytes() == b"old"


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="no regular file"):
        replace_file(path, b"new")
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_replacement.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "f", b"new")
    assert names(tmp_path) == []
