"""Fields that several dialects treat alike: those that are set, those that are not supported, log probabilities."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from miner.core.wire import TokenLogprob
from miner.errors import InvalidRequestError, UnsupportedFeatureError
from miner.gateway.dialect import Call


def set_fields(body: object, names: Iterable[str]) -> dict[str, Any]:
    """The fields that are not null."""
    return {name: value for name in names if (value := getattr(body, name)) is not None}


def refuse_unsupported(body: object, hints: Mapping[str, str]) -> None:
    """Refuse fields that no backend supports.

    Args:
        hints: the fields, each with what to do instead.

    Raises:
        UnsupportedFeatureError: names the first that is set.
    """
    for name, hint in hints.items():
        if getattr(body, name, None):
            raise UnsupportedFeatureError(f"Unsupported parameter: {name!r}.", param=name, hint=hint)


def refuse_service_tier(tier: str | None, accepted: Collection[str]) -> None:
    """Refuse a `service_tier` that promises more than the default.

    Raises:
        UnsupportedFeatureError: names it.
    """
    if tier is not None and tier not in accepted:
        raise UnsupportedFeatureError(
            f"Unsupported value: 'service_tier' does not support {tier!r}.", param="service_tier", hint="Remove it."
        )


def logprobs_argument(logprobs: bool | None, top_logprobs: int | None) -> dict[str, int]:
    """The service's `logprobs`: alternatives for each token.

    Raises:
        InvalidRequestError: `top_logprobs` without `logprobs`.
    """
    if logprobs:
        return {"logprobs": top_logprobs or 0}
    if top_logprobs:
        raise InvalidRequestError("top_logprobs requires logprobs: true.", param="top_logprobs")
    return {}


def logprob_object(entry: TokenLogprob) -> dict[str, Any]:
    """One token with its log probability, as OpenAI and Ollama write it."""
    raw = entry.bytes if entry.bytes is not None else list(entry.token.encode())
    return {"token": entry.token, "logprob": entry.logprob, "bytes": raw}


def drop_raw(call: Call, capabilities: Collection[str]) -> None:
    """Leave out `raw` for a backend without chat templates: it takes every prompt verbatim."""
    if "raw" in capabilities or "raw" not in call.arguments[0]:
        return
    call.ignored.append("raw")
    for arguments in call.arguments:
        del arguments["raw"]


def check_dimensions(actual: int, requested: int | None) -> None:
    """Check that embeddings have as many dimensions as were requested: no backend shortens them.

    Raises:
        UnsupportedFeatureError: their number differs.
    """
    if requested not in (None, actual):
        raise UnsupportedFeatureError(
            f"The embeddings of this model have {actual} dimensions, not {requested}.", param="dimensions",
            hint="Remove it.",
        )  # fmt: skip
