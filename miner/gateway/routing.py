"""Routes that follow from others: HEAD where GET is served, and each `/v1` route without its `/v1`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from miner.gateway.context import Route

_VERSION = "/v1"


def with_derived(routes: Iterable[Route]) -> tuple[Route, ...]:
    """The routes, and those that follow from them. A route of the table wins over one that would follow: what
    llama.cpp's server has without `/v1` is in its own form.
    """
    table = list(routes)
    known = {(route.method, route.path) for route in table}
    for route in tuple(table):
        short = route.path.removeprefix(_VERSION)
        if route.path.startswith(f"{_VERSION}/") and (route.method, short) not in known:
            table.append(replace(route, path=short, canonical=route.path))
    heads = [
        replace(route, method="HEAD", canonical=route.canonical or route.path)
        for route in table
        if route.method == "GET" and ("HEAD", route.path) not in known
    ]
    return (*table, *heads)
