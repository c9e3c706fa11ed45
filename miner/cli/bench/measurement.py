"""A whole measurement: prepare, run, report."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from miner.cli.bench.engine_name import engine_name, service_engine
from miner.cli.bench.hiding import command_line
from miner.cli.bench.machine import this_machine
from miner.cli.bench.notes import notes
from miner.cli.bench.options import Options
from miner.cli.bench.plan import PlannedRun, planned_runs
from miner.cli.bench.preparation import find_scale, has_tools, is_free
from miner.cli.bench.progress import Progress
from miner.cli.bench.report.live import shown
from miner.cli.bench.report.reports import Reports
from miner.cli.bench.result import Result, Run, Target, Workload, hide_secrets, to_json
from miner.cli.bench.runner import Runner, Shape, Stopped
from miner.cli.bench.sender import Sampling, Sender
from miner.cli.output.errors import note, report
from miner.cli.parser import UsageError
from miner.cli.target import open_target, target_config
from miner.cli.typed_options import as_typed
from miner.config.secrets import secret_text
from miner.core.counted import counted
from miner.errors import AuthenticationError, BackendUnavailableError, MinerError, ModelNotFoundError

if TYPE_CHECKING:
    from miner.config.config import MinerConfig


class OpenedTarget(Struct):
    """A target that can be sent to."""

    target: Target
    sender: Sender


class NothingMeasuredError(MinerError):
    """Every request failed; exit status 1."""

    code = "nothing_measured"


async def measure(args: argparse.Namespace, options: Options, reports: Reports) -> int:
    """Measure and report; return the exit status."""
    config = target_config(args)
    if args.output is not None:
        _check_writable(args.output)
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    machine = await asyncio.to_thread(this_machine)
    planned = planned_runs(
        concurrencies=options.concurrencies, rates=options.rates, prompt_tokens=options.prompt_tokens,
        max_tokens=options.max_tokens, requests=options.requests, duration=options.duration, rounds=options.rounds,
    )  # fmt: skip
    with shown(len(planned)) as progress:
        async with opened(args, config, options, progress) as found:
            shape, workload, first_notes = await _prepare(found, options)
            runner = Runner(found.sender, shape, progress, options.objective)
            runs, stopped = await _run_all(runner, planned)
            free = None
            if runner.observed.cancelled and not stopped:
                free = await is_free(found.sender, options.endpoint, options.seed)
    result = Result(
        created=created,
        command=command_line(sys.argv),
        target=found.target,
        machine=machine,
        workload=workload,
        objective=options.objective,
        runs=runs,
        notes=first_notes + notes(runner.observed, runs, workload, free=free),
    )
    hide_secrets(result, secret_text(config.openai_api_key))
    _write(args, result)
    status = reports.finish(result)
    if stopped:
        raise asyncio.CancelledError  # the exit status is that of the signal
    problem = _nothing_measured(result.runs)
    return report(problem) if problem is not None else status


async def _run_all(runner: Runner, planned: list[PlannedRun]) -> tuple[list[Run], bool]:
    """The runs, and whether they were stopped before the end."""
    runs: list[Run] = []
    try:
        for each in planned:
            await runner.warm_up(each)
            runs.append(await runner.measure(each))
    except Stopped as stop:
        if stop.run is not None:
            runs.append(stop.run)
        return runs, True
    except asyncio.CancelledError:  # while it warmed up
        return runs, True
    return runs, False


async def _prepare(found: OpenedTarget, options: Options) -> tuple[Shape, Workload, list[str]]:
    scale, counted_by, problem = await find_scale(found.sender, options.endpoint, options.seed)
    said = []
    if problem is not None:
        said.append(f"Prompt lengths are estimates, one word for a token: {problem.rstrip('.')}.")
    tools = True
    if options.turns > 1 and options.endpoint == "chat":
        tools = await has_tools(found.sender, options.seed)
        if not tools:
            said.append("The model's template refuses results of tools: in conversations the user sends them.")
    shape = Shape(
        endpoint=options.endpoint, seed=options.seed, scale=scale, counted=counted_by == "tokenizer",
        shared_prefix=options.shared_prefix, turns=options.turns, tools=tools, cancel=options.cancel,
        burstiness=options.burstiness, warmup=options.warmup,
    )  # fmt: skip
    workload = Workload(
        prompt_tokens=options.prompt_tokens, max_tokens=options.max_tokens, shared_prefix=options.shared_prefix,
        turns=options.turns, cancel=options.cancel, seed=options.seed, ignore_eos=options.ignore_eos,
        warmup=options.warmup, requests=options.requests, duration=options.duration, burstiness=options.burstiness,
        temperature=options.temperature, extra_body=options.extra_body, tokens_counted_by=counted_by,
    )  # fmt: skip
    return shape, workload, said


@asynccontextmanager
async def opened(
    args: argparse.Namespace, config: MinerConfig, options: Options, progress: Progress
) -> AsyncIterator[OpenedTarget]:
    """The target of the options, closed afterwards. Nothing is retried: a failure is what is measured."""
    update: dict[str, float] = {"max_retries": 0}
    if options.timeout is not None:
        update |= {f"{name}_timeout": options.timeout for name in ("openai", "vllm", "ollama", "llamacpp")}
    config = config.model_copy(update=update)
    sampling = Sampling(
        temperature=options.temperature, ignore_eos=options.ignore_eos, extra=options.extra_body
    )  # fmt: skip
    note("miner: preparing: the model, and how it counts tokens ...")
    async with open_target(args, config) as service:
        model: str | None = args.model
        try:
            info = await service.resolve_model(model)
            model = info.id if info is not None else model
        except (ModelNotFoundError, AuthenticationError):
            raise
        except MinerError as error:
            if args.url is None or model is None or (isinstance(error, BackendUnavailableError) and not error.status):
                raise
        if args.url is None:
            from miner.cli.bench.service_sender import ServiceSender

            sender: Sender = ServiceSender(service, model, options.endpoint, sampling, progress.tokens)
            backend = service.backend_of(model)
            engine = await service_engine(backend)
            target = Target(backend=backend.name, endpoint=options.endpoint, model=model, engine=engine)
            yield OpenedTarget(target, sender)
            return
        from miner.cli.bench.wire_sender import WireSender, wire_client

        http = wire_client(config)
        try:
            target = Target(
                url=http.upstream.shown_url, backend="openai", endpoint=options.endpoint, model=model,
                engine=await engine_name(http, model),
            )  # fmt: skip
            yield OpenedTarget(target, WireSender(http, model, options.endpoint, sampling, progress.tokens))
        finally:
            await http.close()


def _check_writable(name: str) -> None:
    """Fail before the measuring where the result could not be written after it.

    Raises:
        UsageError: it could not.
    """
    path = Path(name)
    problem = None
    if path.is_dir():
        problem = "is a directory"
    elif not path.parent.is_dir():
        problem = f"there is no directory {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = "cannot be written there"
    if problem is not None:
        raise UsageError(f"--output {name}: {problem}.", operator_hint="Name a file, such as bench.json.")


def _write(args: argparse.Namespace, result: Result) -> None:
    """Write the result where the options want it."""
    if args.output is None:
        return
    try:
        Path(args.output).write_bytes(to_json(result))
    except OSError as error:
        option = as_typed("--output", args.typed)
        note(f"miner: {option} {args.output} cannot be written: {error.strerror}.")
    else:
        note(f"miner: the result is in {args.output}")


def _nothing_measured(runs: list[Run]) -> MinerError | None:
    """The error of a measurement in which nothing succeeded."""
    if any(run.completed or run.cancelled for run in runs):
        return None
    counts: dict[str, int] = {}
    for run in runs:
        for code, count in run.errors.items():
            counts[code] = counts.get(code, 0) + count
    if not counts:
        return NothingMeasuredError("No request was sent.", operator_hint="Raise --duration.")
    worst = max(counts, key=lambda code: counts[code])
    why = next(run.error_examples[worst] for run in runs if worst in run.error_examples)
    total = sum(counts.values())
    some = "" if len(counts) == 1 else f"{counts[worst]} of them "
    return NothingMeasuredError(
        f"{'All ' if total > 1 else ''}{counted(total, 'request')} failed, {some}with {worst}: {why}"
    )
