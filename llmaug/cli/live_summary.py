"""The tables of `llmaug ab` and `llmaug counterfactual`."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from llmaug.core.terminal import Terminal


def print_ab(console: Terminal, result: dict[str, Any]) -> None:
    """result: what `ab.analyse` returns."""
    pair = [result["control"], result["treatment"]]
    sides = [result["variants"][variant] for variant in pair]
    table = Table(box=None)
    for column in ("", *pair, "lift (95% interval)", "p (Holm)", "detectable"):
        table.add_column(column)
    for size in ("users", "exposures"):
        table.add_row(size, *(f"{side[size]:,}" for side in sides))
    for name, metric in result["metrics"].items():
        smallest = metric["minimal_detectable"]["relative"]
        style = "bold" if metric["significant"] else None
        table.add_row(
            name.replace("_", " "),
            *(f"{side[name]['value']:.4f}" for side in sides),
            f"{_figure(metric['absolute'], '+.4f')}\n{_figure(metric['relative'], '+.1%')}",
            "" if metric["p_adjusted"] is None else f"{metric['p_adjusted']:.2g}",
            "" if smallest is None else f"{smallest:.1%}",
            style=style,
        )
    console.print(table)
    for name, metric in result["metrics"].items():
        if metric["power"] is not None:
            console.print(f"power for the expected lift of {name}: {metric['power']:.0%}")
    split = result["sample_ratio"]
    console.print(
        f"users in '{pair[1]}': {split['treatment_share']:.2%}, planned "
        f"{split['expected_treatment_share']:.2%} (p = {split['p_value']:.2g})"
    )
    for kind in ("exposures", "feedback"):
        counts = result["ledger"][kind]
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        console.print(f"{kind}: {listed}")
    _print_warnings(console, result["warnings"])
    if not result["trusted"]:
        why = ": the users were not split as planned"
        console.print(Text.assemble(("not to be trusted", "red"), why))


def print_counterfactual(console: Terminal, result: dict[str, Any]) -> None:
    """result: what `counterfactual.estimate` returns."""
    table = Table("", "reward (95% interval)", "lift over logged", "relative", box=None)
    table.add_row("logged", _figure(result["logged"]))
    for name, found in result["estimates"].items():
        lift = found["lift"]
        relative = "" if lift["relative"] is None else f"{lift['relative']:+.1%}"
        table.add_row(name, _figure(found), _figure(lift, "+.4f"), relative)
    console.print(table)
    weights = result["weights"]
    console.print(
        f"{result['num_rows']:,} rows of {result['num_users']:,} users, worth "
        f"{weights['effective_rows']:,.0f}; weights: mean {weights['mean']:.3f}, largest "
        f"{weights['max']:.1f}, {weights['clipped_rows']:,} clipped"
    )
    _print_warnings(console, result["warnings"])


def _print_warnings(console: Terminal, warnings: list[str]) -> None:
    for warning in warnings:
        console.print(f"- {warning}", style="yellow", soft_wrap=True)


def _figure(figure: dict[str, float] | None, spec: str = ".4f") -> str:
    if figure is None:
        return ""
    value, low, high = (format(figure[name], spec) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
