"""What a model of the table adds to requests that do not set it."""

from __future__ import annotations

from miner.config.file.problems import Problem, value_at
from miner.config.file.read import LoadedConfig
from miner.config.file.schema import Model
from miner.core.llms.contract.preset import preset_of_options
from miner.core.wire import Preset
from miner.errors import InvalidRequestError


def preset_for(name: str, model: Model, loaded: LoadedConfig) -> Preset | None:
    """The preset of a model, with `[defaults]` applied; None: it adds nothing.

    Raises:
        ConfigFileError: a parameter could be in no request; names its line.
    """
    given = {key: value for key, value in model.sampling.model_dump().items() if value is not None}
    if not given and not model.system:
        return None
    try:
        return preset_of_options(given, system=model.system or "")
    except InvalidRequestError as error:
        param = (error.param or "").partition("[")[0]
        own = ("models", name, "sampling", param)
        where = own if value_at(loaded.written, own) is not None else ("defaults", "sampling", param)
        reason = error.message.removeprefix(f"{param} ").partition(", not ")[0].rstrip(".")
        raise loaded.error([Problem(reason, where, hint=error.hint)]) from None
