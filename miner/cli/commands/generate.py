"""`miner generate`: a model's answer to a prompt, on standard output as it comes."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.cli.backend_choice import chosen_backend
from miner.cli.parser import EXIT_STATUS, number
from miner.cli.prompt import read_prompt
from miner.errors import InvalidRequestError

if TYPE_CHECKING:
    from miner.cli.output.terminal import Output, Status
    from miner.cli.signals import StopSignals
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService
    from miner.core.wire import LLMResponse

__all__ = ["add_parser", "run"]

_EXAMPLES = f"""\
examples:
  miner generate "Why is the sky blue?"
  miner generate --max-tokens 100 --temperature 0 --seed 7 "Name a colour."
  miner generate --system "Answer in one word." "Is water wet?"
  miner generate --stop "." --stop "!" "Tell me about Rome."
  git diff | miner generate --backend vllm "Review this." > review.txt
  miner generate - < prompt.txt
  miner generate --json "Hello" | python -m json.tool

Text that is piped in stands before the prompt (in a loop that reads lines, give
it </dev/null). The answer alone goes to standard output. Notices, such as that
it was cut at --max-tokens, go to standard error; so does what the engine is
doing before its first word, if standard error is a terminal. Ctrl-C stops the
engine at once.

With --json standard output holds one object: content, reasoning, finish_reason,
stop_sequence, usage (null where the engine sends none), timings (seconds),
model, backend, context_exhausted; after a failure error (type, code, message,
hint, exit_code) and content, what had arrived.

{EXIT_STATUS}"""
_CONTEXT_HINTS = {
    "llamacpp": "Shorten the prompt, or raise LLAMACPP_CTX_SIZE.",
    "ollama": "Shorten the prompt, or raise OLLAMA_NUM_CTX.",
    "vllm": "Shorten the prompt, or raise the server's --max-model-len.",
}


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "generate",
        help="print a model's answer to a prompt as it comes",
        description="Print a model's answer to a prompt as it comes.",
        epilog=_EXAMPLES,
        usage="miner generate [options] PROMPT",
    )
    names = ("max_tokens", "temperature", "top_p", "seed", "stop", "model")
    parser.set_defaults(run=run, flags={name: name for name in names})
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads all of it from standard input")
    add = parser.add_argument
    add("--backend", metavar="NAME", help="llamacpp, ollama, vllm or another of `miner backends` (LLM_BACKEND)")
    add("--model", metavar="NAME", help="the model (DEFAULT_MODEL, else the backend's own or only one)")
    add("--max-tokens", metavar="N", type=number, help="tokens to generate at most (DEFAULT_MAX_TOKENS, 512)")
    add("--temperature", metavar="T", type=number, help="0 to 2; 0: always the likeliest (DEFAULT_TEMPERATURE, 0.7)")
    add("--top-p", metavar="P", type=number, help="0 to 1; 0 takes the likeliest token (DEFAULT_TOP_P, 0.95)")
    add("--seed", metavar="N", type=number, help="the same number gives the same answer")
    add("--stop", metavar="TEXT", action="append", help="end before this text; may be given several times")
    add("--system", metavar="TEXT", help="a system message before the prompt")
    add("--json", action="store_true", help="print one JSON object in place of the text")
    add("--no-stream", action="store_true", help="ask for the whole answer and print it when it is there")


def run(args: argparse.Namespace) -> int:
    """Generate, and return the exit status."""
    prompt = read_prompt(args.prompt)
    for name, texts in {"prompt": [prompt], "system": [args.system], "stop": args.stop, "model": [args.model]}.items():
        _check_utf8(name, texts or [])
    from miner.cli.output.errors import note
    from miner.cli.signals import run_until_stopped
    from miner.config.config import MinerConfig
    from miner.config.sources import unknown_variables
    from miner.config.vllm_command import VLLMCommandConfig
    from miner.gateway.settings import GatewaySettings

    config = MinerConfig()
    for line in unknown_variables((MinerConfig, GatewaySettings, VLLMCommandConfig)):
        note(f"miner: {line}")
    return run_until_stopped(lambda signals: _generate(args, prompt, config, signals))


def _check_utf8(name: str, texts: list[str | None]) -> None:
    """Refuse bytes of the command line that are no text: Python hides them in it, and no engine can take them."""
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(f"The {name} is no UTF-8 text.", param=name) from None


async def _generate(args: argparse.Namespace, prompt: str, config: MinerConfig, signals: StopSignals) -> int:
    import logging

    from miner.cli.output.terminal import Notices, Output, Status

    output, status = Output(signals), Status()
    if not getattr(args, "debug", False):
        logging.getLogger().addHandler(Notices(status))
    try:
        async with chosen_backend(args.backend, config) as service:
            status.show(f"waiting for {service.name}")
            response = await _answer(service, prompt, args, output, status)
            status.erase()
            if args.json:
                output.write(_as_json(response))
            output.end_line()
            _tell_how_it_ended(response, args.max_tokens or config.default_max_tokens)
    finally:
        status.erase()
        output.end_line()
    return 0


async def _answer(
    service: LLMService, prompt: str, args: argparse.Namespace, output: Output, status: Status
) -> LLMResponse:
    """The reply, printed as it comes unless the arguments say otherwise."""
    from miner.cli.output.terminal import describe_progress
    from miner.core.llms.contract.join import join
    from miner.core.wire import LLMChunk
    from miner.errors import BackendError, UnsupportedFeatureError

    asked: dict[str, Any] = {
        "model": args.model,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "seed": args.seed,
        "stop": args.stop,
    }
    messages = [{"role": "user", "content": prompt}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    if args.no_stream:
        try:
            response = await service.chat_completion(messages, **asked)
        except UnsupportedFeatureError as error:
            # A model without a chat template takes the prompt as it is, but no messages.
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
    given: dict[str, Any] = {"prompt": prompt} if args.system is None else {"messages": messages}
    if "progress" in service.capabilities:
        given["progress"] = True
    stream = service.stream(**given, **asked)
    arrived: list[list[LLMChunk]] = []
    async with aclosing(stream.batches()) as batches:
        async for batch in batches:
            arrived.append(batch)
            text = "".join(chunk.content for chunk in batch if chunk.content)
            if text and not args.json and not args.no_stream:
                status.erase()
                output.write(text)
            elif batch[-1].progress is not None:
                status.show(describe_progress(batch[-1].progress))
            elif batch[-1].reasoning:
                status.show("thinking")
    response = join(arrived, stream.response)
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


def _tell_how_it_ended(response: LLMResponse, max_tokens: int) -> None:
    """A notice where the answer is not all that the model had to say."""
    from miner.cli.output.errors import note

    if response.context_exhausted:
        hint = _CONTEXT_HINTS.get(response.backend or "", "Shorten the prompt.")
        note(f"miner: The context is full: the answer was cut before max_tokens={max_tokens}.\n  {hint}")
    elif response.finish_reason == "length":
        note(f"miner: The answer was cut at max_tokens={max_tokens}.\n  Raise it with --max-tokens.")
    elif response.finish_reason == "repetition":
        note("miner: The engine ended the answer: the model wrote the same token over and over.")
    elif response.finish_reason == "unknown":
        note("miner: The engine ended the answer for a reason that is not known here; the log has its word.")
    elif response.finish_reason == "content_filter":
        note("miner: The engine's content filter ended the answer.")
    elif not response.content:
        note("miner: The model answered with nothing.")
