"""All checks, in the order in which their rows are shown: what comes first has to be right for what follows."""

from __future__ import annotations

from miner.cli.doctor import backends, config_file, engines, exposure, gpu, keys, network, node, settings, system
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check


def checks_for(facts: Facts) -> list[Check]:
    """Those of this machine; with --url those of that node, and of what lies between."""
    if facts.options.url is not None:
        return [*node.checks(), *network.client_checks(), *system.client_checks()]
    return [
        *settings.checks(),
        *config_file.checks(),
        *backends.checks(),
        *engines.checks(facts),
        *exposure.checks(),
        *keys.checks(),
        *network.checks(),
        *system.checks(),
        *gpu.checks(),
    ]
