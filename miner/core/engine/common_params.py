"""The wheel's parameters, from what `xllamacpp_arguments` returns.

Imports nothing: `child.py` runs it where nothing else can be imported.
"""

from __future__ import annotations

from typing import Any


def parameters_of(xllamacpp: Any, config: dict[str, Any]) -> Any:
    """`CommonParams` with the attributes of the configuration.

    Raises:
        ValueError: this version of the wheel lacks one, or does not take its value; the message continues its name.
    """
    values = dict(config["values"])
    # Without a GPU there is nothing to fit, and fitting reads the model's header twice.
    values.setdefault("fit_params", True)
    values["fit_params"] &= any("CPU" not in repr(device["type"]) for device in xllamacpp.get_device_info())
    if config["socket"]:
        values["hostnames"] = [config["socket"]]
    else:
        values |= {"hostnames": ["127.0.0.1"], "port": 0, "api_keys": [config["api_key"]]}
    for path, wanted in config["constants"].items():
        several = isinstance(wanted[0], list)
        found = [_constant(xllamacpp, *each, path=path) for each in (wanted if several else [wanted])]
        values[path] = found if several else found[0]
    if config.get("adapters"):
        values["lora_adapters"] = [xllamacpp.CommonAdapterLoraInfo(*each) for each in config["adapters"]]
    parameters = xllamacpp.CommonParams()
    for path, value in values.items():
        *parents, name = path.split(".")
        target = parameters
        for parent in parents:
            target = getattr(target, parent)
        if not hasattr(target, name):
            raise ValueError(f"has no parameter {path}: install the version that miner requires")
        try:
            setattr(target, name, value)
        except (TypeError, ValueError, OverflowError, AssertionError) as error:
            named = config.get("names", {}).get(path, path)
            raise ValueError(f"does not take {named}={value!r}: {error}") from None
    return parameters


def _constant(xllamacpp: Any, family: str, name: str, *, path: str) -> Any:
    value = getattr(getattr(xllamacpp, family, None), name, None)
    if value is None:
        raise ValueError(f"has no {family}.{name}: choose another {path}")
    return value
