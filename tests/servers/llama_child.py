"""A llama.cpp server in a process of its own, for test servers that need a real model behind them.

Run by path with one JSON argument (see `llama_runner.RunnerConfig`); prints its address as one line of JSON when it is
ready, and ends when its standard input does, so that it never outlives the test.
"""

import json
import os
import sys

import xllamacpp


def main() -> None:
    config = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = config["path"]
    params.model_alias = {config["name"]}
    params.n_parallel = config["parallel"]
    params.n_ctx = config["num_ctx"] * config["parallel"]
    params.ctx_shift = config["shift"]
    params.n_batch = params.n_ubatch = config["batch"]
    params.verbosity = 1
    params.port = config["port"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    if config["template"]:
        params.chat_template = config["template"]
    if config["embedding"]:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    server = xllamacpp.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)
    sys.stdin.buffer.read()
    # Requests may still run; their threads would keep an orderly exit waiting.
    os._exit(0)


if __name__ == "__main__":
    main()
