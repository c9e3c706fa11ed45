"""Descriptions of models beyond a ModelInfo: what one is, what it is made of, and where it runs."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from miner.core.wire import EngineStatus, ModelInfo

__all__ = ["ModelCard", "ModelRecipe", "ModelState", "RunningModel"]


class ModelCard(Struct, kw_only=True, omit_defaults=True):
    """All that a backend knows of one model; empty for what it does not know."""

    info: ModelInfo
    template: str = ""
    """The chat template in force."""
    system: str = ""
    parameters: dict[str, Any] = {}
    """Sampling parameters that the model brings along, by Ollama's names; a list for one that may be given again."""
    messages: list[dict[str, Any]] = []
    """Messages before each conversation, as in Ollama's API."""
    licenses: list[str] = []
    parent: str = ""
    """The model that it was made from."""
    metadata: dict[str, Any] = {}
    """Keys and values of its file; None for an array that is left out."""
    projector: dict[str, Any] = {}
    """The same of its projector's file."""
    tensors: list[dict[str, Any]] = []
    """`name`, `type` and `shape` of each."""
    server: dict[str, Any] = {}
    """What an Ollama server itself says (`/api/show`): it has precedence."""


class ModelRecipe(Struct, kw_only=True, omit_defaults=True, rename={"base": "from"}):
    """What a model is made of; what is not set is taken from the model that it is made from."""

    base: str | None = None
    """The model that it is made from."""
    files: dict[str, str] = {}
    """Names of files and the digests of their contents, in the place of a model."""
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    """By Ollama's names."""
    messages: list[dict[str, Any]] = []
    """Messages before each conversation, as in Ollama's API."""
    licenses: list[str] = []
    other: dict[str, Any] = {}
    """Further fields of Ollama's `/api/create`."""


class RunningModel(Struct, kw_only=True, omit_defaults=True):
    """One model in memory."""

    info: ModelInfo
    memory: int = 0
    """Bytes of memory, GPUs included."""
    gpu_memory: int = 0
    """Bytes of GPU memory."""
    expires_at: float | None = None
    """When it is unloaded if it is not used, in seconds since 1970; None: never."""
    server: dict[str, Any] = {}
    """What an Ollama server itself says (`/api/ps`): it has precedence."""


class ModelState(Struct, kw_only=True, omit_defaults=True):
    """One model and what it is doing, for operators."""

    name: str
    aliases: list[str] = []
    description: str | None = None
    backend: str = ""
    """The backend that serves it; with a table, NAME of its `[backends.NAME]`."""
    kind: str = ""
    """The kind of the backend: llamacpp, vllm, ..."""
    state: Literal[
        "unloaded", "loading", "ready", "sleeping", "stopping", "failed", "remote", "unavailable"
    ] = "unloaded"  # fmt: skip
    """sleeping: its process waits without GPU memory; remote: at a server that is not started here, and that answers;
    unavailable: it does not, or there is no such model."""
    engine: str | None = None
    """The engine that runs it here, which several models may share."""
    reason: str | None = None
    """Why it is not ready, if something went wrong."""
    retry_after: float | None = None
    """Seconds until a failed engine is started again, by the next request."""
    context_length: int | None = None
    """Tokens of one request."""
    capabilities: list[str] | None = None
    size: int | None = None
    """Bytes on disk."""
    memory: int | None = None
    """Bytes of main memory: resident while it is loaded, else what it is expected to take, if known."""
    gpu_memory: int | None = None
    """Bytes on GPUs that it is expected to take."""
    slots: int | None = None
    """Requests that its engine works on at once; None: not known."""
    slots_busy: int = 0
    queued: int = 0
    restarts: int = 0
    pinned: bool = False
    expires_at: float | None = None
    """When it is unloaded if no other request comes, in seconds since 1970; None: not for that."""
    default: bool = False
    """Whether it serves requests that name no model."""
    listed: bool = True
    """Whether lists for clients show it."""


def state_of(info: ModelInfo, engine: EngineStatus | None, **known: Any) -> ModelState:
    """The state of a model, by what its backend says of it and the engine that runs it, if one does here."""
    state = ModelState(
        name=info.id, aliases=info.aliases, context_length=info.context_length, size=info.size,
        capabilities=sorted(info.capabilities) if info.capabilities is not None else None,
    )  # fmt: skip
    if engine is not None:
        state.engine, state.reason, state.retry_after = engine.model, engine.reason, engine.retry_after
        state.memory = engine.memory if engine.memory is not None else engine.need
        state.gpu_memory, state.pinned, state.expires_at = engine.gpu_memory, engine.pinned, engine.expires_at
        state.slots, state.slots_busy = engine.slots, engine.slots_busy
        state.queued, state.restarts = engine.queued, engine.restarts
        state.state = _STATES[engine.state]
    for name, value in known.items():
        setattr(state, name, value)
    return state


_STATES: dict[str, Literal["unloaded", "loading", "ready", "sleeping", "stopping", "failed"]] = {
    "stopped": "unloaded", "starting": "loading", "ready": "ready", "sleeping": "sleeping",
    "stopping": "stopping", "failed": "failed",
}  # fmt: skip
"""State of an engine -> that of its model."""
