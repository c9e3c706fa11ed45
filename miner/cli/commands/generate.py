"""`miner generate`: stream a model's response to a prompt to standard output."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.parser import EXIT_STATUS, add_json_option, add_target_options, number
from miner.cli.verbosity import logs_shown
from miner.errors import BackendError, InvalidRequestError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.cli.output.terminal import Output, Status
    from miner.cli.signals import StopSignals
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService
    from miner.core.wire import LLMResponse

_EPILOG = f"""\
examples:
  miner generate "Why is the sky blue?"
  miner generate --max-tokens 100 --temperature 0 --seed 7 "Name a colour."
  miner generate --system "Answer in one word." "Is water wet?"
  miner generate --stop "." --stop "!" "Tell me about Rome."
  git diff | miner generate --backend vllm "Review this." > review.txt
  miner generate - < prompt.txt
  miner generate --json "Hello" | python -m json.tool

Piped standard input is placed before the prompt (in a `while read` loop, add
</dev/null). Only the generated text goes to standard output; notices, such as
that it was cut at --max-tokens, go to standard error, and so does a status line
until the first token if standard error is a terminal. Ctrl-C stops the engine.

--json prints one object: content, reasoning, finish_reason, stop_sequence,
usage (null if the engine sends none), timings (seconds), model, backend,
context_exhausted. After an error it has error (type, code, message, hint,
exit_code) and content, the text received before.

