"""Ollama's models directory: files used in place, and everything in a manifest carried over, or named."""

import hashlib
import json
from pathlib import Path

import pytest

from miner.cli.imports.ollama import import_ollama
from miner.errors import ConfigError
from tests.cli.imports.helpers import checked, lost
from tests.core.models.conftest import make_gguf

LAYER = "application/vnd.ollama.image."
OWN = {"tokenizer.chat_template": "{{ messages }}"}
GO = "{{ if .System }}<|system|>{{ .System }}{{ end }}<|user|>{{ .Prompt }}<|assistant|>"
VARIABLES = [
    "OLLAMA_MODELS", "OLLAMA_KEEP_ALIVE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL", "OLLAMA_FLASH_ATTENTION",
    "OLLAMA_KV_CACHE_TYPE", "OLLAMA_MAX_LOADED_MODELS",
]  # fmt: skip


class Store:
    """A models directory as Ollama writes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, content: bytes | str | dict) -> str:
        if isinstance(content, dict):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        (self.root / "blobs" / digest.replace(":", "-")).write_bytes(data)
        return digest

    def path(self, content: bytes) -> str:
        return str(self.root / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}")

    def add(self, name: str, *layers: tuple[str, object], config: dict | None = None) -> None:
        path = self.root / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest = {
            "schemaVersion": 2,
            "config": {"digest": self.blob(config or {"model_format": "gguf"})},
            "layers": [{"mediaType": LAYER + kind, "digest": self.blob(content)} for kind, content in layers],
        }
        path.write_text(json.dumps(manifest))


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Store(tmp_path / "models")


LIBRARY = "registry.ollama.ai/library"
MODEL = make_gguf(OWN)


def test_the_blobs_are_used_in_place_under_ollamas_names(store):
    store.add(f"{LIBRARY}/llama3.2/latest", ("model", MODEL))
    store.add(f"{LIBRARY}/llama3.2/1b-q8", ("model", MODEL))
    store.add("registry.ollama.ai/me/mine/latest", ("model", MODEL))
    store.add("hf.co/o/R-GGUF/Q4_K_M", ("model", MODEL))
    content = checked(import_ollama(store.root, None))
    assert {name: model.file for name, model in content.models.items()} == dict.fromkeys(
        ["hf.co/o/R-GGUF:Q4_K_M", "llama3.2:1b-q8", "llama3.2", "me/mine"], store.path(MODEL)
    )


def test_everything_of_a_model_is_carried_over(store):
    projector, adapter, draft_model = make_gguf({"a": 1}), make_gguf({"b": 1}), make_gguf({"c": 1})
    store.add(
        f"{LIBRARY}/m/latest",
        ("license", "\n  MIT License\nmore"),
        ("projector", projector),
        ("adapter", adapter),
        ("system", 'You say "${HOME}".\n'),
        ("model", MODEL),
        ("params", {
            "num_ctx": 8192, "num_gpu": 12, "num_thread": 3, "num_batch": 256, "temperature": 0.5, "top_k": 20,
            "stop": ["a"], "num_predict": 99, "repeat_penalty": 1.1, "repeat_last_n": 64,
            "mirostat": 0, "main_gpu": 1, "use_mmap": False, "draft_num_predict": 4, "seed": 3,
        }),
        ("draft", draft_model),
    )  # fmt: skip
    draft = import_ollama(store.root, None)
    model = checked(draft).models["m"]
    assert (model.context, model.n_gpu_layers, model.threads, model.batch_size) == (8192, 12, 3, 256)
    assert model.sampling.model_dump(exclude_none=True) == {
        "temperature": 0.5, "top_k": 20, "stop": ["a"], "max_tokens": 99, "repeat_penalty": 1.1, "seed": 3,
    }  # fmt: skip
    assert model.flags == {"load-mode": "none", "repeat-last-n": 64, "mirostat": 0, "main-gpu": 1}
    assert (model.mmproj, model.lora) == (store.path(projector), [store.path(adapter)])
    assert model.speculation is not None
    assert (model.speculation.file, model.speculation.n_max) == (store.path(draft_model), 4)
    assert model.system == 'You say "${HOME}".\n'
    assert "# licence: MIT License\n" in draft.text()
    assert draft.lost == []


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"num_keep": 4, "tfs_z": 1.0, "penalize_newline": True, "low_vram": True, "numa": True, "typical_p": 1}, None),
        ({"num_ctx": 100}, None), ({"temperature": 5}, None), ({"stop": [1]}, None), ({"new_one": {"x": 1}}, None),
        ({"mirostat": True}, None), ({"num_predict": -2}, None), ({"num_gpu": -5}, None),
        ({"num_gpu": -1, "num_predict": -1, "seed": 0, "use_mmap": True}, []),
    ],
)  # fmt: skip
def test_parameters_without_an_equivalent_are_named(store, params, names):
    store.add(f"{LIBRARY}/m/latest", ("params", params), ("model", MODEL))
    draft = import_ollama(store.root, None)
    checked(draft)
    assert set(lost(draft)) == {f"m.params.{name}" for name in (params if names is None else names)}


def test_an_embedding_model(store):
    model = make_gguf({"general.architecture": "bert", "bert.pooling_type": 1})
    store.add(
        f"{LIBRARY}/e/latest", ("model", model), ("system", "x"), ("params", {"temperature": 0.5, "num_ctx": 512})
    )
    draft = import_ollama(store.root, None)
    found = checked(draft).models["e"]
    assert (found.pooling, found.context) == ("mean", 512)
    assert set(lost(draft)) == {"e.system", "e.params.temperature"}


def test_the_template_of_the_file_is_used(store, tmp_path):
    store.add(f"{LIBRARY}/m/latest", ("template", GO), ("model", MODEL))
    draft = import_ollama(store.root, tmp_path / "miner.toml")
    assert checked(draft).models["m"].chat_template is None
    assert [remark.where for remark in draft.changed] == ["m.template"]
    assert draft.files == {}


def test_a_file_without_a_template_gets_ollamas_beside_ours(store, tmp_path):
    store.add(f"{LIBRARY}/m/1b", ("template", GO), ("model", make_gguf()))
    draft = import_ollama(store.root, tmp_path / "node.toml")
    assert checked(draft).models["m:1b"].chat_template == "node-m-1b.jinja"
    assert "<|user|>" in draft.files["node-m-1b.jinja"]
    assert "m:1b.template" in lost(import_ollama(store.root, None))


def test_a_template_that_jinja_cannot_say_is_named(store, tmp_path):
    store.add(f"{LIBRARY}/m/latest", ("template", "{{ range .Tools }}x{{ end }}"), ("model", make_gguf()))
    draft = import_ollama(store.root, tmp_path / "miner.toml")
    assert "has no equivalent here" in lost(draft)["m.template"]


def test_what_else_a_manifest_has_is_named(store):
    store.add(
        f"{LIBRARY}/m/latest", ("model", MODEL), ("messages", "[]"), ("embed", b"x"), ("new", b"y"),
        ("projector", make_gguf({"a": 1})), ("projector", make_gguf({"a": 2})), config={"renderer": "r", "parser": "p"},
    )  # fmt: skip
    draft = import_ollama(store.root, None)
    checked(draft)
    assert set(lost(draft)) == {"m.messages", "m.embed", "m.new", "m.projector", "m.renderer", "m.parser"}


def test_models_that_cannot_be_served_are_named(store):
    store.add(f"{LIBRARY}/good/latest", ("model", MODEL))
    store.add(f"{LIBRARY}/cloud/latest", config={"remote_host": "https://ollama.com"})
    store.add(f"{LIBRARY}/tensors/latest", ("tensor", b"x"))
    store.add(f"{LIBRARY}/torn/latest", ("model", MODEL[:60]))
    store.add(f"{LIBRARY}/missing/latest", ("model", b"gone"))
    (store.root / "blobs" / store.path(b"gone").rpartition("/")[2]).unlink()
    for number, text in enumerate(["", "{", "[]", '{"layers": 3}', '{"layers": [1]}', "[" * 100_000]):
        path = store.root / "manifests" / LIBRARY / "odd" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    outside = {"layers": [{"mediaType": LAYER + "model", "digest": "sha256:../../../etc/passwd"}]}
    (store.root / "manifests" / LIBRARY / "odd" / "outside").write_text(json.dumps(outside))
    draft = import_ollama(store.root, None)
    assert list(checked(draft).models) == ["good"]
    assert set(lost(draft)) == {
        "cloud", "tensors", "torn", "missing", *(f"odd:{number}" for number in range(6)), "odd:outside",
    }  # fmt: skip


def test_a_projector_inside_the_models_file_is_told(store):
    store.add(f"{LIBRARY}/m/latest", ("model", make_gguf(OWN, {"token_embd.weight": (8, 4), "v.patch.weight": (8, 4)})))
    draft = import_ollama(store.root, None)
    assert [remark.where for remark in draft.changed] == ["m.model"]


def test_the_directory_of_this_machine(store, tmp_path, monkeypatch):
    store.add(f"{LIBRARY}/m/latest", ("model", MODEL))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_MODELS", str(store.root))
    assert list(checked(import_ollama(None, None)).models) == ["m"]
    monkeypatch.delenv("OLLAMA_MODELS")
    (tmp_path / "home" / ".ollama").mkdir(parents=True)
    (tmp_path / "home" / ".ollama" / "models").symlink_to(store.root)
    assert list(checked(import_ollama(None, None)).models) == ["m"]


def test_ollamas_own_variables(store, monkeypatch):
    store.add(f"{LIBRARY}/m/latest", ("model", MODEL))
    for name, value in {
        "OLLAMA_KEEP_ALIVE": "10m", "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_NUM_PARALLEL": "2",
        "OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_MAX_LOADED_MODELS": "3",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    content = checked(import_ollama(store.root, None))
    defaults = content.defaults
    assert (defaults.keep_alive, defaults.context, defaults.slots) == (600, 8192, 2)
    assert (defaults.flash_attn, defaults.cache_type_k, defaults.cache_type_v) == ("on", "q8_0", "q8_0")
    assert content.limits.max_loaded == 3


def test_a_directory_without_models_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="no models directory of Ollama"):
        import_ollama(tmp_path, None)
    (store.root / "manifests").mkdir()
    with pytest.raises(ConfigError, match="holds no models"):
        import_ollama(store.root, None)
