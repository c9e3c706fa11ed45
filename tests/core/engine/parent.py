"""A program that starts an engine and then lives on, for tests that kill it. Run as a script.

Arguments: a way of `bad_child.py`, `real` or `binary:PATH`; what to do besides: `ready`, `loading` or `fork`; a file
that gets the child's process id and its directory, once the point is reached.
"""

import asyncio
import contextlib
import os
import sys
import time

from miner.core.engine.launchers import find_launcher
from miner.core.engine.process import EngineProcess
from tests.core.engine.children import BadLauncher, demo_spec, eventually


def main(way: str, what: str, note: str) -> None:
    if way.startswith("binary:"):
        launcher = find_launcher(way.removeprefix("binary:"))
    else:
        launcher = find_launcher() if way == "real" else BadLauncher(way)
    # With so many threads a load takes long enough to be killed in.
    engine = EngineProcess(demo_spec(threads=400) if what == "loading" else demo_spec(), launcher)
    directory, other = "", ""
    if what == "loading":
        with contextlib.suppress(TimeoutError):
            asyncio.run(asyncio.wait_for(engine.ensure_ready(), 0.1))
        eventually(lambda: (engine.memory or 0) > 100_000_000, "the load has begun")
    else:
        address = asyncio.run(engine.ensure_ready())
        directory = str(address.unix_socket.parent) if address.unix_socket else ""
    if what == "fork":
        copy = os.fork()
        if copy == 0:
            time.sleep(600)
            os._exit(0)
        other = str(copy)
    with open(note + ".new", "w") as file:
        file.write(f"{engine.pid}\n{directory}\n{other}\n{engine.state}")
    os.replace(note + ".new", note)
    if what == "exit":
        return
    if what == "raise":
        raise RuntimeError("the user's own mistake")
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
