"""What `[defaults]` says, applied to the models."""

from __future__ import annotations

from typing import Any

from miner.config.file.schema import ConfigFile, Model, ModelOptions, Sampling

LOCAL = "llamacpp"
"""The backend of models where the file has none: engines are started here, with the settings of the environment."""


def with_defaults(model: Model, content: ConfigFile) -> Model:
    """The model with the options of `[defaults]` that it does not set itself, and its backend's name."""
    defaults, changes = content.defaults, dict[str, Any]()
    for name in ModelOptions.model_fields:
        if name in defaults.model_fields_set and name not in model.model_fields_set:
            changes[name] = getattr(defaults, name)
    if "sampling" in model.model_fields_set and "sampling" in defaults.model_fields_set:
        own, other = model.sampling, defaults.sampling
        merged = {key: getattr(other, key) for key in other.model_fields_set}
        merged |= {key: getattr(own, key) for key in own.model_fields_set}
        changes["sampling"] = Sampling.model_construct(_fields_set=set(merged), **merged)
    if model.backend is None and changes.get("backend") is None:
        changes["backend"] = next(iter(content.backends)) if len(content.backends) == 1 else LOCAL
    return model.model_copy(update=changes)


def default_model(content: ConfigFile) -> str | None:
    """The model of requests that name none: that of `[defaults]`, else the only one; None: they must name one."""
    if content.defaults.model is not None:
        return content.defaults.model
    return next(iter(content.models)) if len(content.models) == 1 else None
