"""Maps Ollama's errors, which are sentences; those of its runner are JSON inside a sentence."""

from __future__ import annotations

from miner.core.http.errors import ErrorBody, Upstream, interrupted, retry_after_seconds, status_error
from miner.core.llms.contract.unparsed_reply import malformed_reply_error
from miner.errors import (
    BackendOverloadedError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)

_BACKEND = "ollama"
_RUNNER_CRASHED = "an error was encountered while running the model"
_FATAL_TEXTS = ("terminated", "unexpectedly stopped", "out of memory", "file size", "invalid file magic", "runner")


def ollama_error(
    status: int, body: ErrorBody, upstream: Upstream, model: str | None, retry_after: str | None = None
) -> MinerError:
    """Return the error for a response whose status is not 200.

    Args:
        model: the one that the request named, if any.
        retry_after: the header of that name.
    """
    text = body.message
    if (malformed := malformed_reply_error(text, _BACKEND, upstream.details(status))) is not None:
        return malformed
    if body.type == "exceed_context_size_error":
        prompt_tokens, context_length = body.fields.get("n_prompt_tokens"), body.fields.get("n_ctx")
        return ContextLengthError(
            f"The prompt has {prompt_tokens} tokens, the context {context_length} (ollama).",
            prompt_tokens=prompt_tokens, context_length=context_length, hint="Shorten the prompt.",
            operator_hint="Raise OLLAMA_NUM_CTX.",
        )  # fmt: skip
    if "context length" in text and status == 400:
        return ContextLengthError(f"The prompt is too long for ollama: {text}", hint="Shorten the prompt.")
    if status == 404 and model is not None and "model" in text:
        return ModelNotFoundError(f"ollama: {text}.", model=model, operator_hint=f"Pull it with `ollama pull {model}`.")
    if "does not support" in text and status in (400, 500, 501):
        return UnsupportedFeatureError(f"ollama: {text}", param=_param(text))
    if status == 503:
        return upstream.error(
            BackendOverloadedError, f"is busy: {text}", status=status, hint="Try again later.",
            operator_hint="Raise OLLAMA_MAX_QUEUE.", retry_after=retry_after_seconds(retry_after),
        )  # fmt: skip
    if status == 500 and text.startswith(('option "', "invalid format:")):
        return InvalidRequestError(f"ollama refused the request: {text}", param=_param(text))
    if "timed out waiting for" in text:
        return upstream.timeout_error(f"could not load the model in time: {text}", status=status)
    if status == 500 and text.startswith(_RUNNER_CRASHED):
        return upstream.error(
            BackendUnavailableError, f"lost the model's runner: {text}.", status=status, engine_died=True,
            hint="Try again: Ollama reloads the model.", operator_hint="Ollama's log says why the runner crashed.",
        )  # fmt: skip
    if status == 500 and any(sign in text for sign in _FATAL_TEXTS):
        return upstream.error(
            BackendUnavailableError, f"could not run the model: {text}", status=status, retryable=False,
            operator_hint="Ollama's log says more; `ollama pull` the model again if its file is broken.",
        )  # fmt: skip
    return status_error(status, body, upstream, retry_after=retry_after_seconds(retry_after))


def error_in_stream(body: ErrorBody, upstream: Upstream, *, delivered: bool) -> MinerError:
    """Return the error for an `error` line in a response with status 200: the runner crashed or gave up. Once text was
    delivered it is an interruption; before that, Ollama reloads the model on the next request.
    """
    if body.type == "exceed_context_size_error":
        return ollama_error(400, body, upstream, None)
    if (malformed := malformed_reply_error(body.message, _BACKEND, upstream.details(200))) is not None:
        return malformed
    problem = f"aborted its response: {body.message}"
    if delivered:
        return interrupted(f"{upstream.label} {problem}.", upstream, 200)
    return upstream.error(
        BackendUnavailableError, problem, status=200, operator_hint="Ollama's log says more.", engine_died=True
    )


def _param(text: str) -> str | None:
    for word, param in (("tools", "tools"), ("think", "reasoning"), ("format", "response_format"), ("stop", "stop"),
                        ("embeddings", "model"), ("chat", "model"), ("generate", "model")):  # fmt: skip
        if word in text:
            return param
    return None
