"""Ollama's models directory. Its files are used in place."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miner.cli.imports.draft import Draft, Section
from miner.cli.imports.engine_flags import refusal
from miner.cli.imports.sampling import sampling_of
from miner.config.llamacpp import CACHE_TYPES, POOLING_TYPES
from miner.core.llms.llamacpp.go_template import jinja_of
from miner.core.models.gguf.header import GGUFHeader, read_header
from miner.core.models.gguf.values import GGUFError
from miner.errors import ConfigError, UnsupportedFeatureError

_SYSTEM = Path("/usr/share/ollama/.ollama/models")
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_MAX_TEXT = 4 << 20
_LAYER = "application/vnd.ollama.image."
_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PARAMS_LOST = {
    "num_keep": "the context is not shifted", "tfs_z": "llama.cpp has it no more",
    "penalize_newline": "llama.cpp has it no more", "low_vram": "llama.cpp has it no more",
    "f16_kv": "set cache_type_k and cache_type_v", "vocab_only": "a model without its weights generates nothing",
    "embedding_only": "set pooling", "numa": "flags = { numa = ... }",
    "typical_p": "send it with the request",
}  # fmt: skip
_PARAM_FLAGS = {
    "repeat_last_n": "repeat-last-n", "mirostat": "mirostat", "mirostat_tau": "mirostat-ent",
    "mirostat_eta": "mirostat-lr", "main_gpu": "main-gpu",
}  # fmt: skip


def import_ollama(directory: Path | None, output: Path | None) -> Draft:
    """Read the directory.

    Args:
        directory: None for that of this machine.
        output: where the file goes; None: nowhere, so that no files can be written beside it.

    Raises:
        ConfigError: there is no such directory, or it holds no models.
    """
    root = (directory or _default_directory()).absolute()
    manifests = root / "manifests"
    if not manifests.is_dir():
        raise ConfigError(
            f"{root} is no models directory of Ollama: it has no manifests.",
            operator_hint="Name the directory: miner import ollama DIRECTORY.",
        )
    draft = Draft("From Ollama's models directory, by `miner import ollama`.")
    draft.top.comment(f"The files stay where they are, in {root}: `ollama rm` removes them.")
    backend = draft.section("backends", "llamacpp")
    backend.set("kind", "llamacpp")
    _environment(draft, os.environ)
    found = 0
    for path in sorted(manifests.glob("*/*/*/*")):
        if path.is_file() and not path.name.startswith("."):
            found += 1
            _Model(draft, root, path, path.relative_to(manifests).parts, output).read()
    if not found:
        raise ConfigError(f"{root} holds no models.", operator_hint="Pull one with `ollama pull`, or name another one.")
    return draft


def _default_directory() -> Path:
    """OLLAMA_MODELS, else the user's, else that of the system's service."""
    if named := os.environ.get("OLLAMA_MODELS"):
        return Path(named).expanduser()
    own = Path("~/.ollama/models").expanduser()
    return own if own.is_dir() or not _SYSTEM.is_dir() else _SYSTEM


def _environment(draft: Draft, environment: Mapping[str, str]) -> None:
    """What Ollama's own variables say, where they are set for this command too."""
    defaults = draft.section("defaults")
    keep_alive = environment.get("OLLAMA_KEEP_ALIVE", "")
    if re.fullmatch(r"-?(?:\d+(?:\.\d+)?(?:ms|s|m|h)?)+", keep_alive, re.ASCII):
        defaults.set("keep_alive", keep_alive, "OLLAMA_KEEP_ALIVE")
    for name, key, least, most in (
        ("OLLAMA_CONTEXT_LENGTH", "context", 256, 1 << 40),
        ("OLLAMA_NUM_PARALLEL", "slots", 1, 256),
    ):
        text = environment.get(name, "")
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            defaults.set(key, int(text), name)
    if environment.get("OLLAMA_FLASH_ATTENTION", "").lower() in ("1", "true"):
        defaults.set("flash_attn", "on", "OLLAMA_FLASH_ATTENTION")
    if (kind := environment.get("OLLAMA_KV_CACHE_TYPE", "")) in CACHE_TYPES:
        defaults.set("cache_type_k", kind, "OLLAMA_KV_CACHE_TYPE")
        defaults.set("cache_type_v", kind)
    most_loaded = environment.get("OLLAMA_MAX_LOADED_MODELS", "")
    if most_loaded.isascii() and most_loaded.isdigit() and int(most_loaded) > 0:
        draft.section("limits").set("max_loaded", int(most_loaded), "OLLAMA_MAX_LOADED_MODELS")


