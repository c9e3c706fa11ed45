"""What a server says of its own load: read from its metrics, which it writes for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"((?:vllm|llamacpp):[a-z_]+)(?:\{(.*)\})? ([-+0-9.eEinfINFaN]+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_MAX_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class LoRALoad:
    """The LoRA adapters of a vLLM server."""

    max_adapters: str
    running: str
    waiting: str
    changed_at: float
    """Seconds since 1970."""


@dataclass(slots=True)
class ServerLoad:
    """The load of one model of a server; None where it does not say."""

    model: str | None = None
    """As the server names it; None: it has one and does not name it here."""
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float | None = None
    """0 to 1."""
    block_size: str | None = None
    num_blocks: str | None = None
    lora: LoRALoad | None = None
    engines: int = field(default=0, repr=False)
    """Engines of a data-parallel server that say how full their cache is: the mean is."""


def read_loads(body: bytes) -> list[ServerLoad]:
    """The loads that the metrics of vLLM or llama.cpp's server tell. Other servers' tell none."""
    loads: dict[str | None, ServerLoad] = {}
    lora: LoRALoad | None = None
    blocks: dict[str, str] = {}
    for name, labels, value in _samples(body):
        if name == "vllm:lora_requests_info":
            if lora is None or value > lora.changed_at:  # each combination of adapters stays as a series of its own
                lora = LoRALoad(
                    labels.get("max_lora", ""), labels.get("running_lora_adapters", ""),
                    labels.get("waiting_lora_adapters", ""), value,
                )  # fmt: skip
            continue
        if name == "vllm:cache_config_info":
            blocks = labels
            continue
        model = labels.get("model_name")
        load = loads.setdefault(model, ServerLoad(model))
        if name in ("vllm:num_requests_running", "llamacpp:requests_processing"):
            load.running += int(value)
        elif name in ("vllm:num_requests_waiting", "llamacpp:requests_deferred"):
            load.waiting += int(value)
        else:
            load.engines += 1
            load.kv_cache_usage = ((load.kv_cache_usage or 0.0) * (load.engines - 1) + value) / load.engines
    for load in loads.values():
        load.lora = lora
        load.block_size, load.num_blocks = blocks.get("block_size"), blocks.get("num_gpu_blocks")
    return list(loads.values())


_WANTED = frozenset(
    """vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:lora_requests_info
    vllm:cache_config_info llamacpp:requests_processing llamacpp:requests_deferred""".split()
)


def _samples(body: bytes) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples that are read here, out of a page of thousands of others."""
    for line in body[:_MAX_BYTES].decode("utf-8", "replace").splitlines():
        if not line.startswith(("vllm:", "llamacpp:")) or re.split(r"[{ ]", line, maxsplit=1)[0] not in _WANTED:
            continue
        found = _SAMPLE.match(line)
        try:
            value = float(found[3]) if found is not None else float("nan")
        except ValueError:
            continue
        if found is not None and value == value and abs(value) != float("inf"):
            labels = {key: _ESCAPED.sub(_unescaped, text) for key, text in _LABEL.findall(found[2] or "")}
            yield found[1], labels, value


def _unescaped(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]
