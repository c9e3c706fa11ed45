"""`miner generate`: stream a model's response to a prompt to standard output."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import complain, note, report_interrupted
from miner.cli.parser import EXIT_STATUS, add_json_option, add_target_options, add_words
from miner.cli.request_options import add_request_options, name_max_tokens, name_unsupported, parameters_of
from miner.cli.verbosity import logs_shown
from miner.errors import BackendError, MinerError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.cli.output.terminal import Output, Status
    from miner.cli.signals import StopSignals
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService
    from miner.core.wire import LLMChunk, LLMResponse

_EPILOG = f"""\
examples:
  miner generate why is the sky blue
  miner generate --max-tokens 100 --temperature 0 --seed 7 "Name a colour."
  miner generate --system "Answer in one word." "Is water wet?"
  git diff | miner generate --backend vllm "Review this." > review.txt
  miner generate - < prompt.txt
  miner generate -m gemma3 --image photo.jpg "What is this?"
  miner generate --schema person.json "A person, as JSON"
  miner generate --tools tools.json "Weather in Rome?"
  miner generate --url http://node:8088 --key - "Hello" < key.txt
  miner generate --json "Hello" | python -m json.tool

Several words need no quotes, unless the shell would read them (? * ' " $ !);
what begins with a dash stands after --. Before them come the files (-f) and the
text that is piped in (in a `while read` loop, add </dev/null). Only the
generated text goes to standard output, and calls of --tools as JSON; notices,
such as that it was cut at --max-tokens, go to standard error, and so does a
status line until the first token if standard error is a terminal. Ctrl-C stops
the engine.

--json prints one object: content, reasoning, tool_calls, parsed (by --schema),
finish_reason, stop_sequence, usage (null if the engine sends none), timings
(seconds), model, backend, context_exhausted, ignored. After an error it has
error (type, code, message, hint, exit_code) and content, the text received
before; so too when a signal stops it (code: interrupted).

{EXIT_STATUS}"""
_EXAMPLES = {"run": "run NAME"}
"""Command -> how it is typed before a prompt, where that is not its name alone."""
_CONTEXT_HINTS = {
    "llamacpp": "Shorten the prompt, or raise LLAMACPP_CTX_SIZE.",
    "ollama": "Shorten the prompt, or raise OLLAMA_NUM_CTX.",
    "vllm": "Shorten the prompt, or raise the server's --max-model-len.",
}


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Stream a model's response to a prompt.", epilog=_EPILOG, usage="miner generate [options] PROMPT"
    )
    parser.set_defaults(run=run)
    add_words(parser, "prompt", metavar="PROMPT", help="the prompt; -: read it from standard input")
    add_target_options(parser)
    add_request_options(parser)
    add_json_option(parser)
    parser.add_argument("--no-stream", action="store_true", help="print the text when it is complete")


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    from miner.cli.prompt import messages_of, read_prompt
    from miner.cli.signals import run_until_stopped
    from miner.cli.target import target_config

    parameters = parameters_of(args)
    config = target_config(args)
    example = f'miner {_EXAMPLES.get(args.command, args.command)} "Why is the sky blue?"'
    prompt = read_prompt(args.prompt, args.file or [], may_be_empty=bool(args.image), example=example)
    if args.system is None and not args.image:
        parameters["prompt"] = prompt
    else:
        parameters["messages"] = messages_of(args, prompt)
    received: list[list[LLMChunk]] = []

    def print_interrupted(number: int) -> None:
        report_interrupted(number, "".join(chunk.content for batch in received for chunk in batch if chunk.content))

    try:
        return run_until_stopped(
            lambda signals: _generate(args, parameters, config, received, signals),
            on_stopped=print_interrupted if args.json else None,
        )
    except MinerError as error:
        name_unsupported(error, args)
        name_max_tokens(error)
        raise


async def _generate(
    args: argparse.Namespace,
    parameters: dict[str, Any],
    config: MinerConfig,
    received: list[list[LLMChunk]],
    signals: StopSignals,
) -> int:
    """Args:
    received: where what arrives is added.
    """
    import logging

    from miner.cli.output.terminal import Notices, Output, Status
    from miner.cli.target import open_target

    output, status = Output(signals), Status()
    if not logs_shown():
        logging.getLogger().addHandler(Notices(status))
    try:
        async with open_target(args, config) as service:
            status.show(f"waiting for {service.name}")
            response = await _respond(service, parameters, args, received, output, status)
            status.erase()
            if args.json:
                output.write(_as_json(response))
            elif response.tool_calls:
                output.end_line()
                output.write(_json({"tool_calls": response.tool_calls}))
            output.end_line()
            if ignored := _ignored(response):
                note(f"miner: Left out or changed, as the model does not support it: {', '.join(ignored)}.")
            _note_finish(response, args.max_tokens or config.default_max_tokens)
            if getattr(args, "timings", False):
                from miner.cli.chat.statistics import timings_of

                complain(timings_of(response))
    finally:
        status.erase()
        output.end_line()
    return 0


async def _respond(
    service: LLMService,
    parameters: dict[str, Any],
    args: argparse.Namespace,
    received: list[list[LLMChunk]],
    output: Output,
    status: Status,
) -> LLMResponse:
    """Return the response, whose text is printed as it arrives unless the arguments say otherwise."""
    if args.no_stream and not args.raw and args.suffix is None:
        own = dict(parameters)
        prompt = own.pop("prompt", None)
        if prompt is not None:
            own["messages"] = [{"role": "user", "content": prompt}]
        try:
            response = await service.chat_completion(**own)
        except UnsupportedFeatureError as error:
            # A model without a chat template takes a prompt, but no messages: stream it below.
            if error.param != "messages" or prompt is None:
                raise
        except BackendError as error:
            if error.partial is not None and not args.json:
                output.write(error.partial.content)
            raise
        else:
            if not args.json:
                output.write(response.content)
            return response
    return await _stream(service, parameters, args, received, output, status)


async def _stream(
    service: LLMService,
    parameters: dict[str, Any],
    args: argparse.Namespace,
    received: list[list[LLMChunk]],
    output: Output,
    status: Status,
) -> LLMResponse:
    from miner.cli.output.reasoning import ReasoningText
    from miner.cli.output.terminal import describe_progress
    from miner.core.llms.contract.join import join

    if "progress" in service.capabilities:
        # Only some of the backends that may serve it know progress.
        parameters = {"unsupported": ["progress"], **parameters, "progress": True}
    stream = service.stream(**parameters)
    hidden = args.json or getattr(args, "hide_thinking", False)
    reasoning = ReasoningText(shown=bool(parameters.get("reasoning")) and not hidden)
    async with aclosing(stream.batches()) as batches:
        async for batch in batches:
            received.append(batch)
            reasoning.write("".join(chunk.reasoning for chunk in batch if chunk.reasoning), status)
            text = "".join(chunk.content for chunk in batch if chunk.content)
            if text and not args.json and not args.no_stream:
                status.erase()
                reasoning.end()
                output.write(text)
            elif batch[-1].progress is not None:
                status.show(describe_progress(batch[-1].progress))
    reasoning.end()
    response = join(received, stream.response)
    if args.no_stream and not args.json:
        output.write(response.content)
    return response


def _ignored(response: LLMResponse) -> list[str]:
    """What of the command's options was left out; the progress was only for the status line."""
    return [name for name in response.ignored if name != "progress"]


def _as_json(response: LLMResponse) -> str:
    from msgspec.structs import asdict

    described = {
        "content": response.content,
        "reasoning": response.reasoning,
        "tool_calls": response.tool_calls,
        "parsed": response.parsed,
        "finish_reason": response.finish_reason,
        "stop_sequence": response.stop_sequence,
        "usage": None if response.usage is None else asdict(response.usage),
        "timings": asdict(response.timings),
        "model": response.model,
        "backend": response.backend,
        "context_exhausted": response.context_exhausted,
        "ignored": _ignored(response),
    }
    return _json(described)


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2)


def _note_finish(response: LLMResponse, max_tokens: int) -> None:
    """Print a notice if the response is incomplete or empty."""
    from miner.core.wire import UNLIMITED

    unlimited = max_tokens == UNLIMITED
    if response.context_exhausted or (response.finish_reason == "length" and unlimited):
        hint = _CONTEXT_HINTS.get(response.backend or "", "Shorten the prompt.")
        where = "at its end" if unlimited else f"before max_tokens={max_tokens}"
        note(f"miner: The context is full: the response was cut {where}.\n  {hint}")
    elif response.finish_reason == "length":
        note(f"miner: The response was cut at max_tokens={max_tokens}.\n  Raise it with --max-tokens.")
    elif response.finish_reason == "repetition":
        note("miner: The engine stopped the response: the model repeated the same token.")
    elif response.finish_reason == "unknown":
        note("miner: The engine stopped the response for an unknown reason.")
    elif response.finish_reason == "content_filter":
        note("miner: The engine's content filter stopped the response.")
    elif not response.content and not response.tool_calls:
        note("miner: The response is empty.")
