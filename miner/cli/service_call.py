"""One call of a command to its backend or server, with a status line meanwhile; Ctrl-C ends it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from miner.cli.output.errors import report_interrupted
from miner.cli.verbosity import logs_shown
from miner.errors import MinerError, UnsupportedFeatureError

if TYPE_CHECKING:
    from miner.cli.signals import StopSignals
    from miner.config.config import MinerConfig
    from miner.core.llms import LLMService

_MODELS = 8
"""Models that a hint names."""


def call_service(
    args: argparse.Namespace,
    config: MinerConfig,
    call: Callable[[LLMService], Awaitable[Callable[[], None]]],
    *,
    capability: str | None = None,
    example: str = "",
) -> int:
    """Run a call, then what it returned, which prints its result; return the exit status.

    Args:
        config: of `target_config`, which reads the key of --key - before the command reads standard input.
        capability: what a model needs for it: if that of the command lacks it, the error says which models have it.
        example: a model to get, where none has it.
    """
    from miner.cli.signals import run_until_stopped

    async def main(signals: StopSignals) -> int:
        import logging

        from miner.cli.output.terminal import Notices, Status
        from miner.cli.target import open_target

        status = Status()
        if not logs_shown():
            logging.getLogger().addHandler(Notices(status))
        try:
            async with open_target(args, config) as service:
                status.show(f"waiting for {service.name}")
                try:
                    show = await call(service)
                except UnsupportedFeatureError as error:
                    if capability is not None:
                        await _name_models(error, service, args, capability, example)
                    raise
                status.erase()
                show()
        finally:
            status.erase()
        return 0

    return run_until_stopped(main, on_stopped=report_interrupted if args.json else None)


async def _name_models(
    error: UnsupportedFeatureError, service: LLMService, args: argparse.Namespace, capability: str, example: str
) -> None:
    """Say which models can do it, or how to get one."""
    try:
        able = [info.id for info in await service.list_models() if capability in (info.capabilities or ())]
    except MinerError:
        return  # what it lacks is in the error already
    if able:
        more = f" and {len(able) - _MODELS} more" if len(able) > _MODELS else ""
        error.operator_hint = f"These can: {', '.join(able[:_MODELS])}{more}. Name one: -m {able[0]}"
    elif args.url is None and service.name in ("llamacpp", "pool"):
        error.operator_hint = f"No model here can. Get one: miner pull {example}"
