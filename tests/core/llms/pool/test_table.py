"""Which model of the table a name means."""

import pytest

from miner.config.file.schema import Model
from miner.core.llms.pool.table import ModelTable, ServedModel


def table_of(default=None, **aliases):
    models = {name: ServedModel(name, Model(aliases=names), None, None) for name, names in aliases.items()}
    return ModelTable(models, default)


@pytest.mark.parametrize("default", ["a", "x", "X", "claude-opus"])
def test_the_default_may_be_any_name_of_its_model(default):
    table = table_of(default, b=[], a=["x", "claude-*"])
    assert table.find(None) is table.find("a")
    assert table.default == "a"


def test_without_a_default_a_request_must_name_a_model():
    assert table_of(a=[], b=[]).find(None) is None
    assert table_of("elsewhere", a=[]).find(None) is None
