"""The catalog on real directories: what is read again, what is not, and what a name costs."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from miner.core.models import catalog as module
from miner.core.models.catalog import Catalog
from miner.core.models.gguf.values import GGUFError
from miner.errors import ModelNotFoundError


@pytest.fixture
def directory(tmp_path, write_gguf):
    for name in ("one", "two", "owner/repo/three-Q4_0"):
        write_gguf(tmp_path / "models" / f"{name}.gguf")
    return tmp_path / "models"


@pytest.fixture
def catalog(directory):
    return Catalog(directory)


def later(*paths):
    """Make the directories look as if nothing had changed in them for long."""
    for path in paths:
        os.utime(path, (time.time() - 1000, time.time() - 1000))


class Calls:
    """Counts what is asked of the file system."""

    def __init__(self, monkeypatch):
        self.count = {"stat": 0, "scandir": 0, "open": 0}
        for name in self.count:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name, real):
        def call(*args, **options):
            self.count[name] += 1
            return real(*args, **options)

        return call

    def taken(self):
        before, self.count = self.count, dict.fromkeys(self.count, 0)
        return before


def many(directory, write_gguf, count):
    for number in range(count):
        write_gguf(directory / f"m{number:04}.gguf")
    later(directory)
    return Catalog(directory)


def test_a_name_costs_the_same_in_a_large_directory(tmp_path, write_gguf, monkeypatch):
    small, large = (many(tmp_path / str(count), write_gguf, count) for count in (1, 500))
    for catalog in (small, large):
        catalog.find("m0000")
    calls = Calls(monkeypatch)
    taken = []
    for catalog in (small, large):
        for _ in range(20):
            assert catalog.find("M0000:latest" if _ else "m0000").alias == "m0000"
        calls.taken()
        for _ in range(20):
            catalog.find("m0000")
        taken.append(calls.taken())
    assert taken[0] == taken[1]
    assert taken[0]["scandir"] == taken[0]["open"] == 0
    assert taken[0]["stat"] <= 20 * 4


def test_a_list_reads_each_directory_once_and_each_header_once(tmp_path, write_gguf, monkeypatch):
    catalog = many(tmp_path / "models", write_gguf, 500)
    for files in catalog.listed():
        catalog.facts(files)
    calls = Calls(monkeypatch)
    listed = catalog.listed()
    assert len([catalog.facts(files) for files in listed]) == 501
    taken = calls.taken()
    assert taken["scandir"] <= 4
    assert taken["open"] == 0
    assert taken["stat"] <= 3 * 501


def test_a_list_of_many_models_grows_no_faster_than_they_do(tmp_path, write_gguf):
    """With a projector beside them, too. Ten times the models take ten times as long, not a hundred."""
    seconds = []
    for count in (100, 1000):
        directory = tmp_path / str(count)
        write_gguf(directory / "mmproj-F16.gguf", {"general.architecture": "clip"})
        catalog = many(directory, write_gguf, count)
        catalog.listed()
        attempts = []
        for _ in range(5):
            began = time.process_time()
            catalog.listed()
            attempts.append(time.process_time() - began)
        seconds.append(min(attempts))  # a busy machine shows in some of them
    assert seconds[1] < 40 * seconds[0]


def test_a_new_file_is_seen_by_the_next_request_and_by_lists(catalog, directory, write_gguf, monkeypatch):
    monkeypatch.setattr(module, "LIST_SECONDS", 0.1)
    later(directory)
    assert len(catalog.listed()) == 4
    with pytest.raises(ModelNotFoundError):
        catalog.find("new")
    write_gguf(directory / "new.gguf")
    assert catalog.find("new").alias == "new"
    write_gguf(directory / "deep" / "er.gguf")
    ends = time.monotonic() + 30
    while "deep/er" not in [item.alias for item in catalog.listed()]:
        assert time.monotonic() < ends
        time.sleep(0.05)
    (directory / "deep" / "er.gguf").unlink()
    with pytest.raises(ModelNotFoundError):
        catalog.find("deep/er")


def test_a_file_that_was_replaced_is_another_model(catalog, directory, write_gguf):
    before = catalog.find("one")
    assert catalog.header(before).name is None
    write_gguf(directory / "x", {"general.name": "Another"})
    os.replace(directory / "x", directory / "one.gguf")
    after = catalog.find("one")
    assert after != before
    assert catalog.header(after).name == "Another"
    assert catalog.facts(after).name == "Another"
    os.utime(directory / "one.gguf", (1, 1))
    assert catalog.find("one") != after
    (directory / "one.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(GGUFError, match=r"one\.gguf"):
        catalog.header(catalog.find("one"))
    for _ in range(2):
        with pytest.raises(GGUFError, match=r"one\.gguf"):
            catalog.facts(catalog.find("one"))


def test_a_projector_that_comes_later_or_changes(catalog, directory, write_gguf):
    assert catalog.find("one").mmproj is None
    projector = write_gguf(directory / "mmproj-one-F16.gguf", {"general.architecture": "clip"})
    with_it = catalog.find("one")
    assert with_it.mmproj == projector
    write_gguf(projector, {"general.architecture": "clip", "general.name": "more"})
    assert catalog.find("one").stamps != with_it.stamps
    projector.write_bytes(b"")
    assert catalog.find("one").mmproj is None
    write_gguf(projector, {"general.architecture": "clip"})
    assert catalog.find("one").mmproj == projector


def test_what_no_name_means_follows_the_directory(tmp_path, write_gguf, monkeypatch):
    monkeypatch.setattr(module, "LIST_SECONDS", 0.0)
    catalog = Catalog(tmp_path)
    assert catalog.find(None).alias == "demo"
    write_gguf(tmp_path / "mine.gguf")
    assert catalog.find(None).alias == "mine"
    write_gguf(tmp_path / "yours.gguf")
    with pytest.raises(ModelNotFoundError, match="several"):
        catalog.find(None)
    assert catalog.find(None, default_model="yours").alias == "yours"
    assert catalog.find(None, model_path=str(tmp_path / "mine.gguf"), default_model="yours").alias == "mine"


def test_a_name_that_another_file_could_mean_too(catalog, directory, write_gguf, monkeypatch):
    monkeypatch.setattr(module, "NAME_SECONDS", 0.0)
    assert catalog.find("three-Q4_0").alias == "owner/repo/three-Q4_0"
    write_gguf(directory / "other" / "three-Q4_0.gguf")
    with pytest.raises(ModelNotFoundError, match="fits 2"):
        catalog.find("three-Q4_0")


def test_files_outside_have_aliases_of_their_own(catalog, directory, tmp_path, write_gguf):
    paths = [
        write_gguf(tmp_path / place / name) for place, name in (("a", "x.gguf"), ("b", "x.gguf"), ("c", "one.gguf"))
    ]
    aliases = [catalog.find(str(path)).alias for path in paths]
    assert aliases == ["x", str(paths[1]), str(paths[2])]
    for alias, path in zip(aliases, paths, strict=True):
        assert catalog.find(alias).path == path
    assert catalog.find("one").path == directory / "one.gguf"


def test_aliases_are_names_that_mean_it(catalog, directory, write_gguf):
    write_gguf(directory / "a" / "same.gguf")
    write_gguf(directory / "b" / "same.gguf")
    for files in catalog.listed():
        for alias in catalog.aliases(files):
            assert catalog.find(alias) == files
    aliases = {files.alias: catalog.aliases(files) for files in catalog.listed()}
    assert aliases["owner/repo/three-Q4_0"] == ("three-Q4_0", "three-Q4_0.gguf")
    assert aliases["a/same"] == ()
    assert "SmolLM2-135M-Instruct.Q4_1" in aliases["demo"]


def test_many_threads_read_once(catalog, directory, monkeypatch):
    started, reads = threading.Barrier(8), []
    real = catalog._reader.read

    def read():
        reads.append(1)
        time.sleep(0.05)
        return real()

    monkeypatch.setattr(catalog._reader, "read", read)

    def ask(_):
        started.wait(30)
        return catalog.find("nothing-of-that-name")

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(ask, number) for number in range(8)]:
            with pytest.raises(ModelNotFoundError):
                future.result(60)
    assert len(reads) < 8


def kept_facts(directory, tmp_path, monkeypatch):
    """What another start lists, and the files whose headers it reads."""
    read = []
    real = module.read_model
    monkeypatch.setattr(module, "read_model", lambda parts: read.append(parts[0].name) or real(parts))
    found = Catalog(directory, kept=tmp_path / "cache").listed_facts()
    monkeypatch.setattr(module, "read_model", real)
    return found, read


def test_the_next_start_reads_only_headers_that_have_changed(tmp_path, write_gguf, monkeypatch):
    directory = tmp_path / "large"
    many(directory, write_gguf, 100)
    (directory / "broken.gguf").write_bytes(b"no")
    first, read = kept_facts(directory, tmp_path, monkeypatch)
    assert len(read) >= 101
    assert len([model for model, _ in first if model.source == "directory"]) == 100
    again, read = kept_facts(directory, tmp_path, monkeypatch)
    assert again == first
    assert read == ["broken.gguf"]
    write_gguf(directory / "m0007.gguf", {"general.name": "another"})
    changed, read = kept_facts(directory, tmp_path, monkeypatch)
    assert sorted(read) == ["broken.gguf", "m0007.gguf"]
    assert [facts.name for model, facts in changed if model.alias == "m0007"] == ["another"]


@pytest.mark.parametrize("content", [b"", b"no", b"[[1, 2]]", b"[" * 100_000, b"\xff\xfe", None])
def test_what_was_kept_is_only_a_help(tmp_path, write_gguf, monkeypatch, content):
    directory = tmp_path / "large"
    many(directory, write_gguf, 40)
    first, _ = kept_facts(directory, tmp_path, monkeypatch)
    [file] = (tmp_path / "cache").iterdir()
    file.unlink()
    if content is None:
        file.mkdir()  # nothing can be written there either
    else:
        file.write_bytes(content)
    again, read = kept_facts(directory, tmp_path, monkeypatch)
    assert again == first
    assert len(read) >= 40
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


def test_of_a_small_directory_nothing_is_kept(directory, tmp_path):
    Catalog(directory, kept=tmp_path / "cache").listed_facts()
    assert not (tmp_path / "cache").exists()


def test_catalogs_of_one_process_read_a_file_once(directory, write_gguf, monkeypatch):
    reads, read_model = [], module.read_model
    monkeypatch.setattr(module, "read_model", lambda parts: reads.append(parts) or read_model(parts))
    first, second = Catalog(directory), Catalog(directory)
    assert first.header(first.find("one")) is second.header(second.find("one"))
    assert len(reads) == 1
    later(write_gguf(directory / "one.gguf"))
    second.header(second.find("one"))
    assert len(reads) == 2, "a replaced file is read again"