class _Model:
    """One manifest."""

    def __init__(self, draft: Draft, root: Path, path: Path, parts: tuple[str, ...], output: Path | None) -> None:
        self._draft, self._root, self._path, self._output = draft, root, path, output
        self.name = _short_name(*parts)
        self._template = ""

    def read(self) -> None:
        draft = self._draft
        manifest = _json(self._path)
        layers = manifest.get("layers") if isinstance(manifest, dict) else None
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            draft.top.lose("", self.name, None, "its manifest cannot be read")
            return
        config = manifest.get("config")
        config = self._json_of(config) if isinstance(config, dict) and config.get("digest") else {}
        config = config if isinstance(config, dict) else {}
        main = next((layer for layer in layers if layer.get("mediaType") == f"{_LAYER}model"), None)
        if main is None:
            cloud = config.get("remote_host")
            why = "it runs in Ollama's cloud" if cloud else "it has no GGUF file"
            draft.top.lose("", self.name, None, why)
            return
        blob = self._blob(main)
        if blob is None:
            draft.top.lose("", self.name, None, "its file is missing, or may not be read")
            return
        try:
            header = read_header(blob)
        except GGUFError as error:
            draft.top.lose("", self.name, None, f"its file cannot be used: {error.reason}")
            return
        section = draft.section("models", draft.name_for("models", self.name))
        section.set("backend", "llamacpp")
        section.set("file", str(blob))
        if self.name != section.path[1]:
            section.add("aliases", [self.name])
        self._header(section, header)
        for layer in sorted(
            layers, key=lambda each: each.get("mediaType") == f"{_LAYER}params"
        ):  # they may be of others
            if layer is not main:
                self._layer(section, layer)
        if self._template:
            self._write_template(section, header)
        for key in ("renderer", "parser"):
            if config.get(key):
                section.lose(self.name, key, str(config[key]), "prompts and replies are read by the model's template")

    def _header(self, section: Section, header: GGUFHeader) -> None:
        pooling = header.pooling_type
        if pooling is not None and pooling < len(POOLING_TYPES) and pooling > 0:
            section.set("pooling", POOLING_TYPES[pooling])
        if any(tensor.name.startswith(("v.", "mm.", "a.")) for tensor in header.tensors):
            section.change(
                f"{self.name}.model",
                "its file has the projector inside, which only Ollama's engine may load"
                " (if it does not start, pull it from a hub)",
            )  # fmt: skip

    def _layer(self, section: Section, layer: dict[str, Any]) -> None:
        kind = str(layer.get("mediaType", "")).removeprefix(_LAYER)
        blob = self._blob(layer)
        if blob is None:
            section.lose(self.name, kind, None, "its file is missing, or may not be read")
        elif kind == "projector":
            if section.get("mmproj") is None:
                section.set("mmproj", str(blob))
            else:
                section.lose(self.name, kind, None, "a model has one projector")
        elif kind == "adapter":
            section.add("lora", [str(blob)])
        elif kind == "draft" and section.get("pooling") is None:
            section.set("speculation", {"type": "draft", "file": str(blob)} | (section.get("speculation") or {}))
        elif kind in ("template", "prompt"):
            self._template = _text(blob) or ""
        elif kind == "system" and section.get("pooling") is not None:
            section.lose(self.name, kind, None, "an embedding model has no conversations")
        elif kind == "system":
            section.set("system", _text(blob) or None)
        elif kind == "params":
            params = _json(blob)
            self._params(section, params if isinstance(params, dict) else {})
        elif kind == "license":
            first = next((line.strip() for line in (_text(blob) or "").splitlines() if line.strip()), "see the file")
            section.comment(f"licence: {first[:80]}")
        elif kind == "messages":
            section.lose(self.name, kind, None, "a model has a system prompt, but no first messages")
        else:
            section.lose(self.name, kind, None, "not known here")

    def _params(self, section: Section, params: dict[str, Any]) -> None:
        params = dict(params)
        for key, ours, least, most in (
            ("num_ctx", "context", 256, 1 << 40), ("num_batch", "batch_size", 32, 16384),
            ("num_thread", "threads", 1, 512),
            ("num_gpu", "n_gpu_layers", 0, 1 << 20),
        ):  # fmt: skip
            value = params.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
                section.set(ours, params.pop(key))
            elif key == "num_gpu" and value == -1:
                params.pop(key)  # as many as fit, as is the default here
        guesses = params.get("draft_num_predict")
        if isinstance(guesses, int) and 1 <= guesses <= 512 and section.get("speculation"):
            section.update("speculation", {"n_max": params.pop("draft_num_predict")})
        for key, unlimited in (("num_predict", -1), ("seed", 0)):
            if params.get(key) == unlimited:
                params.pop(key)
        if params.get("use_mmap") is False:
            section.update("flags", {"load-mode": "none"})
        params.pop("use_mmap", None)
        for key, flag in _PARAM_FLAGS.items():
            value = params.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and refusal(flag, value) is None:
                section.update("flags", {flag: params.pop(key)})
        sampling, rest = sampling_of(params)
        if section.get("pooling") is None:
            section.update("sampling", sampling)
        else:
            rest = sampling | rest
        for key, value in rest.items():
            section.lose(f"{self.name}.params", key, value, _PARAMS_LOST.get(key, "out of range, or not known here"))

    def _write_template(self, section: Section, header: GGUFHeader) -> None:
        """Ollama's template, in Go's syntax, where the file has none of its own."""
        if header.chat_template is not None:
            section.change(f"{self.name}.template", "the template in the model's file is used")
            return
        try:
            text = jinja_of(self._template)
        except UnsupportedFeatureError as error:
            section.lose(self.name, "template", None, error.message)
            return
        if self._output is None:
            section.lose(self.name, "template", None, "it needs a file beside this one: write to one with -o")
            return
        file = f"{self._output.stem}-{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name)}.jinja"
        self._draft.files[file] = text
        section.set("chat_template", file, "Ollama's, in Jinja's syntax")

    def _blob(self, layer: Mapping[str, Any]) -> Path | None:
        """The file of a layer, if it is there; only what a digest names, inside the directory."""
        digest = layer.get("digest")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            return None
        blob = self._root / "blobs" / digest.replace(":", "-")
        return blob if blob.is_file() and os.access(blob, os.R_OK) else None

    def _json_of(self, layer: Mapping[str, Any]) -> Any:
        blob = self._blob(layer)
        return None if blob is None else _json(blob)


def _short_name(host: str, namespace: str, model: str, tag: str) -> str:
    """The name that Ollama shows; without `:latest`, which every name here may have."""
    full = f"{host}/{namespace}/{model}" if host != _HOST else f"{namespace}/{model}"
    full = model if (host, namespace) == (_HOST, _NAMESPACE) else full
    return full if tag == _TAG else f"{full}:{tag}"


def _text(path: Path) -> str | None:
    try:
        if path.stat().st_size > _MAX_TEXT:
            return None
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    except OSError:
        return None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path) or "null")
    except (ValueError, RecursionError):
        return None
