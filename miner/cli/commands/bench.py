"""`miner bench`: measure what a backend or a server does under load."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from miner.cli.bench.report.options import add_report_options
from miner.cli.parser import EXIT_STATUS, UsageError, add_json_option, add_target_options

if TYPE_CHECKING:
    from miner.cli.bench.options import Options

_EPILOG = f"""\
examples:
  miner bench
  miner bench --url http://gpu:8000 -m NAME --concurrency 1,4,16
  miner bench --url http://gpu:8000 --request-rate 0.5,1,2 --duration 60
  miner bench --prompt-tokens 128,1024 --max-tokens 16,128 --output run.json
  miner bench --turns 5 --shared-prefix 512 --objective ttft=1,tpot=0.05
  miner bench --concurrency 1,4,16 --html speed.html
  miner bench --show run.json --html speed.html
  miner bench --compare before.json after.json --html both.html
  miner bench --compare before.json --fail-above 10%

Prompts are random words, all different. Figures have the names and definitions
of `vllm bench serve`, in seconds: ttft (to the first token), tpot (for each
token after it), itl (between two chunks), e2e (to the last token),
tokens_per_second (of one request). Failed requests are counted by their errors
and are in no latency. Ctrl-C ends the measurement and prints what there is.

{EXIT_STATUS}"""

T = TypeVar("T", int, float)


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Measure what a backend or a server does under load.", epilog=_EPILOG,
        usage="miner bench [options]",
    )  # fmt: skip
    parser.set_defaults(run=run, flags={"model": "model", "config": "config"})
    add_target_options(parser)
    option = parser.add_argument
    option("--endpoint", choices=("chat", "completions", "embeddings"), default="chat", help="route (chat)")
    option("--concurrency", metavar="N,...", help="requests in flight, a run for each (1,4)")
    option("--request-rate", metavar="R,...", help="instead: requests a second, at random times (Poisson)")
    option("--burstiness", metavar="B", default="1", help="of these times: below 1 burstier, above steadier (1)")
    option("--requests", metavar="N", help="of each run (4 for each of --concurrency, at least 8)")
    option("--duration", metavar="SECONDS", help="send requests for so long instead")
    option("--rounds", metavar="N", default="1", help="measure all runs so often (1)")
    option("--warmup", metavar="N", help="uncounted requests before each run (1)")
    option("--prompt-tokens", metavar="N,...", default="256", help="length of prompts, a run for each (256)")
    option("--max-tokens", metavar="N,...", default="128", help="length of responses, a run for each (128)")
    option("--ignore-eos", action="store_true", help="end no response earlier (vLLM, llama.cpp)")
    option("--shared-prefix", metavar="N", default="0", help="tokens before all prompts that are the same")
    option("--turns", metavar="N", default="1", help="requests of a conversation, with results of tools (1)")
    option("--cancel", metavar="SHARE", default="0", help="cancel this share of the requests, 0 to 1")
    option("--temperature", metavar="T", help="of sampling; else the target's default")
    option("--extra-body", metavar="JSON", help="other fields of each request, as the engine names them")
    option("--seed", metavar="N", help="for the same prompts again (random)")
    option("--timeout", metavar="SECONDS", help="a request fails after so long without a byte (300)")
    option("--objective", metavar="NAME=S,...", help="limits of ttft, tpot, e2e: how many met them (goodput)")
    option("--output", metavar="FILE", help="write the result as JSON")
    add_json_option(parser)
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, or show or compare what was measured before; return the exit status."""
    from miner.cli.bench.measurement import measure
    from miner.cli.bench.report.reports import Reports
    from miner.cli.output.errors import report_interrupted
    from miner.cli.signals import run_until_stopped

    options = _options(args)
    reports = Reports(args)
    if not reports.measures:
        return reports.finish(reports.shown)
    reports.check(options)

    def print_interrupted(number: int) -> None:
        if args.json and not reports.finished:
            report_interrupted(number)

    return run_until_stopped(lambda _: measure(args, options, reports), on_stopped=print_interrupted, uvloop=True)


_CONNECTIONS = 65_535
"""A client has no more ports at one address."""
_REQUESTS = 10_000_000
"""What is known of each is in memory until the end."""
_TOKENS = 10_000_000
"""Of a prompt: no model has so long a context."""


