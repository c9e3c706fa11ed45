"""`llama-server` for its own tests: `miner serve` with the settings that the options stand for."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.live.llama_server.flags import parse
from tests.live.llama_server.models import model_for

LEAST_BATCH = 32
PADDING = 256
"""llama.cpp rounds the context of a slot up to a multiple of this."""


def settings_of(options: argparse.Namespace, directory: Path) -> dict[str, str]:
    """The environment of the server.

    Args:
        directory: for files that settings name.
    """
    slots = options.parallel or 1
    context = options.ctx_size or 4096
    model = directory / f"{(options.alias or 'demo').split(',')[0]}.gguf"
    model.symlink_to(model_for(options))
    pooling = "rank" if options.reranking else options.pooling or ("last" if options.embedding else None)
    template = Path(options.chat_template_file).absolute() if options.chat_template_file else None
    if options.chat_template:  # the engine knows some by their names
        template = directory / "template.jinja"
        template.write_text(options.chat_template, encoding="utf-8")
    given = {
        "MODEL_PATH": model,
        "LLAMACPP_PARALLEL": slots,
        "LLAMACPP_CTX_SIZE": max(PADDING, context if options.kv_unified else context // slots),
        "LLAMACPP_BATCH_SIZE": options.batch_size and max(LEAST_BATCH, options.batch_size),
        "LLAMACPP_THREADS": 1,
        "LLAMACPP_N_PREDICT": options.n_predict,
        "LLAMACPP_TEMP": options.temp,
        "LLAMACPP_SEED": options.seed,
        "LLAMACPP_POOLING": pooling,
        "LLAMACPP_CHAT_TEMPLATE": Path(options.chat_template_file).absolute()
        if options.chat_template_file
        else template,
        "LLAMACPP_IDLE_TIMEOUT": options.sleep_idle_seconds,
        "LLAMACPP_CACHE_TYPE_K": options.ctk,
        "LLAMACPP_CACHE_TYPE_V": options.ctv,
        "LLAMACPP_FLASH_ATTN": options.fa,
        "MINER_API_KEYS": options.api_key,
        "MINER_SERVE_METRICS": "open" if options.metrics else None,
        "MINER_SERVE_CORS_ORIGINS": options.cors_origins if options.cors_origins != "localhost" else LOCAL_ORIGINS,
    }
    own = {
        "LLM_BACKEND": "llamacpp", "MINER_SERVE_ANY_MODEL_NAME": "true", "XDG_CONFIG_HOME": str(directory),
        "XDG_STATE_HOME": str(directory),
    }  # fmt: skip
    return {**own, **{name: str(value) for name, value in given.items() if value is not None}}


LOCAL_ORIGINS = "http://localhost,http://localhost:*,http://127.0.0.1,http://127.0.0.1:*,http://[::1],http://[::1]:*"


def main() -> None:
    """Become `miner serve`."""
    options = parse(sys.argv[1:])
    directory = Path(tempfile.mkdtemp(prefix="llama-server-", dir=os.environ.get("LLAMA_TESTS_TEMP")))
    command = [sys.executable, "-m", "miner", "serve", "--port", str(options.port)]
    command += ["--host", (options.host or "127.0.0.1").split(",")[0]]
    environment = {**os.environ, **settings_of(options, directory), "PYTHONPATH": str(Path(__file__).parents[3])}
    os.chdir(directory)  # no `.env` of the tester's
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    main()
