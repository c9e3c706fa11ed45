"""Progress reports of a concurrent task: a load, a wait in the queue, a download."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

Report = TypeVar("Report")


async def reports_until_done(work: asyncio.Future[Any], reports: asyncio.Queue[Report]) -> AsyncGenerator[Report, None]:
    """Yield the items of the queue until the work is done. Closing this early cancels the work and waits for it."""
    try:
        while True:
            report = asyncio.ensure_future(reports.get())
            try:
                await asyncio.wait({work, report}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                report.cancel()
            if report.done() and not report.cancelled():
                yield report.result()
            elif work.done():
                return
    finally:
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
