"""`llama-server` for its own tests: the engine of the `xllamacpp` wheel with nothing in front of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import xllamacpp

from tests.live.llama_server.flags import parse
from tests.live.llama_server.models import model_for


def main() -> None:
    """Serve until SIGTERM."""
    options = parse(sys.argv[1:])
    params = xllamacpp.CommonParams()
    params.model.path = str(model_for(options))
    params.model_alias = options.alias.split(",") if options.alias else ["demo"]
    params.hostnames = options.host.split(",")
    params.port = options.port
    params.cors_origins = "*"
    params.endpoint_slots, params.endpoint_metrics = options.slots, options.metrics
    params.kv_unified, params.swa_full, params.ctx_shift = options.kv_unified, options.swa_full, options.context_shift
    params.use_jinja = options.jinja
    params.verbosity = 10 if options.verbose else 1
    params.ui = not options.no_ui
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    named = {
        "n_batch": options.batch_size, "n_ubatch": options.ubatch_size, "n_ctx": options.ctx_size,
        "n_parallel": options.parallel, "n_predict": options.n_predict, "slot_save_path": options.slot_save_path,
        "chat_template": options.chat_template, "sleep_idle_seconds": int(options.sleep_idle_seconds or -1),
        "media_path": options.media_path, "cache_ram_mib": options.cache_ram and int(options.cache_ram),
    }  # fmt: skip
    for name, value in named.items():
        if value:
            setattr(params, name, value)
    if options.chat_template_file:
        params.chat_template = Path(options.chat_template_file).read_text(encoding="utf-8")
    if options.tags:
        params.model_tags = options.tags.split(",")
    if options.api_key:
        params.api_keys = [options.api_key]
    params.sampling.temp, params.sampling.seed = options.temp, options.seed
    pooling = "rank" if options.reranking else options.pooling
    if options.embedding or options.reranking:
        params.embedding = True
    if pooling:
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.upper()}")
    if options.reasoning_format:
        formats = {"none": "NONE", "deepseek": "DEEPSEEK"}
        kind = f"COMMON_REASONING_FORMAT_{formats.get(options.reasoning_format, 'AUTO')}"
        params.reasoning_format = getattr(xllamacpp.common_reasoning_format, kind)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
