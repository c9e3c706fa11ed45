"""What Ollama's errors mean. They are sentences; those of its runner are JSON inside a sentence."""

from __future__ import annotations

from typing import Any

from miner.core.http.errors import ErrorBody, Upstream, retry_after_seconds, status_error
from miner.core.llms.contract.unparsed_reply import malformed_reply_error
from miner.errors import (
    BackendOverloadedError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)

__all__ = ["error_in_answer", "ollama_error"]

_BACKEND = "ollama"
_RUNNER_DIED = "an error was encountered while running the model"
_FATAL_TEXTS = ("terminated", "unexpectedly stopped", "out of memory", "file size", "invalid file magic", "runner")


def ollama_error(
    status: int, body: ErrorBody, upstream: Upstream, model: str | None, retry_after: str | None = None
) -> MinerError:
    """The error for an HTTP answer that is no success."""
    text = body.message
    details: dict[str, Any] = upstream.details(status)
    if (malformed := malformed_reply_error(text, _BACKEND, details)) is not None:
        return malformed
    if body.type == "exceed_context_size_error":
        return ContextLengthError(
            f"The prompt has {body.fields.get('n_prompt_tokens')} tokens, the context "
            f"{body.fields.get('n_ctx')} (ollama).",
            prompt_tokens=body.fields.get("n_prompt_tokens"),
            context_length=body.fields.get("n_ctx"),
            hint="Shorten the prompt, or raise OLLAMA_NUM_CTX.",
        )
    if "context length" in text and status == 400:
        return ContextLengthError(f"The prompt is too long for ollama: {text}", hint="Shorten it.")
    if status == 404 and model is not None and "model" in text:
        return ModelNotFoundError(f"ollama: {text}.", model=model, hint=f"Get it with `ollama pull {model}`.")
    if "does not support" in text and status in (400, 500, 501):
        return UnsupportedFeatureError(f"ollama: {text}", param=_param(text))
    if status == 503:
        return BackendOverloadedError(
            f"ollama at {upstream.shown_url} is busy: {text}", hint="Try again later, or raise OLLAMA_MAX_QUEUE.",
            retry_after=retry_after_seconds(retry_after), **details,
        )  # fmt: skip
    if status == 500 and text.startswith(('option "', "invalid format:")):
        return InvalidRequestError(f"ollama refused the request: {text}", param=_param(text))
    if "timed out waiting for" in text:
        return upstream.timeout_error(f"could not load the model in time: {text}", status=status)
    if status == 500 and text.startswith(_RUNNER_DIED):
        return BackendUnavailableError(
            f"ollama at {upstream.shown_url} lost the model's runner: {text}.",
            hint="Ollama loads the model again on the next request; its log says why the runner died.",
            engine_died=True,
            **details,
        )
    if status == 500 and any(sign in text for sign in _FATAL_TEXTS):
        return BackendUnavailableError(
            f"ollama at {upstream.shown_url} could not run the model: {text}",
            hint="Its log says more; `ollama pull` the model again if its file is broken.",
            retryable=False,
            **details,
        )
    return status_error(status, body, upstream, retry_after=retry_after_seconds(retry_after))


def error_in_answer(body: ErrorBody, upstream: Upstream, *, begun: bool) -> MinerError:
    """The error for an `error` inside an answer that began with status 200: the runner died, or gave up. Once text has
    come it is an interruption; before that, Ollama loads the model again on the next request.
    """
    if body.type == "exceed_context_size_error":
        return ollama_error(400, body, upstream, None)
    if (malformed := malformed_reply_error(body.message, _BACKEND, upstream.details(200))) is not None:
        return malformed
    said = f"ollama at {upstream.shown_url} broke off its answer: {body.message}"
    if not begun:
        return BackendUnavailableError(said, hint="Ollama's log says more.", engine_died=True, **upstream.details(200))
    return StreamInterruptedError(
        f"{said}.",
        hint="What had arrived is in the error's `partial`; Ollama loads the model again on the next request.",
        **upstream.details(200),
    )


def _param(text: str) -> str | None:
    for word, param in (("tools", "tools"), ("think", "reasoning"), ("format", "response_format"), ("stop", "stop"),
                        ("embeddings", "model"), ("chat", "model"), ("generate", "model")):  # fmt: skip
        if word in text:
            return param
    return None
