"""What comes of the options of reports: a table, JSON, a page, a comparison, an exit status."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from miner.cli.bench.options import Options
from miner.cli.bench.report.figures import load
from miner.cli.bench.result import Result, read, to_json
from miner.cli.output.errors import complain, note
from miner.cli.output.style import Style, columns
from miner.cli.parser import UsageError
from miner.config.file.problems import hidden
from miner.errors import MinerError

_WORK = ("shared_prefix", "turns", "cancel", "ignore_eos", "burstiness", "temperature", "extra_body")
"""Options that change the work, beside loads and lengths."""
THIS = "this run"
"""What the measurement that was just made is called beside saved ones."""


class Reports:
    """What the options ask for.

    Raises:
        UsageError: a saved result cannot be read, or an option makes no sense. Create it before measuring.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._html: str | None = args.html
        self._names: list[str] = args.compare
        self._json: bool = args.json
        self._bound = _share(args.fail_above)
        if self._bound is not None and not self._names:
            raise UsageError(
                "--fail-above needs a measurement to compare with.", operator_hint="--compare FILE names it."
            )
        if args.show is not None and self._names:
            raise UsageError("--show and --compare exclude each other.", operator_hint="--compare shows both.")
        self.finished = False
        """Whether what was asked for has been printed, or begun."""
        self._shown_name: str | None = args.show
        self.shown = None if args.show is None else read(args.show)
        """The saved result of --show."""
        self._saved = [read(name) for name in self._names]
        if self._html is not None:
            _writable(self._html)

    @property
    def measures(self) -> bool:
        """Whether there is something to measure: not where a saved result is shown, or several are compared."""
        return self.shown is None and len(self._saved) < 2

    def check(self, options: Options) -> None:
        """Compare what is going to be measured with the base, as far as that can be known before.

        Raises:
            UsageError: nothing of it is in the base, or --fail-above could not judge it.
        """
        for name, base in zip(self._names, self._saved, strict=True):
            loads = {(run.concurrency, run.request_rate) for run in base.runs}
            planned = {*((each, None) for each in options.concurrencies), *((None, each) for each in options.rates)}
            if not loads & planned:
                raise UsageError(
                    f"{name} has none of these loads, only {', '.join(dict.fromkeys(map(load, base.runs))) or 'none'}.",
                    operator_hint="Measure with its --concurrency or --request-rate.",
                )
            if self._bound is not None:
                planned_work = {each: getattr(options, each) for each in _WORK}
                planned_work["extra_body"] = hidden(options.extra_body, ())  # as the base has it
                unlike = [
                    f"{each} ({was} there)"
                    for each in _WORK
                    if (was := getattr(base.workload, each)) != planned_work[each]
                ]
                lengths = {(run.prompt_length, run.max_tokens) for run in base.runs}
                if not lengths & set(product(options.prompt_tokens, options.max_tokens)):
                    unlike.append(f"lengths ({_lengths(base)} there)")
                if unlike:
                    raise UsageError(
                        f"--fail-above cannot judge measurements of different work: {', '.join(unlike)}.",
                        operator_hint=f"{name} was made by `{base.command}`.",
                    )

    def finish(self, result: Result | None = None) -> int:
        """Print and write all that was asked for, and return the exit status.

        Args:
            result: what was measured, if anything was, or is shown.

        Raises:
            UsageError: measurements that have nothing in common, or that --fail-above cannot judge.
            MinerError: the page cannot be written.
        """
        from miner.cli.bench.report.compare import compare
        from miner.cli.bench.report.comparison_text import comparison_text
        from miner.cli.bench.report.table import table

        self.finished = True
        results = [*self._saved, *([result] if result is not None else [])]
        names = [*self._names, *([self._shown_name or THIS] if result is not None else [])]
        style, width = Style(sys.stdout), columns(sys.stdout)
        if result is not None and not self._json:
            if width is not None:
                print()  # between the lines of the progress and the table
            print(table(result, style, width), flush=True)
        if self._html is not None:
            from miner.cli.bench.report.html.page import page

            _write(self._html, page(results, names))
            note(f"miner: the page with the plots is in {self._html}")
        if len(results) == 1 and self._saved == []:
            if self._json:
                print(to_json(results[0]).decode(), end="")
            return 0
        comparisons = [
            compare(results[0], other, names=(names[0], name))
            for other, name in zip(results[1:], names[1:], strict=True)
        ]
        found = [] if self._bound is None else [each.above(self._bound) for each in comparisons]
        if self._json:
            _print_json(result, comparisons, self._bound, found)
        else:
            if result is not None:
                print()
            texts = [comparison_text(each, style, width, new_notes=result is None) for each in comparisons]
            print("\n\n".join(texts), flush=True)
        return self._judge(comparisons, found)

    def _judge(self, comparisons: Sequence[Any], found: Sequence[Any]) -> int:
        from miner.cli.bench.report.comparison_text import above_text

        if self._bound is None:
            return 0
        for each in comparisons:
            if not each.alike:
                what = ", ".join(one.what for one in each.differences if one.workload)
                raise UsageError(
                    f"--fail-above cannot judge measurements of different work: {what}.",
                    operator_hint="Measure with the options of the base; its `command` is in the file.",
                )
        worse = [each for each in found if each]
        for each in worse:
            complain(f"miner: {above_text(each, self._bound)}")
        return 1 if worse else 0


def _lengths(base: Result) -> str:
    prompts, responses = (", ".join(map(str, each)) for each in (base.workload.prompt_tokens, base.workload.max_tokens))
    return f"prompts of {prompts} and responses of {responses} tokens"


def _print_json(result: Result | None, comparisons: Sequence[Any], bound: float | None, found: Sequence[Any]) -> None:
    value: dict[str, Any] = {} if result is None else json.loads(to_json(result))
    value["comparisons"] = msgspec.to_builtins(comparisons)
    if bound is not None:
        value["fail_above"] = bound
        value["regressions"] = [each for one in found for each in msgspec.to_builtins(one)]
    print(json.dumps(_finite(value), indent=2))


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if abs(value) != float("inf") else None
    return value


def _share(text: str | None) -> float | None:
    """`10%` or `10` as a share."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", text.strip())
    if found is None:
        raise UsageError(f"--fail-above {text}: must be a percentage, such as 10%.")
    return float(found.group(1)) / 100


def _writable(name: str) -> None:
    """Fail before the measuring where the page could not be written after it."""
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"--html {name}: is a directory.", operator_hint="Name a file, such as bench.html.")
    if not path.parent.is_dir():
        raise UsageError(f"--html {name}: there is no directory {path.parent}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"--html {name}: cannot be written there.")


def _write(name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MinerError(f"--html {name} cannot be written: {error.strerror}.") from error
