#!/usr/bin/env python3
"""Stands in for a `llama-server` binary: takes its flags, and runs llama.cpp's server from the xllamacpp package.

What it cannot map it refuses, as the binary does: `error: invalid argument: --x`. What it was given, it writes as JSON
to the file that `$GGML_TEST_ARGUMENTS` names. (The test that makes the executable puts the right interpreter above.)
"""

import argparse
import json
import os
import signal
import sys
import threading

HELP = """usage: llama-server [options]
-m,    --model FNAME                    model path to load
-a,    --alias STRING                   set model name aliases, comma-separated
-c,    --ctx-size N                     size of the prompt context
-np,   --parallel N                     number of server slots
-b,    --batch-size N                   logical maximum batch size
-ub,   --ubatch-size N                  physical maximum batch size
-t,    --threads N                      number of CPU threads to use during generation
-tb,   --threads-batch N                number of threads to use during batch and prompt processing
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
-ctk,  --cache-type-k TYPE              KV cache data type for K
-ctv,  --cache-type-v TYPE              KV cache data type for V
--host HOST                             ip address to listen{unix}
--port PORT                             port to listen
--api-key-file FNAME                    path to file containing API keys
--embedding, --embeddings               restrict to only support embedding use case
--pooling {{none,mean,cls,last,rank}}   pooling type for embeddings
--rerank, --reranking                   enable reranking endpoint on server
--mmproj FILE                           path to a multimodal projector file
--chat-template-file FILE               set custom jinja chat template file
--metrics                               enable prometheus compatible metrics endpoint
--slots, --no-slots                     expose slots monitoring endpoint
--jinja, --no-jinja                     whether to use jinja template engine for chat
{new}"""
NEW = """--ui, --webui, --no-ui, --no-webui   whether to enable the Web UI
-kvu, --kv-unified, -no-kvu, --no-kv-unified  use single unified KV buffer
--kv-unified-per-slot N                 context limit per parallel slot
--context-shift, --no-context-shift     whether to use context shift
-cram, --cache-ram N                    set the maximum cache size in MiB
-lv, --verbosity, --log-verbosity N     Set the verbosity threshold
--offline                               Offline mode
"""


class Parser(argparse.ArgumentParser):
    """Complains in llama-server's words."""

    def error(self, message):
        print(f"error: invalid argument: {message.split()[-1]}", file=sys.stderr)
        sys.exit(1)


def parse(old):
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--model", "--alias", "--flash-attn", "--cache-type-k", "--cache-type-v", "--host", "--pooling",
                 "--api-key-file", "--mmproj", "--chat-template-file"):  # fmt: skip
        parser.add_argument(flag)
    for flag in ("--ctx-size", "--parallel", "--batch-size", "--ubatch-size", "--threads", "--threads-batch", "--port",
                 "--n-gpu-layers"):  # fmt: skip
        parser.add_argument(flag, type=int)
    for flag in ("--embeddings", "--reranking", "--metrics", "--slots", "--jinja"):
        parser.add_argument(flag, action="store_true")
    if not old:
        for flag in ("--no-ui", "--kv-unified", "--no-kv-unified", "--no-context-shift", "--offline"):
            parser.add_argument(flag, action="store_true")
        parser.add_argument("--cache-ram", type=int)
        parser.add_argument("--kv-unified-per-slot", type=int)
        parser.add_argument("--log-verbosity", type=int)
    given, unknown = parser.parse_known_args()
    if unknown:
        parser.error(unknown[0])
    return given


def parameters(given):
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path, p.model_alias, p.n_ctx, p.n_parallel = given.model, {given.alias}, given.ctx_size, given.parallel
    p.n_batch, p.n_ubatch = given.batch_size, given.ubatch_size
    p.cpuparams.n_threads, p.cpuparams_batch.n_threads = given.threads, given.threads_batch
    p.endpoint_metrics, p.endpoint_slots, p.ui, p.verbosity, p.embedding = (
        given.metrics,
        True,
        False,
        1,
        given.embeddings,
    )
    p.hostnames = [given.host]
    if given.port:
        p.port = given.port
    if given.api_key_file:
        with open(given.api_key_file) as file:
            p.api_keys = file.read().split()
    if given.pooling:
        p.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{given.pooling.upper()}")
    if given.chat_template_file:
        with open(given.chat_template_file) as file:
            p.chat_template = file.read()
    return p


def main():
    old = "old" in os.path.basename(sys.argv[0])
    if "--help" in sys.argv:
        print(HELP.format(unix="" if old else ", or bind to an UNIX socket if the address ends with .sock",
                          new="" if old else NEW))  # fmt: skip
        return 0
    given = parse(old)
    if note := os.environ.get("GGML_TEST_ARGUMENTS"):
        with open(note, "w") as file:
            json.dump({"argv": sys.argv[1:], "environ": dict(os.environ), "pid": os.getpid()}, file)
    print("build: 7777 (fake)", flush=True)
    import xllamacpp

    try:
        server = xllamacpp.Server(parameters(given))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main())
