"""ModelTable: which model of the table a name means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from miner.config.file.schema import Model
from miner.core.llms.contract.rules import ModelRules, Price, cost_of
from miner.core.llms.pool.holder import Holder
from miner.core.models.names import without_tag
from miner.core.wire import EmbeddingResponse, LLMResponse, ModelInfo, Preset, RerankResponse, TokenUsage
from miner.errors import ModelNotFoundError


@dataclass(slots=True, eq=False)
class ServedModel:
    """One model of the table, and where it is served."""

    name: str
    model: Model
    holder: Holder
    upstream: str | None
    """Its name at the service; None: the service has only this one."""
    preset: Preset | None = None
    last_info: ModelInfo | None = None
    """What its backend said of it last."""
    _rules: ModelRules | None = None

    @property
    def source(self) -> str:
        """What it is pulled by: its name at the service, or the file or reference of its engine."""
        return self.upstream or self.holder.plan.model_path or self.name

    @property
    def price(self) -> Price | None:
        """What its tokens cost; None: the file does not say."""
        given = self.model.price
        return None if given is None else Price(given.input, given.cached, given.output)

    def describe(self, response: LLMResponse | EmbeddingResponse | RerankResponse, usage: TokenUsage | None) -> None:
        """Say in a response who has served it, and what that cost."""
        response.model, response.cost = self.name, cost_of(self.price, usage)

    def rules(self, *, limits_keys: bool) -> ModelRules:
        """What the file says of it.

        Args:
            limits_keys: whether any model of the file is for some keys only.
        """
        model, engine_fields = self.model, self.holder.service.engine_fields
        known = self._rules
        if known is not None and known.engine_fields is engine_fields and known.limits_keys == limits_keys:
            return known
        self._rules = ModelRules(
            name=self.name, names=frozenset((self.name, *model.aliases)), description=model.description,
            is_listed=model.listed, keys=None if model.keys is None else frozenset(model.keys),
            limits_keys=limits_keys, unsupported=model.unsupported, skip=frozenset(model.skip),
            refuse=frozenset(model.refuse), sampling=self.preset.parameters if self.preset is not None else {},
            engine_fields=engine_fields, price=self.price,
        )  # fmt: skip
        return self._rules

    @property
    def named_aliases(self) -> list[str]:
        """Its aliases without wildcards."""
        return [alias for alias in self.model.aliases if "*" not in alias]

    def info(self, inner: ModelInfo | None) -> ModelInfo:
        """How the pool shows it.

        Args:
            inner: what its service says of it; None: nothing.
        """
        inner = self.last_info = inner or self.last_info or ModelInfo(id=self.name)
        return replace(inner, id=self.name, aliases=self.named_aliases, preset=None, description=self.model.description)


@dataclass(slots=True, eq=False)
class ModelTable:
    """The models by their names."""

    models: Mapping[str, ServedModel]
    default: str | None = None
    """The model of requests that name none."""
    limits_keys: bool = False
    """Whether any model is for some keys only."""
    _names: dict[str, ServedModel] = field(default_factory=dict)
    _patterns: list[tuple[re.Pattern[str], ServedModel]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for model in self.models.values():
            self._names[model.name] = model
        for model in self.models.values():
            for alias in model.named_aliases:
                self._names.setdefault(alias, model)
        for name, model in list(self._names.items()):
            self._names.setdefault(name.lower(), model)
        patterns = [(alias, model) for model in self.models.values() for alias in model.model.aliases if "*" in alias]
        # The one that says most of the name first.
        patterns.sort(key=lambda item: -len(item[0].replace("*", "")))
        self._patterns = [(_compiled(alias), model) for alias, model in patterns]
        self.limits_keys = any(each.model.keys is not None for each in self.models.values())
        if (found := self.find(None)) is not None:
            self.default = found.name

    def find(self, name: str | None) -> ServedModel | None:
        """The model that a name means: its own, an alias, either in any case and with Ollama's `:latest`, a pattern;
        None: there is none.
        """
        if name is None:
            return self.find(self.default) if self.default is not None else None
        for spelling in dict.fromkeys((name, name.lower(), without_tag(name), without_tag(name).lower())):
            if spelling in self._names:
                return self._names[spelling]
        return next((model for pattern, model in self._patterns if pattern.fullmatch(name)), None)

    def missing(self, name: str | None, others: Iterable[str] = ()) -> ModelNotFoundError:
        """The error for a name that means none.

        Args:
            others: further names that can be used.
        """
        names = [*(each.name for each in self.models.values() if each.model.listed), *others]
        if name is not None:
            return ModelNotFoundError(
                f"There is no model {name!r}. Available: {', '.join(names) or 'none'}.", model=name, available=names
            )
        return ModelNotFoundError(
            f"No model was named, and there {'are several' if names else 'is none'}.",
            available=names,
            hint=f"Name one: {', '.join(names)}." if names else None,
            operator_hint="Set model in [defaults]." if names else "Add one to [models].",
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE | re.DOTALL)
