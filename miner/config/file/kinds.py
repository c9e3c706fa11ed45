"""What each kind of backend is, and which keys it can apply: any other is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from miner.config.file.lines import KeyPath
from miner.config.file.merge import LOCAL
from miner.config.file.problems import Problem, nearest
from miner.config.file.schema import Backend, ConfigFile, Model
from miner.config.file.validation import known_kinds
from miner.config.file.variables import Variables

BUILT_IN = ("llamacpp", "ollama", "openai", "vllm")
COMMAND_KEYS = ("port", "ready", "env", "directory", "stop_signal", "stop_timeout", "memory", "gpu_memory", "sleep")
"""Keys of a backend with a command."""
ENGINE_KEYS = (
    "context", "slots", "threads", "batch_size", "cache_type_k", "cache_type_v", "cache_ram", "n_gpu_layers", "cpu_moe",
    "n_cpu_moe", "flash_attn", "pooling", "mmproj", "lora", "chat_template", "speculation", "flags",
)  # fmt: skip
"""Keys of a model that only an engine started here can apply: options of llama-server."""
LOADED_KEYS = ("pin", "keep_alive", "preload")
"""Keys of a model that something must be started here for."""
_OLLAMA_KEYS = ("context", "keep_alive", "preload")
"""Those of both that an Ollama server can apply: it is told with each request."""
_KEYS = ("key", "key_file", "plain_key")


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """A backend as a model sees it."""

    name: str
    kind: str
    starts_engines: bool
    """Whether llama.cpp's engines are started here for it."""
    is_command: bool = False

    @property
    def shown(self) -> str:
        """Its name in errors."""
        return f"[backends.{self.name}]" if self.name else "the backend"


def backend_of(content: ConfigFile, model: Model) -> BackendFacts | Problem:
    """The backend of a model: its own, that of [defaults], the only one, else "llamacpp" (`merge.with_defaults`).

    A model of several backends that says of itself neither backend nor file is a problem: which one has it?
    """
    name = content.defaults.backend if model.backend is None else model.backend
    if name is None and len(content.backends) == 1:
        name = next(iter(content.backends))
    elif name is None:
        if content.backends and LOCAL not in content.backends and model.file is None and model.hub is None:
            hint = f"Backends: {', '.join(content.backends)}."
            return Problem("backend is missing: there are several", (), hint=hint)
        name = LOCAL
    if name not in content.backends:
        if name == LOCAL or model.backend is None:  # one of [defaults] is told where it stands there
            return BackendFacts("", LOCAL, starts_engines=True)
        hint = nearest(name, content.backends) or f"Backends: {', '.join(content.backends) or 'none'}."
        return Problem("there is no such backend", ("backend",), hint=hint)
    backend = content.backends[name]
    here = backend.kind == "llamacpp" and backend.url is None and backend.command is None
    return BackendFacts(name, backend.kind, starts_engines=here, is_command=backend.command is not None)


def local_only(model: Model, backend: BackendFacts, where: KeyPath) -> Iterator[Problem]:
    """Options of a model that its backend cannot apply."""
    if backend.starts_engines:
        return
    given = model.model_fields_set
    does = _OLLAMA_KEYS if backend.kind == "ollama" else ()
    for key in (key for key in ENGINE_KEYS if key in given and key not in does):
        hint = "Give it to the command." if backend.is_command else "Set it at that server."
        yield Problem(f"is an option of llama.cpp's engines, and {backend.shown} starts none", (*where, key), hint=hint)
    if backend.is_command:
        return
    for key in (key for key in LOADED_KEYS if key in given and key not in does):
        yield Problem(f"{backend.shown} runs elsewhere: nothing is loaded or unloaded here", (*where, key))


def check_backends(content: ConfigFile, written: Mapping[str, Any], variables: Variables) -> Iterator[Problem]:
    """The problems of [backends]."""
    kinds = known_kinds()
    for name, backend in content.backends.items():
        where = ("backends", name)
        if backend.kind not in kinds and backend.kind not in BUILT_IN:
            hint = nearest(backend.kind, {*kinds, *BUILT_IN})
            listed = (
                f"Installed: {', '.join(sorted({*kinds, *BUILT_IN}))}. Other kinds come with packages of their own."
            )
            yield Problem(
                "no backend of this kind is installed", (*where, "kind"), hint=" ".join(filter(None, (hint, listed)))
            )
            continue
        yield from _address(backend, where)
        yield from _api_key(backend, where, written.get("backends", {}).get(name, {}), variables)
        yield from _misplaced(backend, where)


def _address(backend: Backend, where: KeyPath) -> Iterator[Problem]:
    if backend.url is not None and backend.command is not None:
        hint = "A server that runs already has a url, one that is started here a command."
        yield Problem("url and command exclude each other", (*where, "command"), hint=hint)
    if backend.kind == "openai" and backend.url is None and backend.command is None:
        yield Problem("url or command is missing: one of them says where the server is", where)
    if backend.command is None:
        return
    if not backend.command[0].strip():
        yield Problem("must name a program", (*where, "command", 0))
    given = any("${PORT}" in text for text in (*backend.command, *backend.env.values()))
    if not given and backend.port is None:
        hint = 'Such as "--port", "${PORT}"; where it always listens on the same one: port = 8000.'
        yield Problem("has no ${PORT}, so that its port is not known", (*where, "command"), hint=hint)


def _api_key(backend: Backend, where: KeyPath, written: Mapping[str, Any], variables: Variables) -> Iterator[Problem]:
    given = [key for key in _KEYS if getattr(backend, key) is not None]
    if len(given) > 1:
        yield Problem(f"{' and '.join(given)} exclude each other", (*where, given[1]))
    if given and backend.kind == "ollama":
        yield Problem("Ollama takes no API key", (*where, given[0]), hint='For one behind a proxy: kind = "openai".')
    if backend.key is not None and not variables.from_environment(str(written.get("key", ""))):
        hint = "Or name a file (key_file); plain_key takes the key itself, which all readers of this file then have."
        yield Problem('must be a variable of the environment, such as "${API_KEY}"', (*where, "key"), hint=hint)


def _misplaced(backend: Backend, where: KeyPath) -> Iterator[Problem]:
    given = backend.model_fields_set
    here = backend.kind == "llamacpp" and backend.url is None and backend.command is None
    if backend.command is None:
        for key in (key for key in COMMAND_KEYS if key in given):
            yield Problem("is for a backend with a command", (*where, key))
        if "start_timeout" in given and not here:
            yield Problem("is for a backend that is started here", (*where, "start_timeout"))
    for key in (key for key in ("server", "models_dir") if key in given and not here):
        reason = (
            "with a url or a command no engine is started" if backend.kind == "llamacpp" else 'is for kind = "llamacpp"'
        )
        yield Problem(reason, (*where, key))
    if "sleep" in given and backend.kind != "vllm":
        yield Problem('is for kind = "vllm"', (*where, "sleep"))
    if backend.sleep is not None and backend.command is not None and "--enable-sleep-mode" not in backend.command:
        yield Problem("the command has no --enable-sleep-mode", (*where, "sleep"))
    if backend.options and backend.kind in BUILT_IN:
        yield Problem("is for backends of other packages", (*where, "options"), hint="This kind has keys of its own.")
