"""Three tokens from the model: with its chat template, with tools, with a JSON Schema."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from miner.cli.doctor.explain import doctor_line, row_of
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.probed_model import chats
from miner.cli.doctor.row import Row, ok, skipped
from miner.cli.doctor.targets import Target
from miner.errors import InvalidRequestError, MinerError, OutputValidationError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService
    from miner.core.wire import ModelInfo

_TOKENS = 3
_MESSAGES = [{"role": "user", "content": "Say hello."}]
_TOOL = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "The time of day.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "yes", "strict": True, "schema": {"type": "boolean"}}}
_JSON_TOKENS = 16
"""The shortest value there is; engines allow white space around it."""
_TOOL_FIX = {"vllm": "vllm serve NAME --enable-auto-tool-choice --tool-call-parser hermes"}


async def probes(
    name: str, service: LLMService, target: Target, facts: Facts, model: ModelInfo | None, *, loads: bool | None = None
) -> AsyncGenerator[Row, None]:
    """The three rows.

    Args:
        loads: whether the first has to load the model; None: unknown.
    """
    wanted = ("chat", "tools", "JSON Schema")
    if not facts.options.probe:
        yield skipped(f"{name}: probe", "--no-probe")
        return
    if model is not None and not chats(model):
        able = ", ".join(sorted({"embeddings", "rerank"} & set(model.capabilities or ())))
        yield skipped(f"{name}: probe", f"the model does not chat{f': it is for {able}' if able else ''}")
        return
    for number, kind in enumerate(wanted):
        row = await _probe(f"{name}: probe {kind}", kind, service, target, facts, model, loads if not number else False)
        yield row
        if row.verdict == "problem":
            if number < len(wanted) - 1:
                left = " and ".join(wanted[number + 1 :])
                yield skipped(f"{name}: probe {left}", f"the probe {kind} has to succeed first")
            return


async def _probe(
    name: str, kind: str, service: LLMService, target: Target, facts: Facts, model: ModelInfo | None, loads: bool | None
) -> Row:
    seconds, began = facts.options.seconds, time.monotonic()

    def hint(error: MinerError) -> str | None:
        return target.in_its_words(error.hints_for_people or "") or None

    try:
        async with asyncio.timeout(seconds):
            tokens, load, text = await _generate(kind, service, model.id if model is not None else None)
    except TimeoutError:
        waits = "loading the model and three tokens" if loads else "three tokens"
        return Row(
            name,
            "problem",
            f"{waits} took longer than {seconds:g} s",
            doctor_line(target, f"--timeout {seconds * 5:g}"),
            "The engine is slow, busy with other requests, or hangs: its log says more.",
            {"timeout": seconds},
        )
    except UnsupportedFeatureError as error:
        fix = _TOOL_FIX.get(target.kind) if kind == "tools" else None
        return Row(name, "note", error.message.rstrip("."), fix, hint(error), {"error": type(error).__name__})
    except OutputValidationError as error:
        return Row(name, "note", error.message.rstrip("."), None, hint(error), {"error": type(error).__name__})
    except InvalidRequestError as error:
        if kind == "chat":
            return row_of(name, error, target)
        fix = _TOOL_FIX.get(target.kind) if kind == "tools" else None
        return Row(name, "note", error.message.rstrip("."), fix, hint(error), {"error": type(error).__name__})
    except MinerError as error:
        return row_of(name, error, target, seconds=round(time.monotonic() - began, 3))
    took = time.monotonic() - began
    seen: dict[str, Any] = {"seconds": round(took, 3), "tokens": tokens, "load_seconds": load, "text": text[:60]}
    loaded = f", after loading the model for {load:.1f} s" if load and load >= 0.05 else ""
    return ok(name, f"{tokens if tokens is not None else _TOKENS} tokens in {took - (load or 0):.2f} s{loaded}", **seen)


async def _generate(kind: str, service: LLMService, model: str | None) -> tuple[int | None, float | None, str]:
    """Generate; return the tokens, the seconds that the model took to load, and the text."""
    if kind == "chat":
        response = await service.stream(messages=_MESSAGES, model=model, max_tokens=_TOKENS, temperature=0).collect()
    elif kind == "tools":
        response = await service.chat_completion(
            _MESSAGES, model=model, max_tokens=_TOKENS, temperature=0, tools=[_TOOL]
        )
    else:
        response = await service.chat_completion(
            _MESSAGES, model=model, max_tokens=_JSON_TOKENS, temperature=0, response_format=_SCHEMA
        )
    usage = response.usage
    load = response.timings.load
    return (usage.completion_tokens if usage else None), None if load is None else round(load, 3), response.content
