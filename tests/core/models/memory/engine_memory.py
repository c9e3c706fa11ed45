"""Loads a model with the real engine, works through a batch, and prints the resident bytes of its process.

Usage: engine_memory.py MODEL CTX_SIZE PARALLEL CACHE_TYPE
"""

import json
import os
import sys
import urllib.request


def main(model, ctx_size, parallel, cache_type):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = ctx_size * parallel
    parameters.n_parallel = parallel
    parameters.n_batch = parameters.n_ubatch = 512
    parameters.cache_ram_mib = 0
    parameters.verbosity = 1
    # On a machine with other work, two threads wait for each other most of the time.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.cache_type_k = parameters.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache_type.upper()}")
    server = xllamacpp.Server(parameters)
    # The cache is filled with zeros when it is made, so a full batch touches all that there is.
    for slot in range(parallel):
        prompt = [3 + (7 * slot + 13 * place) % 300 for place in range(min(ctx_size - 8, 520) if slot == 0 else 8)]
        body = json.dumps({"prompt": prompt, "n_predict": 2, "id_slot": slot, "temperature": 0}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/completion", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=240) as answer:
            answer.read()
    with open("/proc/self/status") as file:
        resident = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))
    print(resident, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