{EXIT_STATUS}"""
_CONTEXT_HINTS = {
    "llamacpp": "Shorten the prompt, or raise LLAMACPP_CTX_SIZE.",
    "ollama": "Shorten the prompt, or raise OLLAMA_NUM_CTX.",
    "vllm": "Shorten the prompt, or raise the server's --max-model-len.",
}
_PARAMETERS = ("model", "max_tokens", "temperature", "top_p", "seed", "stop")


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Stream a model's response to a prompt.", epilog=_EPILOG, usage="miner generate [options] PROMPT"
    )
    parser.set_defaults(run=run, flags={name: name for name in (*_PARAMETERS, "config")})
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; -: read it from standard input")
    option = parser.add_argument
    add_target_options(parser)
    most = "maximum tokens to generate (DEFAULT_MAX_TOKENS, 512); -1: until the context ends"
    option("--max-tokens", metavar="N", type=number, help=most)
    option("--temperature", metavar="T", type=number, help="0 to 2; 0: greedy (DEFAULT_TEMPERATURE, 0.7)")
    option("--top-p", metavar="P", type=number, help="0 to 1; 0: greedy (DEFAULT_TOP_P, 0.95)")
    option("--seed", metavar="N", type=number, help="seed for reproducible sampling")
    option("--stop", metavar="TEXT", action="append", help="stop sequence; can be repeated")
    option("--system", metavar="TEXT", help="system message before the prompt")
    add_json_option(parser)
    option("--no-stream", action="store_true", help="print the text when it is complete")


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    prompt = _read_prompt(args.prompt)
    for name, texts in {"prompt": [prompt], "system": [args.system], "stop": args.stop, "model": [args.model]}.items():
        _check_utf8(name, texts or [])
    from miner.cli.signals import run_until_stopped
    from miner.cli.target import target_config

    config = target_config(args)
    return run_until_stopped(lambda signals: _generate(args, prompt, config, signals))


def _read_prompt(argument: str) -> str:
    """The prompt: the argument after the text piped to standard input; with `-` standard input alone.

    Raises:
        InvalidRequestError: it is empty, or not text.
    """
    if argument == "-":
        if sys.stdin is None:
            raise InvalidRequestError("The prompt is -, but standard input is closed.", param="prompt")
        text = _read_stdin()
        if not text.strip():
            raise InvalidRequestError("Standard input has no prompt.", param="prompt")
        return text
    if not argument.strip():
        raise InvalidRequestError("The prompt must not be empty.", param="prompt")
    text = _read_stdin() if _stdin_is_piped() else ""
    return f"{text}\n\n{argument}" if text.strip() else argument


def _stdin_is_piped() -> bool:
    """Whether standard input is a pipe, a file or a socket, as opposed to a terminal or /dev/null."""
    if sys.stdin is None:
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # ValueError: it has no descriptor
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _read_stdin() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"Standard input is not UTF-8 text: {error}.", param="prompt") from None
    return text.removesuffix("\n").removesuffix("\r")


def _check_utf8(name: str, texts: list[str | None]) -> None:
    """Refuse arguments that are not UTF-8: Python decodes them to surrogates, which no engine accepts."""
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(f"The {name} is not UTF-8 text.", param=name) from None


async def _generate(args: argparse.Namespace, prompt: str, config: MinerConfig, signals: StopSignals) -> int:
    import logging

    from miner.cli.output.terminal import Notices, Output, Status
    from miner.cli.target import open_target

    output, status = Output(signals), Status()
    if not logs_shown():
        logging.getLogger().addHandler(Notices(status))
    try:
        async with open_target(args, config) as service:
            status.show(f"waiting for {service.name}")
            response = await _respond(service, prompt, args, output, status)
            status.erase()
            if args.json:
                output.write(_as_json(response))
            output.end_line()
            _note_finish(response, args.max_tokens or config.default_max_tokens)
    finally:
        status.erase()
        output.end_line()
    return 0


async def _respond(
    service: LLMService, prompt: str, args: argparse.Namespace, output: Output, status: Status
) -> LLMResponse:
    """Return the response, whose text is printed as it arrives unless the arguments say otherwise."""
    parameters: dict[str, Any] = {name: getattr(args, name) for name in _PARAMETERS}
    messages = [{"role": "user", "content": prompt}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    if args.no_stream:
        try:
            response = await service.chat_completion(messages, **parameters)
        except UnsupportedFeatureError as error:
            # A model without a chat template takes a prompt, but no messages: stream it below.
            if error.param != "messages" or args.system is not None:
                raise
        except BackendError as error:
            if error.partial is not None and not args.json:
                output.write(error.partial.content)
            raise
        else:
            if not args.json:
                output.write(response.content)
            return response
    parameters |= {"prompt": prompt} if args.system is None else {"messages": messages}
    return await _stream(service, parameters, args, output, status)


async def _stream(
    service: LLMService, parameters: dict[str, Any], args: argparse.Namespace, output: Output, status: Status
) -> LLMResponse:
    from miner.cli.output.terminal import describe_progress
    from miner.core.llms.contract.join import join
    from miner.core.wire import LLMChunk

    if "progress" in service.capabilities:
        # Only some of the backends that may serve it know progress.
        parameters |= {"progress": True, "unsupported": ["progress"]}
    stream = service.stream(**parameters)
    received: list[list[LLMChunk]] = []
    async with aclosing(stream.batches()) as batches:
        async for batch in batches:
            received.append(batch)
            text = "".join(chunk.content for chunk in batch if chunk.content)
            if text and not args.json and not args.no_stream:
                status.erase()
                output.write(text)
            elif batch[-1].progress is not None:
                status.show(describe_progress(batch[-1].progress))
            elif batch[-1].reasoning:
                status.show("reasoning")
    response = join(received, stream.response)
    if args.no_stream and not args.json:
        output.write(response.content)
    return response


def _as_json(response: LLMResponse) -> str:
    import json

    from msgspec.structs import asdict

    return json.dumps(
        {
            "content": response.content,
            "reasoning": response.reasoning,
            "finish_reason": response.finish_reason,
            "stop_sequence": response.stop_sequence,
            "usage": None if response.usage is None else asdict(response.usage),
            "timings": asdict(response.timings),
            "model": response.model,
            "backend": response.backend,
            "context_exhausted": response.context_exhausted,
        }
    )


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
    elif not response.content:
        note("miner: The response is empty.")
