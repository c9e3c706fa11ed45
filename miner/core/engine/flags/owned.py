"""Options of llama-server that are not for `flags`: those that have a key of their own, and those that are ours."""

from __future__ import annotations

from typing import Final

_ADDRESS = "engines listen on a private socket: the gateway has the address (MINER_SERVE_HOST, MINER_SERVE_PORT)"
_KEYS = "engines have a key of their own: clients have the gateway's (`miner keys`)"
_CLIENTS = "only the gateway is a client of the engine"
_ROUTER = "one engine has one model: use [models.NAME] for more"
_FETCH = "engines fetch nothing: use hub, and `miner models pull`"
_OUTPUT = "the engine's log is read here"
_ENDPOINTS = "it is always on here"
_SLOTS = "the slot of each request is chosen here"
_PRESET = "say what it stands for: file or hub, context, slots"

OWNED: Final[dict[str, str]] = {
    **dict.fromkeys(("host", "port", "reuse-port", "path", "api-prefix", "ssl-key-file", "ssl-cert-file"), _ADDRESS),
    **dict.fromkeys(("api-key", "api-key-file"), _KEYS),
    **dict.fromkeys(
        ("cors-origins", "cors-methods", "cors-headers", "cors-credentials", "ui", "ui-config", "ui-config-file",
         "ui-mcp-proxy", "tools", "tools-runtime", "mcp-servers-config", "mcp-servers-json", "agent", "tags"),
        _CLIENTS,
    ),
    **dict.fromkeys(("models-dir", "models-preset", "models-max", "models-autoload"), _ROUTER),
    **dict.fromkeys(
        ("model-url", "docker-repo", "hf-repo", "hf-file", "hf-token", "mmproj-url", "spec-draft-hf", "offline"), _FETCH
    ),
    **dict.fromkeys(
        ("log-disable", "log-file", "log-jsonl", "log-colors", "log-prefix", "log-timestamps", "log-prompts-dir",
         "verbose", "verbosity", "help", "version", "cache-list", "completion-bash", "list-devices"), _OUTPUT,
    ),
    **dict.fromkeys(("metrics", "slots", "props"), _ENDPOINTS),
    **dict.fromkeys(("slot-prompt-similarity", "cache-idle-slots"), _SLOTS),
    **dict.fromkeys(
        ("embd-gemma-default", "fim-qwen-1.5b-default", "fim-qwen-3b-default", "fim-qwen-7b-default",
         "fim-qwen-7b-spec", "fim-qwen-14b-spec", "fim-qwen-30b-default", "gpt-oss-20b-default",
         "gpt-oss-120b-default", "vision-gemma-4b-default", "vision-gemma-12b-default"), _PRESET,
    ),
    "model": "use file or hub",
    "alias": "use the name of the model's table, and aliases",
    "ctx-size": "use context, the tokens of each slot",
    "fit-ctx": "use context, the tokens of each slot",
    "parallel": "use slots",
    "threads-batch": "use threads",
    "ubatch-size": "use batch_size",
    "slot-save-path": "use [limits] kv_cache",
    "kv-unified": "each slot has the context that it was promised",
    "kv-unified-per-slot": "use context, the tokens of each slot",
    "context-shift": "no prompt is cut without a word: what does not fit is refused",
    "embedding": "use pooling",
    "rerank": 'use pooling = "rank"',
    "sleep-idle-seconds": "use keep_alive",
    "chat-template": "use chat_template, a file",
    "mmproj-auto": "use mmproj: a file, or false",
    "lora-scaled": "use lora = [{ file = FILE, scale = SCALE }]",
    "spec-default": 'use speculation = { type = "ngram-mod" }',
    "temp": "use sampling.temperature", "top-k": "use sampling.top_k", "top-p": "use sampling.top_p",
    "min-p": "use sampling.min_p", "seed": "use sampling.seed", "n-predict": "use sampling.max_tokens",
    "repeat-penalty": "use sampling.repeat_penalty", "presence-penalty": "use sampling.presence_penalty",
    "frequency-penalty": "use sampling.frequency_penalty", "reverse-prompt": "use sampling.stop",
    **dict.fromkeys(
        ("typical-p", "dry-multiplier", "xtc-probability"), "every request sets it: send it with the request"
    ),
    **dict.fromkeys(("grammar", "grammar-file", "json-schema", "json-schema-file"), "send it with the request"),
    **dict.fromkeys(
        ("defrag-thold", "draft", "draft-min", "spec-ngram-size-n", "spec-ngram-size-m", "spec-ngram-min-hits"),
        "llama.cpp has it no more",
    ),
}  # fmt: skip
"""Why an option is not taken as a flag, and what to use; by the option's first name."""

