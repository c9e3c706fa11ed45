"""Cost of resolving a model name and of listing the models, by the size of the models directory.

    python bench/catalog.py [--models 500] [--requests 300]

The files are small and real headers. CPU is that of the process, all threads included; nothing is loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


async def look_up(directory: Path, requests: int) -> dict[str, float]:
    """CPU milliseconds of a lookup, and milliseconds of a list, cold and warm."""
    from miner.config.config import MinerConfig
    from miner.core.llms.llm_llamacpp import LlamaCppService

    async with LlamaCppService(MinerConfig(models_dir=str(directory), llamacpp_parallel=1)) as service:
        began = time.perf_counter()
        await service.list_models()
        cold = time.perf_counter() - began
        for _ in range(20):
            await service.resolve_model("m0000")
        cpu = time.process_time()
        for _ in range(requests):
            await service.resolve_model("m0000")
        each = (time.process_time() - cpu) / requests
        warm = []
        for _ in range(10):
            began = time.perf_counter()
            await service.list_models()
            warm.append(time.perf_counter() - began)
    return {"request, CPU ms": each * 1e3, "list, cold ms": cold * 1e3, "list, warm ms": statistics.median(warm) * 1e3}


def main() -> None:
    """Print a table of two columns of numbers."""
    from tests.core.models.conftest import make_gguf

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    rows = {}
    for count in (1, args.models):
        with tempfile.TemporaryDirectory() as directory:
            for number in range(count):
                (Path(directory) / f"m{number:04}.gguf").write_bytes(make_gguf())
            rows[count] = asyncio.run(look_up(Path(directory), args.requests))
    print(f"{'models':18}" + "".join(f"{count:>10}" for count in rows))
    for name in rows[1]:
        print(f"{name:18}" + "".join(f"{found[name]:>10.2f}" for found in rows.values()))


if __name__ == "__main__":
    main()
