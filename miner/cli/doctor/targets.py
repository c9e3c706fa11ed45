"""What the settings or miner.toml send requests to: servers, and models that llama.cpp runs here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from miner.cli.doctor.facts import Facts
from miner.errors import MinerError

if TYPE_CHECKING:
    from miner.core.llms.LLMService import LLMService

KEY_VARIABLE = {"vllm": "VLLM_API_KEY", "openai": "MINER_OPENAI_API_KEY", "llamacpp": "LLAMACPP_API_KEY"}
URL_VARIABLE = {
    "vllm": "VLLM_API_BASE",
    "openai": "MINER_OPENAI_API_BASE",
    "llamacpp": "LLAMACPP_API_BASE",
    "ollama": "OLLAMA_BASE_URL",
}
_URL_FIELD = {
    "vllm": "vllm_api_base",
    "openai": "openai_api_base",
    "llamacpp": "llamacpp_api_base",
    "ollama": "ollama_base_url",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One server, or llama.cpp here."""

    name: str
    """The backend, or that of `[backends.NAME]`."""
    kind: str
    config: Any = field(repr=False)
    """Its config object."""
    used: bool = True
    """Whether requests go there; else it is only configured."""
    models: tuple[str, ...] = ()
    """The names that are requested there."""
    table: bool = False
    """Whether it stands in miner.toml."""
    place: tuple[str, str] | None = None
    """The names of its model and of its backend in miner.toml, where it stands there."""
    by_url: bool = False
    """Whether it is what --url names: no setting is about it."""
    is_node: bool = False
    """Whether a gateway of miner responds there."""

    @property
    def url(self) -> str | None:
        """Its base URL; None where it has none: engines are started here, or it is another package's."""
        field_name = _URL_FIELD.get(self.kind)
        found: str | None = getattr(self.config, field_name) if field_name else getattr(self.config, "url", None)
        return found

    @property
    def host(self) -> str | None:
        """The host of its URL."""
        try:
            return urlsplit(self.url).hostname if self.url else None
        except ValueError:
            return None

    @property
    def port(self) -> int | None:
        """The port of its URL."""
        try:
            parts = urlsplit(self.url or "")
            return parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            return None

    @property
    def is_local(self) -> bool:
        """Whether llama.cpp engines are started here for it."""
        return self.kind == "llamacpp" and self.url is None

    def service(self) -> LLMService:
        """A new service.

        Raises:
            ConfigError: the backend cannot be used.
        """
        from miner.core.llms.registry import load_backend

        return load_backend(self.kind, self.config).service(self.config)

    def in_its_words(self, text: str) -> str:
        """The text with keys of miner.toml in the place of variables, where it stands there."""
        from miner.core.llms.pool.hints import with_keys

        return text if self.place is None else with_keys(text, *self.place, of=" of miner.toml")

    def set_line(self, what: str, value: str) -> str:
        """The line that sets its `url`, `key` or `name`, in the file or the environment."""
        if self.table:
            return f'{what} = "{value}"  # in [backends.{self.name}] of miner.toml'
        variable = {"url": URL_VARIABLE, "key": KEY_VARIABLE}[what].get(
            self.kind, f"{self.kind.upper()}_{what.upper()}"
        )
        return f"export {variable}={value}"


def targets(facts: Facts) -> list[Target]:
    """All of them; those in use first. Empty where the file cannot be read."""
    from miner.core.llms.registry import POOL

    if facts.backend == POOL:
        return list(_of_file(facts)) if facts.loaded is not None else []
    settings = facts.settings.model_copy(update={"llm_fallbacks": "", "max_retries": 0})
    names = [facts.backend, *filter(None, map(str.strip, settings.llm_fallbacks.split(",")))]
    names += list(filter(None, map(str.strip, facts.settings.llm_fallbacks.split(","))))
    models = (settings.default_model,) if settings.default_model else ()
    used = [Target(name, name, settings, models=models) for name in dict.fromkeys(names)]
    others = [
        Target(kind, kind, settings, used=False)
        for kind, setting in _URL_FIELD.items()
        if setting in facts.is_set and kind not in names
    ]
    return [*used, *others]


def examined_here(found: list[Target]) -> Target | None:
    """The one model of engines here that is examined: it stands for the others."""
    return next((target for target in found if target.is_local), None)


def _of_file(facts: Facts) -> Iterator[Target]:
    from miner.config.file.merge import default_model
    from miner.core.llms.pool.plan import config_for, plan_models, plan_service

    loaded = facts.loaded
    assert loaded is not None
    base = facts.settings.model_copy(update={"max_retries": 0})
    try:
        plans = plan_models(loaded)
    except MinerError:
        return  # the check of the file reports it
    default = facts.options.model or default_model(loaded.content) or facts.settings.default_model
    order = sorted(plans.values(), key=lambda plan: plan.name != default)
    grouped: dict[str, list[Any]] = {}
    for plan in order:
        if plan.service.table.command is None:
            grouped.setdefault(plan.service.backend if not plan.service.runs_engines else f"\0{plan.name}", []).append(
                plan
            )
    for plans_of_one in grouped.values():
        first = plans_of_one[0]
        names = tuple(dict.fromkeys(plan.upstream or plan.name for plan in plans_of_one))
        name = first.name if first.service.runs_engines else first.service.backend
        place = first.name, first.service.backend
        yield Target(name, first.service.kind, config_for(first.service, base), True, names, table=True, place=place)
    served = {plan.service.backend for plan in plans.values()}
    for name, table in loaded.content.backends.items():
        if name not in served and table.command is None and table.url is not None:
            alone = plan_service(name, table, loaded)
            used = bool(table.expose)
            yield Target(name, table.kind, config_for(alone, base), used, table=True, place=("NAME", name))