def _options(args: argparse.Namespace) -> Options:
    """The options, checked.

    Raises:
        UsageError: one of them is invalid, or two exclude each other.
    """
    import secrets

    from miner.cli.bench.objective import parse_objective
    from miner.cli.bench.options import Options

    if args.concurrency is not None and args.request_rate is not None:
        raise UsageError(
            "--concurrency and --request-rate exclude each other.",
            operator_hint="A concurrency keeps so many requests in flight; a rate sends them however many are.",
        )
    if args.requests is not None and args.duration is not None:
        raise UsageError("--requests and --duration exclude each other.")
    if args.endpoint == "embeddings" and (args.turns != "1" or args.cancel != "0"):
        raise UsageError("--turns and --cancel are for --endpoint chat or completions.")
    options = Options(
        endpoint=args.endpoint,
        concurrencies=[]
        if args.request_rate is not None
        else _list(args, "concurrency", int, 1, _CONNECTIONS) or [1, 4],
        rates=_list(args, "request_rate", float, 0.0),
        burstiness=_number(args, "burstiness", float, 0.0),
        requests=None if args.requests is None else _number(args, "requests", int, 1, _REQUESTS),
        duration=None if args.duration is None else _number(args, "duration", float, 0.0),
        rounds=_number(args, "rounds", int, 1, _REQUESTS),
        warmup=1 if args.warmup is None else _number(args, "warmup", int, 0, _REQUESTS),
        prompt_tokens=_list(args, "prompt_tokens", int, 1, _TOKENS),
        max_tokens=_list(args, "max_tokens", int, 1),
        ignore_eos=args.ignore_eos,
        shared_prefix=_number(args, "shared_prefix", int, 0, _TOKENS),
        turns=_number(args, "turns", int, 1, _REQUESTS),
        cancel=_number(args, "cancel", float, 0.0, 1.0, inclusive=True),
        temperature=None if args.temperature is None else _number(args, "temperature", float, 0.0, 2.0, inclusive=True),
        extra_body={} if args.extra_body is None else _object(args.extra_body),
        seed=secrets.randbelow(1_000_000) if args.seed is None else _number(args, "seed", int, 0),
        timeout=None if args.timeout is None else _number(args, "timeout", float, 0.0),
        objective=None if args.objective is None else parse_objective(args.objective),
    )
    most = max(options.rates, default=0.0) * (options.duration or 0.0)
    if most > _REQUESTS:
        raise UsageError(
            f"--request-rate {max(options.rates):g} for --duration {options.duration:g} is {most:g} requests: "
            f"{_REQUESTS} are the most."
        )
    return options


def _object(text: str) -> dict[str, Any]:
    """The JSON object of --extra-body.

    Raises:
        UsageError: it is none.
    """
    from miner.cli.json_value import loads

    try:
        found = loads(text)
    except ValueError as error:
        raise UsageError(f"--extra-body {text}: is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise UsageError(f"--extra-body {text}: must be a JSON object.", operator_hint='Such as {"top_k": 1}.')
    return found


def _list(args: argparse.Namespace, name: str, kind: Callable[[str], T], least: T, most: T | None = None) -> list[T]:
    """A list of numbers, without repetitions."""
    text = getattr(args, name)
    if text is None:
        return []
    parts = [part for part in map(str.strip, text.split(",")) if part]
    if not parts:
        raise UsageError(f"--{name.replace('_', '-')} {text!r}: needs a number, or several with commas.")
    return list(dict.fromkeys(_parsed(name, part, kind, least, most) for part in parts))


def _number(
    args: argparse.Namespace, name: str, kind: Callable[[str], T], least: T, most: T | None = None, *,
    inclusive: bool = False,
) -> T:  # fmt: skip
    return _parsed(name, str(getattr(args, name)).strip(), kind, least, most, inclusive=inclusive)


def _parsed(
    name: str, text: str, kind: Callable[[str], T], least: T, most: T | None = None, *, inclusive: bool = False
) -> T:
    """A number of at least `least` and at most `most`; a float is above `least`, unless it is inclusive.

    Raises:
        UsageError: it is none.
    """
    flag = f"--{name.replace('_', '-')}"
    above = kind is float and not inclusive
    wanted = f"{'a number' if kind is float else 'an integer'} {'above' if above else 'of at least'} {least:g}"
    if most is not None:
        wanted = f"{'a number' if kind is float else 'an integer'} from {least:g} to {most:.10g}"
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{flag} {text}: must be {wanted}.") from None
    finite = kind is int or math.isfinite(value)
    if not finite or value < least or (above and value == least) or (most is not None and value > most):
        raise UsageError(f"{flag} {text}: must be {wanted}.")
    return value
