"""The `config.yaml` of LiteLLM's proxy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from miner.cli.imports.draft import Draft, Section, variable, variables_in
from miner.cli.imports.litellm_providers import Provider, provider_of
from miner.cli.imports.litellm_settings import settings
from miner.cli.imports.sampling import sampling_of
from miner.cli.imports.yaml_file import read_yaml
from miner.config.file.read import LATE_VARIABLES
from miner.errors import ConfigError

_ENVIRON = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_LIMITED = "limits belong to clients here: `miner keys new NAME --requests N --tokens N`"
_SPREAD = "requests are not spread over deployments: the others take over when this one fails"
_PARAMS_LOST = {
    "rpm": _LIMITED, "tpm": _LIMITED, "itpm": _LIMITED, "otpm": _LIMITED, "max_budget": _LIMITED,
    "budget_duration": _LIMITED, "weight": _SPREAD, "order": _SPREAD, "tags": "requests are not routed by tags",
    "stream_timeout": "timeout counts for streams too", "input_cost_per_second": "prices are of tokens",
    "output_cost_per_second": "prices are of tokens", "num_ctx": "set it in the model at Ollama",
}  # fmt: skip
_INFO_LOST = {
    "id": "a model is known by its name", "base_model": "prices are those of this file",
    "mode": "what a model can do is known of the server", "max_tokens": "known of the server",
    "max_input_tokens": "known of the server", "max_output_tokens": "known of the server",
    "access_groups": "keys says which API keys may use a model", "tier": _LIMITED,
}  # fmt: skip
_PRICES = {
    "input_cost_per_token": "input", "output_cost_per_token": "output", "cache_read_input_token_cost": "cached",
}  # fmt: skip


def import_litellm(path: Path) -> Draft:
    """Read the file.

    Raises:
        ConfigError: it cannot be read, or is no configuration of LiteLLM.
    """
    content, twice = read_yaml(path)
    if not isinstance(content.get("model_list"), list):
        raise ConfigError(f"{path} is no configuration of LiteLLM's proxy: it has no model_list.")
    draft = Draft(f"From LiteLLM's {path.name}, by `miner import litellm`.")
    for where, why in twice:
        draft.top.lose("", where, None, why)
    _Reader(draft, _with_environment(content)).read()
    return draft


def _with_environment(value: Any) -> Any:
    """With `os.environ/NAME` as a variable of ours."""
    if isinstance(value, dict):
        return {key: _with_environment(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_environment(each) for each in value]
    if isinstance(value, str) and (match := _ENVIRON.fullmatch(value.strip())) is not None:
        return variable(f"ENV_{match[1]}" if match[1] in LATE_VARIABLES else match[1])
    return value


class _Reader:
    def __init__(self, draft: Draft, content: dict[str, Any]) -> None:
        self._draft = draft
        self._content = content
        self._groups: dict[str, list[Section]] = {}
        """`model_name` -> its deployments, in order."""
        self._credentials: dict[str, dict[str, Any]] = {}
        self._secrets: dict[tuple[str, str], str] = {}
        """Address and key in the open -> the variable for it."""

    def read(self) -> None:
        content = self._content
        for entry in content.pop("credential_list", None) or []:
            if isinstance(entry, dict) and isinstance(entry.get("credential_values"), dict):
                self._credentials[str(entry.get("credential_name"))] = entry["credential_values"]
        for number, entry in enumerate(content.pop("model_list")):
            if not isinstance(entry, dict):
                raise ConfigError(f"model_list[{number}]: LiteLLM needs model_name and litellm_params here.")
            if isinstance(entry.get("litellm_params"), dict):
                self._deployment(dict(entry))
            else:
                name = str(entry.get("model_name", number))
                self._draft.top.lose("model_list", name, entry, "it has no litellm_params")
        for name, sections in self._groups.items():
            self._spread(name, sections)
        settings(self._draft, content, self._groups)

    def _deployment(self, entry: dict[str, Any]) -> None:
        draft, params = self._draft, dict(entry.pop("litellm_params"))
        info = entry.pop("model_info", None) or {}
        if not isinstance(info, dict):
            entry["model_info"], info = info, {}
        info = dict(info)
        model = str(params.pop("model", ""))
        group = str(entry.pop("model_name", None) or model)
        where = f"model_list.{group}"
        credential = params.pop("litellm_credential_name", None)
        for key, value in self._credentials.get(str(credential), {}).items():
            params.setdefault(key, value)
        base = params.pop("api_base", None) or params.pop("base_url", None)
        stated = params.pop("custom_llm_provider", None)
        stated = str(stated) if stated else None
        provider, name, known = provider_of(model, stated, has_address=bool(base))
        if known is None or not name:
            why = f"{provider or 'its provider'} does not speak OpenAI's API, or is not known here"
            why = why if name else "it names no model"
            draft.top.lose("model_list", group, {"litellm_params": params, "model_info": info, **entry}, why)
            return
        url = str(base or known.url or "")
        if not (url.startswith(("http://", "https://")) or variables_in(url)):
            why = f"{provider} needs an api_base"
            draft.top.lose("model_list", group, {"litellm_params": params, "model_info": info, **entry}, why)
            return
        backend = self._backend(provider, known, url, params.pop("api_key", None), has_base=bool(base), where=where)
        if credential is not None and str(credential) not in self._credentials:
            backend.lose(where, "litellm_credential_name", str(credential), "credential_list has no such name")
        if "*" in group and "*" in name:
            self._all_models(backend, group, name, params | info | entry, where)
            return
        wanted = group if "*" not in group else name
        section = draft.section("models", draft.name_for("models", wanted))
        self._groups.setdefault(group, []).append(section)
        section.set("backend", backend.path[1])
        section.set("name", name if name != section.path[1] else None)
        if section.path[1] != group and len(self._groups[group]) == 1:
            section.add("aliases", [group])
        self._params(section, backend, params, where)
        self._info(section, info, where)
        for key, value in entry.items():
            section.lose(where, key, value, _PARAMS_LOST.get(key, "not known here"))

    def _backend(self, provider: str, known: Provider, url: str, key: Any, *, has_base: bool, where: str) -> Section:
        """The backend with this kind, address and key."""
        draft = self._draft
        if key is not None and not variables_in(str(key)):
            # The same literal is the same secret: compared here, never shown.
            name = self._secrets.get((url, str(key)))
            if name is None:
                name = self._secrets[url, str(key)] = draft.secret(f"{provider}_KEY", f"{where}: its api_key")
            key = name
        elif key is None and not has_base and known.key is not None:
            key = variable(known.key)
        url = url.rstrip("/")
        if known.kind == "ollama" and key is not None:
            self._draft.top.lose(f"{where}.litellm_params", "api_key", None, "Ollama takes no API key")
            key = None
        for section in draft.sections("backends"):
            if (section.get("kind"), section.get("url"), section.get("key")) == (known.kind, url, key):
                return section
        host = urlsplit(url).hostname if not variables_in(url) else None
        wanted = provider if not has_base or host is None else f"{provider}-{host}"
        section = draft.section("backends", draft.name_for("backends", wanted))
        section.set("kind", known.kind)
        section.set("url", url)
        section.set("key", key)
        return section

    def _all_models(self, backend: Section, group: str, name: str, rest: dict[str, Any], where: str) -> None:
        """`model_name: "*"`: all models of the server."""
        backend.set("expose", True, f'model_name: "{group}"')
        if group != "*" or name != "*":
            backend.change(where, "models have the names there, without a prefix")
        for key, value in rest.items():
            backend.lose(where, key, value, "it would count for all models of this backend")

    def _params(self, section: Section, backend: Section, params: dict[str, Any], where: str) -> None:
        self._prices(section, params)
        retries = params.pop("max_retries", None)
        retries = params.pop("num_retries", retries) if retries is None else retries
        if isinstance(retries, int) and not isinstance(retries, bool):
            backend.set("max_retries", max(0, min(10, retries)))
        elif retries is not None:
            section.lose(f"{where}.litellm_params", "max_retries", retries, "a number is needed here")
        limit = params.pop("max_parallel_requests", None)
        if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
            backend.set("concurrency", limit)
        elif limit is not None:
            section.lose(f"{where}.litellm_params", "max_parallel_requests", limit, "a number is needed here")
        timeout = params.pop("timeout", None)
        if isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout > 0:
            section.set("timeout", timeout)
        elif timeout is not None:
            section.lose(f"{where}.litellm_params", "timeout", timeout, "a number of seconds is needed here")
        if (drop := params.pop("drop_params", None)) is not None:
            section.set("unsupported", "skip" if drop else "refuse", "drop_params")
        skipped = params.pop("additional_drop_params", None)
        if isinstance(skipped, list) and all(isinstance(each, str) for each in skipped):
            section.set("skip", list(dict.fromkeys(skipped)))
            section.change(
                f"{where}.litellm_params.additional_drop_params", "where they are not supported; else they are used"
            )
        elif skipped is not None:
            section.lose(f"{where}.litellm_params", "additional_drop_params", skipped, "a list of names is needed here")
        keep_alive = params.pop("keep_alive", None)
        if keep_alive is not None and backend.get("kind") != "ollama":
            section.lose(f"{where}.litellm_params", "keep_alive", keep_alive, "only Ollama is told with a request")
        elif isinstance(keep_alive, int | str) and re.fullmatch(
            r"-?\d+(?:\.\d+)?(?:s|m|h)?", str(keep_alive), re.ASCII
        ):
            section.set("keep_alive", keep_alive)
        elif keep_alive is not None:
            section.lose(f"{where}.litellm_params", "keep_alive", keep_alive, "a number of seconds is needed here")
        sampling, rest = sampling_of(params)
        section.update("sampling", sampling)
        for key, value in rest.items():
            section.lose(f"{where}.litellm_params", key, value, _PARAMS_LOST.get(key, "not known here"))

    def _info(self, section: Section, info: dict[str, Any], where: str) -> None:
        self._prices(section, info)
        description = info.pop("description", None)
        section.set("description", str(description) if description else None)
        for key, value in info.items():
            why = "what a model can do is known of the server" if key.startswith("supports_") else "not known here"
            section.lose(f"{where}.model_info", key, value, _INFO_LOST.get(key, why))

    def _prices(self, section: Section, values: dict[str, Any]) -> None:
        """Prices of a token, as those of a million."""
        for key, ours in _PRICES.items():
            value = values.get(key)
            try:
                number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else -1.0
            except ValueError:
                continue
            if 0 <= number < 1e6:
                values.pop(key)
                section.update("price", {ours: float(f"{number * 1e6:.10g}")})

    def _spread(self, name: str, sections: list[Section]) -> None:
        """Several deployments of one name: the first one serves, the others take over."""
        first, *others = sections
        if not others:
            return
        first.set("fallbacks", [other.path[1] for other in others])
        first.change(f"model_list.{name}", _SPREAD)
        for other in others:
            other.set("listed", False)
