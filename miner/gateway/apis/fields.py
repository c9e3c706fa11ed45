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


def texts_or_tokens(value: str | list[Any], name: str) -> list[Any]:
    """Each of one or several texts: a string, or a list of token ids.

    Raises:
        InvalidRequestError: it is something else.
    """
    if isinstance(value, str):
        return [value]
    tokens = _tokens(value)
    if tokens is not None:
        return [tokens]
    if value and all(isinstance(one, str) for one in value):
        return value
    lists = [_tokens(one) for one in value]
    if lists and None not in lists:
        return lists
    raise InvalidRequestError(
        f"{name} must be a string, an array of strings, an array of tokens, or an array of token arrays, none of them "
        "empty.", param=name,
    )  # fmt: skip


def _tokens(value: object) -> list[int] | None:
    """Token ids; JSON and many languages write them as 5.0, too."""
    if not isinstance(value, list) or not value:
        return None
    if all(type(token) is int for token in value):
        return value
    if all(type(token) is int or (type(token) is float and token.is_integer()) for token in value):
        return [int(token) for token in value]
    return None


_METADATA = (16, 64, 512)
"""Pairs, characters of a key, characters of a value: OpenAI's bounds."""


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Check what is stored with an object, and comes back with it.

    Raises:
        InvalidRequestError: more than 16 pairs, longer ones than OpenAI allows, or values that are no strings.
    """
    pairs, key_length, value_length = _METADATA
    if len(metadata or ()) > pairs:
        raise InvalidRequestError(
            f"metadata must have at most {pairs} pairs, not {len(metadata or ())}.", param="metadata"
        )
    for key, value in (metadata or {}).items():
        if len(key) > key_length or not isinstance(value, str) or len(value) > value_length:
            raise InvalidRequestError(
                f"metadata.{key[:80]}: keys must have at most {key_length} characters, values must be strings of at "
                f"most {value_length}.", param="metadata",
            )  # fmt: skip
