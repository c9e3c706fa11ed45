"""Descriptions of models beyond a ModelInfo: what one is, what it is made of, and where it runs."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from miner.core.wire import ModelInfo

__all__ = ["ModelCard", "ModelRecipe", "RunningModel"]


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
