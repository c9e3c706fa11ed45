"""llama.cpp's server from the wheel, started without miner.

    python bench/bare_engine.py '{"n_ctx": 4096, ...}' [SOCKET]     prints its address, serves until standard input ends

The values are attributes of `xllamacpp.CommonParams`: the same that miner's engine process gets.
"""

from __future__ import annotations

import json
import sys

import xllamacpp


def main() -> None:
    parameters = xllamacpp.CommonParams()
    for path, value in json.loads(sys.argv[1]).items():
        *parents, name = path.split(".")
        target = parameters
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)
    if len(sys.argv) > 2:
        parameters.hostnames = [sys.argv[2]]
    else:
        parameters.hostnames = ["127.0.0.1"]
        parameters.port = 0
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
