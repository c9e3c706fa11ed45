"""The options of `miner bench` that say what is shown of a measurement."""

from __future__ import annotations

import argparse


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add --html, --show, --compare and --fail-above."""
    group = parser.add_argument_group("reports")
    group.add_argument("--html", metavar="FILE", help="write a page with plots, which needs no network")
    group.add_argument("--show", metavar="FILE", help="a saved result (--output) again; nothing is measured")
    group.add_argument(
        "--compare", metavar="FILE", nargs="+", default=[],
        help="saved results (--output): two or more are compared with the first and nothing is measured; "
        "one is the base of this measurement",
    )  # fmt: skip
    group.add_argument(
        "--fail-above", metavar="PERCENT",
        help="exit with 1 if a figure is worse than the base by more, beyond chance, or more requests fail",
    )  # fmt: skip
