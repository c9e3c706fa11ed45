"""`miner doctor`: find what is wrong on this machine or with a running node, and the line that fixes it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from miner.cli.parser import UsageError, add_json_option, add_target_options, number

if TYPE_CHECKING:
    from miner.cli.doctor.facts import Options

_EPILOG = """\
examples:
  miner doctor
  miner doctor -v
  miner doctor --no-probe --json
  miner doctor --backend ollama --model llama3.2
  miner doctor --url http://node.example:8088 --key - < key.txt

Looks at settings, miner.toml, backends, engines, models, memory, GPUs, who can
reach what, keys, disk, clock, proxies and limits, all at once. Of what is wrong
it shows the line that fixes it; -v shows what was seen of all.

The probe generates three tokens: plainly, with tools, and with a JSON Schema.
llama.cpp's model is loaded for that and unloaded again; --no-probe loads none.

exit status:
  0    nothing is wrong (notes do not count; with --strict they do)
  1    there are problems
  2    invalid usage
  130  interrupted by Ctrl-C
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Find what is wrong here or with a running node, and the line that fixes it.",
        epilog=_EPILOG,
        usage="miner doctor [options]",
    )
    parser.set_defaults(run=run, own_log=True)
    add_target_options(parser)
    parser.add_argument("--no-probe", action="store_true", help="generate nothing, load no model")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=number,
        default=120,
        help="of each probe, its load included, and of imports (120)",
    )
    parser.add_argument("--strict", action="store_true", help="notes count for the exit status, too")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run all checks and print what they found; return the exit status."""
    from miner.cli.doctor.checklist import checks_for
    from miner.cli.doctor.facts import gathered
    from miner.cli.doctor.report import Report
    from miner.cli.doctor.runner import run_checks
    from miner.cli.doctor.screen import Pending, print_report

    options = _options(args)
    debug = getattr(args, "debug", False)
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(levelname)s: %(message)s")
    else:
        # What the library would warn about is a row of the report.
        logging.getLogger().addHandler(logging.NullHandler())
    pending = Pending()
    with gathered(options) as facts:
        try:
            done = run_checks(checks_for(facts), facts, pending.show)
        finally:
            pending.erase()
    report = Report.of(done, facts.redact, strict=args.strict)
    if args.json:
        from miner.cli.output.tables import print_json

        print_json(report.as_json())
    else:
        verbose = bool(getattr(args, "verbose", 0)) or debug
        print_report(report, sys.stdout, all_values=verbose, quiet=bool(getattr(args, "quiet", False)))
    return report.exit_status


def _options(args: argparse.Namespace) -> Options:
    from miner.cli.doctor.facts import Options
    from miner.cli.target import api_base, read_key

    if args.config and args.backend:
        raise UsageError("--config and --backend exclude each other.", operator_hint="The file says which backends.")
    if args.url is not None and (args.config or args.backend):
        raise UsageError("--url excludes --config and --backend.", operator_hint="The node at --url decides.")
    if args.key is not None and args.url is None:
        raise UsageError("--key is for --url.", operator_hint="Keys of backends are settings, such as VLLM_API_KEY.")
    if not isinstance(args.timeout, int | float) or not 0 < args.timeout <= 86400:
        raise UsageError(f"--timeout {args.timeout}: must be a number of seconds above 0, such as 60.")
    if args.url is not None:
        api_base(args.url)
    return Options(
        url=args.url, key=read_key(args.key), config=args.config, backend=args.backend, model=args.model,
        probe=not args.no_probe, seconds=float(args.timeout),
    )  # fmt: skip
