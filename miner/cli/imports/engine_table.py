"""What becomes of single options of llama-server."""

from __future__ import annotations

import math

BY_MINER = frozenset({
    "host", "port", "reuse-port", "api-key", "api-key-file", "ssl-key-file", "ssl-cert-file", "api-prefix", "webui",
    "metrics", "props", "slots", "jinja", "cont-batching", "log-disable", "log-file", "log-jsonl", "log-colors",
    "log-verbose", "log-verbosity", "log-prefix", "log-timestamps", "offline", "timeout", "threads-http",
    "sse-ping-interval", "models-dir", "models-preset", "models-max", "models-autoload", "hf-token", "embeddings",
    "kv-unified", "mmproj-auto", "context-shift", "perf", "threads-batch", "cache-idle-slots", "fit", "fit-ctx",
    "slot-prompt-similarity",
})  # fmt: skip
"""Options that this program sets itself, or has its own settings for."""
LOST = {
    "path": "no files are served", "ui-config": "the web page of llama-server is not served",
    "webui-config": "the web page of llama-server is not served",
    "webui-config-file": "the web page of llama-server is not served",
    "webui-mcp-proxy": "the web page of llama-server is not served",
    "tools": "no tools run in the server", "tools-runtime": "no tools run in the server",
    "agent": "no tools run in the server", "mcp-servers-config": "no tools run in the server",
    "mcp-servers-json": "no tools run in the server",
    "cors-origins": "set MINER_CORS_ORIGINS", "cors-methods": "set MINER_CORS_ORIGINS",
    "cors-headers": "set MINER_CORS_ORIGINS", "cors-credentials": "set MINER_CORS_ORIGINS",
    "slot-save-path": "prompts of evicted engines are kept by themselves ([limits] kv_cache)",
    "media-path": "clients cannot name files of this machine", "log-prompts-dir": "prompts are not logged",
    "defrag-thold": "llama.cpp has it no more", "ctx-size-draft": "the draft model has the model's context",
    "tags": "models have no tags", "sleep-idle-seconds": "set keep_alive",
}  # fmt: skip
SAMPLING: dict[str, tuple[str, type, float, float]] = {
    "temperature": ("temperature", float, 0, 2),
    "top-p": ("top_p", float, 0, 1),
    "top-k": ("top_k", int, 0, math.inf),
    "min-p": ("min_p", float, 0, 1),
    "seed": ("seed", int, 0, 2**32 - 1),
    "repeat-penalty": ("repeat_penalty", float, 0.000001, 2),
    "presence-penalty": ("presence_penalty", float, -2, 2),
    "frequency-penalty": ("frequency_penalty", float, -2, 2),
    "n-predict": ("max_tokens", int, 1, math.inf),
}
REPEATED = frozenset({
    "override-kv", "override-tensor", "control-vector", "control-vector-scaled", "dry-sequence-breaker",
    "logit-bias", "reverse-prompt", "override-tensor-draft",
})  # fmt: skip
DRAFT = {
    "model-draft": "file", "hf-repo-draft": "hub", "spec-type": "type", "spec-draft-n-max": "n_max",
    "draft-max": "n_max",
    "spec-draft-n-min": "n_min", "draft-n-min": "n_min", "draft-p-min": "p_min", "n-gpu-layers-draft": "n_gpu_layers",
}  # fmt: skip
