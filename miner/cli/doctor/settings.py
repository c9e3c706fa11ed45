"""The settings: what is set and where, what is not valid, misspelt, or has no effect."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from miner.cli.doctor.facts import CLASSES, Facts, Given
from miner.cli.doctor.row import Check, Row, ok
from miner.config.secrets import is_secret, without_password
from miner.config.sources import misspelt, variable_of

_FOREIGN = {
    "OLLAMA_HOST": "OLLAMA_BASE_URL",
    "OLLAMA_API_BASE": "OLLAMA_BASE_URL",
    "OLLAMA_URL": "OLLAMA_BASE_URL",
    "VLLM_BASE_URL": "VLLM_API_BASE",
    "VLLM_URL": "VLLM_API_BASE",
    "VLLM_API_URL": "VLLM_API_BASE",
    "LLAMACPP_BASE_URL": "LLAMACPP_API_BASE",
    "LLAMACPP_URL": "LLAMACPP_API_BASE",
    "LLAMACPP_CTX": "LLAMACPP_CTX_SIZE",
    "LLAMACPP_N_CTX": "LLAMACPP_CTX_SIZE",
    "LLAMACPP_CONTEXT_LENGTH": "LLAMACPP_CTX_SIZE",
    "OLLAMA_CONTEXT_LENGTH": "OLLAMA_NUM_CTX",
    "LLAMACPP_GPU_LAYERS": "LLAMACPP_N_GPU_LAYERS",
    "LLAMACPP_NGL": "LLAMACPP_N_GPU_LAYERS",
    "LLAMACPP_SLOTS": "LLAMACPP_PARALLEL",
    "LLAMACPP_N_PARALLEL": "LLAMACPP_PARALLEL",
    "LLM_MODEL": "DEFAULT_MODEL",
    "LLM_PROVIDER": "LLM_BACKEND",
    "BACKEND": "LLM_BACKEND",
    "OPENAI_API_BASE": "MINER_OPENAI_API_BASE",
    "OPENAI_BASE_URL": "MINER_OPENAI_API_BASE",
    "HUGGING_FACE_HUB_TOKEN": "HF_TOKEN",
    "HUGGINGFACE_TOKEN": "HF_TOKEN",
    "HF_API_TOKEN": "HF_TOKEN",
}
"""Names of before and of other programs -> the setting of the same meaning."""
_OWN_PREFIXES = ("LLAMACPP_", "LLM_", "DEFAULT_")
"""Names that no other program is known to use: a near one is a misspelt setting."""
_ENGINE_OPTIONS = (
    "llamacpp_ctx_size",
    "llamacpp_parallel",
    "llamacpp_threads",
    "llamacpp_n_gpu_layers",
    "llamacpp_server",
    "llamacpp_batch_size",
    "llamacpp_cache_type_k",
    "llamacpp_cache_type_v",
    "llamacpp_flash_attn",
    "llamacpp_lora",
    "llamacpp_mmproj",
    "llamacpp_chat_template",
    "llamacpp_flags",
    "llamacpp_spec_type",
    "llamacpp_start_timeout",
    "llamacpp_memory_budget",
    "llamacpp_max_loaded",
    "llamacpp_idle_timeout",
    "llamacpp_cores",
    "model_path",
)
"""Settings of engines that are started here."""
_BACKEND_OF = {
    "vllm_api_base": "vllm",
    "vllm_api_key": "vllm",
    "vllm_timeout": "vllm",
    "ollama_base_url": "ollama",
    "ollama_num_ctx": "ollama",
    "ollama_timeout": "ollama",
    "openai_api_base": "openai",
    "openai_api_key": "openai",
}


def checks() -> list[Check]:
    """The checks of this file."""
    return [
        Check(".env", "Settings", dotenv_file),
        Check("settings", "Settings", values),
        Check("names of settings", "Settings", names),
        Check("settings without effect", "Settings", without_effect),
    ]


def dotenv_file(facts: Facts) -> Iterator[Row]:
    """Whether `.env` can be read, and who else can."""
    path = Path(".env")
    if facts.dotenv_error is not None:
        yield Row(
            ".env",
            "problem",
            f".env is {facts.dotenv_error}" if "UTF-8" in facts.dotenv_error else f".env {facts.dotenv_error}",
            "mv .env .env.broken && iconv -f LATIN1 -t UTF-8 .env.broken > .env"
            if "UTF-8" in facts.dotenv_error
            else "ls -l .env",
            "No command starts while it is so: each reads it.",
            {"file": str(path.absolute())},
        )
        return
    if not path.is_file():
        yield ok(".env", "none in this directory", directory=str(Path.cwd()))
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    secrets = [name for name in facts.dotenv if is_secret(name) or name.upper() == "MINER_API_KEYS"]
    seen: dict[str, Any] = {"variables": len(facts.dotenv), "mode": f"{mode:04o}", "secrets": secrets}
    if secrets and mode & 0o077 and os.name != "nt":
        what = "may be changed" if mode & 0o022 else "can be read"
        yield Row(
            ".env",
            "problem" if mode & 0o022 else "note",
            f".env holds {_listed(secrets)} and {what} by other users of this machine (mode {mode:04o})",
            "chmod 600 .env",
            seen=seen,
        )
        return
    yield ok(".env", f"{len(facts.dotenv)} variables, mode {mode:04o}", **seen)


def values(facts: Facts) -> Iterator[Row]:
    """All settings that are not defaults, and each that is not valid."""
    valid = [each for each in facts.given if each.error is None]
    for each in facts.given:
        if each.error is not None:
            yield _invalid(each)
    described = ", ".join(f"{each.variable}={_value(each)} ({each.source})" for each in valid)
    shown = described if len(described) < 300 else f"{', '.join(each.variable for each in valid)}"
    seen = {each.variable: {"value": _value(each), "source": each.source} for each in valid}
    hidden = [each.variable for each in valid if _stands_twice(each, facts)]
    twice = f"; {_listed(hidden)} in .env {'is' if len(hidden) == 1 else 'are'} hidden by the environment"
    yield ok(
        "settings", (f"{len(valid)} set: {shown}" if valid else "all defaults") + (twice if hidden else ""), **seen
    )


def _stands_twice(each: Given, facts: Facts) -> bool:
    other = next((value for name, value in facts.dotenv.items() if name.upper() == each.variable), None)
    return each.source == "environment" and other is not None and other != each.value


def _value(each: Given) -> str:
    if is_secret(each.field) or each.field == "api_keys":
        return "***"
    value = without_password(each.value) if "://" in each.value or "@" in each.value else each.value
    return value if len(value) <= 80 else f"{value[:77]}..."


def _invalid(each: Given) -> Row:
    fix = {
        "environment": f"unset {each.spelt}",
        ".env": f"sed -i.bak '/^{each.spelt}=/d' .env",
    }.get(each.source)
    hint = "It then has its default; the message says what is allowed." if fix else f"It is what {each.source} says."
    return Row(
        each.variable,
        "problem",
        str(each.error).rstrip("."),
        fix,
        hint,
        {"source": each.source, "value": _value(each)},
    )


def names(facts: Facts) -> Iterator[Row]:
    """Names that set nothing, and what was meant."""
    found: list[tuple[str, str | None]] = misspelt(facts.variables, CLASSES)
    known = {variable_of(name) for cls in CLASSES for name in cls.model_fields}
    others = {name.upper() for name, value in facts.variables.items() if value} - known
    rows = [_misspelt(name, meant, facts) for name, meant in found]
    for name in sorted(others):
        if name in _FOREIGN:
            rows += _foreign(name, _FOREIGN[name], facts)
        elif f"MINER_{name}" in known and name.startswith(("SERVE_", "LLM_", "RATE_LIMIT_", "KV_", "API_KEYS")):
            rows.append(_misspelt(name, f"MINER_{name}", facts))
        elif name.startswith(_OWN_PREFIXES):
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
            if near:
                rows.append(_misspelt(name, near[0], facts))
    yield from rows or [ok("names of settings", "all MINER_ variables are settings")]


def _misspelt(name: str, meant: str | None, facts: Facts) -> Row:
    source = ".env" if name in {each.upper() for each in facts.dotenv} else "environment"
    spelt = next((each for each in facts.variables if each.upper() == name), name)
    seen = {"source": source, "meant": meant}
    if meant is None:
        fix = f"unset {spelt}" if source == "environment" else f"sed -i.bak '/^{spelt}=/d' .env"
        return Row(name, "note", f"{name} is not a setting", fix, ".env.example lists all.", seen)
    fix = (
        f'export {meant}="${spelt}"; unset {spelt}'
        if source == "environment"
        else f"sed -i.bak 's/^{spelt}=/{meant}=/' .env"
    )
    return Row(name, "problem", f"{name} is not a setting: did you mean {meant}?", fix, seen=seen)


def _foreign(name: str, setting: str, facts: Facts) -> list[Row]:
    """A name that another program reads: worth a note where ours is not set."""
    if any(each.variable == setting for each in facts.given):
        return []
    kind = _BACKEND_OF.get(setting.lower().removeprefix("miner_"))
    if kind is not None and facts.backend != kind:
        return []
    return [
        Row(
            name,
            "note",
            f"{name} is not read here; the setting of this meaning is {setting}",
            f'export {setting}="..."',
            seen={"meant": setting},
        )
    ]


def without_effect(facts: Facts) -> Iterator[Row]:
    """Settings that are set and change nothing."""
    yield from list(_without_effect(facts)) or [ok("settings without effect", "none")]


def _without_effect(facts: Facts) -> Iterator[Row]:
    is_set, pool = facts.is_set, facts.backend == "pool"
    settings = facts.settings

    def row(names: Iterable[str], why: str, hint: str | None = None) -> Row:
        variables = [variable_of(name) for name in names]
        sources = {facts.source_of(name) for name in names}
        fix = (
            f"unset {' '.join(variables)}"
            if "environment" in sources
            else f"# remove from .env: {', '.join(variables)}"
        )
        plural = "has" if len(variables) == 1 else "have"
        return Row(variables[0], "note", f"{_listed(variables)} {plural} no effect {why}", fix, hint)

    if pool:
        if "llm_fallbacks" in is_set:
            yield row(["llm_fallbacks"], "with miner.toml", 'There: fallbacks = ["NAME"] in [models.NAME].')
        if "serve_any_model_name" in is_set and facts.gateway.serve_any_model_name:
            yield row(["serve_any_model_name"], "with miner.toml", 'There: aliases = ["*"] in [models.NAME].')
    elif hidden := _hidden_file(facts):
        yield Row(
            "LLM_BACKEND",
            "note",
            f"{hidden} is not served: LLM_BACKEND={settings.llm_backend} is set",
            "unset LLM_BACKEND",
            "Then the file says what is served.",
            {"source": facts.source_of("llm_backend")},
        )
    if not pool and settings.llamacpp_api_base and (found := [name for name in _ENGINE_OPTIONS if name in is_set]):
        yield row(found, "with LLAMACPP_API_BASE, where no engine is started here")
    if (
        not settings.model_path
        and not pool
        and (found := [n for n in ("llamacpp_alias", "any_model_name") if n in is_set])
    ):
        yield row(found, "without MODEL_PATH")
    if "llamacpp_api_key" in is_set and not settings.llamacpp_api_base and not pool:
        yield row(["llamacpp_api_key"], "without LLAMACPP_API_BASE")
    if facts.backend == "llamacpp" and "serve_max_running" not in is_set:
        for name, instead in (("serve_max_queued", "MINER_MAX_QUEUE"), ("serve_queue_timeout", "MINER_QUEUE_TIMEOUT")):
            if name in is_set:
                yield row([name], "with llama.cpp, whose engines have a queue of their own", f"Set {instead}.")
    if not pool:
        used = {facts.backend, *(each.strip() for each in settings.llm_fallbacks.split(","))}
        for backend in ("vllm", "ollama", "openai"):
            found = [name for name, kind in _BACKEND_OF.items() if kind == backend and name in is_set]
            if found and backend not in used:
                yield row(found, f"while LLM_BACKEND is {facts.backend}", f"To use it: export LLM_BACKEND={backend}")


def _hidden_file(facts: Facts) -> str | None:
    from miner.config.file.find import find_config
    from miner.config.file.problems import shown_path

    path = find_config(facts.settings.config)
    return shown_path(path) if path is not None and "llm_backend" in facts.is_set else None


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