KEYED: Final[dict[str, tuple[str, str]]] = {
    "threads": ("threads", "llamacpp_threads"),
    "batch-size": ("batch_size", "llamacpp_batch_size"),
    "n-gpu-layers": ("n_gpu_layers", "llamacpp_n_gpu_layers"),
    "flash-attn": ("flash_attn", "llamacpp_flash_attn"),
    "cache-type-k": ("cache_type_k", "llamacpp_cache_type_k"),
    "cache-type-v": ("cache_type_v", "llamacpp_cache_type_v"),
    "cache-ram": ("cache_ram", "llamacpp_cache_ram"),
    "pooling": ("pooling", "llamacpp_pooling"),
    "chat-template-file": ("chat_template", "llamacpp_chat_template"),
    "mmproj": ("mmproj", "llamacpp_mmproj"),
    "lora": ("lora", "llamacpp_lora"),
    "cpu-moe": ("cpu_moe", "llamacpp_cpu_moe"),
    "n-cpu-moe": ("n_cpu_moe", "llamacpp_n_cpu_moe"),
    "spec-type": ("speculation.type", "llamacpp_spec_type"),
    "spec-draft-model": ("speculation.file", "llamacpp_spec_draft_model"),
    "spec-draft-n-max": ("speculation.n_max", "llamacpp_spec_draft_n_max"),
    "spec-draft-n-min": ("speculation.n_min", "llamacpp_spec_draft_n_min"),
    "spec-draft-p-min": ("speculation.p_min", "llamacpp_spec_draft_p_min"),
    "spec-draft-ngl": ("speculation.n_gpu_layers", "llamacpp_spec_draft_ngl"),
}
"""Options with a key in `[models.NAME]`, and the field of MinerConfig that it sets."""

OTHER_NAMES: Final[dict[str, str]] = {
    other: first
    for first, others in {
        "model": "m", "alias": "a", "ctx-size": "c", "parallel": "np", "threads": "t", "threads-batch": "tb",
        "batch-size": "b", "ubatch-size": "ub", "n-gpu-layers": "ngl gpu-layers", "flash-attn": "fa",
        "cache-type-k": "ctk", "cache-type-v": "ctv", "cache-ram": "cram", "mmproj": "mm", "cpu-moe": "cmoe",
        "n-cpu-moe": "ncmoe", "spec-draft-model": "md model-draft",
        "spec-draft-p-min": "draft-p-min", "spec-draft-ngl": "ngld gpu-layers-draft n-gpu-layers-draft",
        "model-url": "mu", "docker-repo": "dr", "hf-repo": "hf hfr", "hf-file": "hff", "hf-token": "hft",
        "mmproj-url": "mmu", "spec-draft-hf": "hfd hfrd hf-repo-draft", "verbose": "v log-verbose",
        "verbosity": "lv log-verbosity", "help": "h usage", "cache-list": "cl", "fit-ctx": "fitc",
        "slots": "no-slots", "ui": "webui no-ui no-webui", "ui-config": "webui-config",
        "ui-config-file": "webui-config-file", "ui-mcp-proxy": "webui-mcp-proxy no-ui-mcp-proxy no-webui-mcp-proxy",
        "agent": "ag no-agent no-ag", "cors-credentials": "no-cors-credentials",
        "models-autoload": "no-models-autoload", "kv-unified": "kvu no-kv-unified no-kvu",
        "context-shift": "no-context-shift", "cache-idle-slots": "no-cache-idle-slots",
        "slot-prompt-similarity": "sps", "mmproj-auto": "no-mmproj no-mmproj-auto", "embedding": "embeddings",
        "rerank": "reranking", "temp": "temperature", "seed": "s", "n-predict": "n predict",
        "reverse-prompt": "r", "typical-p": "typical", "json-schema": "j", "json-schema-file": "jf",
        "defrag-thold": "dt", "draft": "draft-n draft-max", "draft-min": "draft-n-min",
        "log-jsonl": "no-log-jsonl", "log-prefix": "no-log-prefix", "log-timestamps": "no-log-timestamps",
    }.items()
    for other in others.split()
}  # fmt: skip
"""Short, older and negative names of the options above."""
