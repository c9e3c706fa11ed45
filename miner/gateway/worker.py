"""One worker of a gateway with several: `python -m miner.gateway.worker`, started by `workers.supervise`."""

from __future__ import annotations

import socket
import sys

import msgspec

from miner.cli.report import report
from miner.errors import MinerError
from miner.gateway.server import run_worker
from miner.gateway.shared import SharedCounters
from miner.gateway.workers import WorkerOrder

__all__ = ["main"]


def main() -> int:
    """Read the order, serve, and return the exit status."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerOrder)
    sockets = [socket.socket(fileno=fd) for fd in order.sockets]
    counters = SharedCounters.attach(order.counters, order.workers, order.index)
    try:
        return run_worker(order.plan, sockets, counters)
    except MinerError as error:
        return report(error)


if __name__ == "__main__":
    raise SystemExit(main())
