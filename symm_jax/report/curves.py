"""The curves of a run: which figures of its metric files are drawn together, and how."""

import math
from collections.abc import Sequence
from typing import NamedTuple

_MOST = 2000  # points of a curve: more than a screen is wide
_ORDERS = 100  # a curve whose values span this factor is drawn on a logarithmic scale

_NAMES = {"map@r": "MAP@R", "r_precision": "R-precision", "nmi": "NMI", "f1": "F1"}
_WHERE = {"validation": "held-out classes"}


class Series(NamedTuple):
    """A curve: its name, steps ascending, and one finite value a step."""

    name: str
    steps: list[int]
    values: list[float]


class Chart(NamedTuple):
    """Curves drawn together; `share`: values in [0, 1], shown as percentages; `log`: on a logarithmic scale."""

    title: str
    series: list[Series]
    share: bool
    log: bool


def charts(train: Sequence[dict], evaluated: Sequence[dict]) -> list[Chart]:
    """The charts of a run from the lines of its two metric files, without those that nothing was logged for."""
    names = {key: None for line in evaluated for key in line if key != "step"}
    recalls = sorted((name for name in names if _is_recall(name)), key=_order)
    others = [name for name in ("map@r", "r_precision", "nmi", "f1") if name in names]
    drawn = [
        _chart("Loss", train, ["loss"]),
        _chart("Learning rate", train, ["learning_rate"]),
        _chart("Length of an embedding", train, ["embedding_norm"]),
        _chart("Recall", evaluated, recalls, share=True),
        _chart("Ranking and clusters", evaluated, others, share=True),
    ]
    return [chart for chart in drawn if chart.series]


def title(name: str) -> str:
    """How a person writes a metric: "nmi" -> "NMI", "validation/recall@1" -> "Recall@1, held-out classes"."""
    *where, last = name.split("/")
    return ", ".join([_NAMES.get(last, last.replace("_", " ").capitalize()), *(_WHERE.get(w, w) for w in where)])


def figures(line: dict) -> list[tuple[str, float]]:
    """The shares of one line of eval/metrics.jsonl under their titles: recalls by k, the others, validation last."""
    names = [name for name in line if name != "step" and _finite(line[name])]
    return [(title(name), line[name]) for name in sorted(names, key=_order)]


def _chart(heading: str, lines: Sequence[dict], names: Sequence[str], share: bool = False) -> Chart:
    series = [curve for name in names if (curve := _series(name, lines)).steps]
    values = [value for curve in series for value in curve.values]
    log = bool(values) and min(values) > 0 and max(values) / min(values) >= _ORDERS
    return Chart(heading, series, share, log)


def _series(name: str, lines: Sequence[dict]) -> Series:
    # A dict keeps the last line of a step.
    values = dict(sorted({line["step"]: line[name] for line in lines if _finite(line.get(name))}.items()))
    steps = list(values)
    thin = steps[:: -(-len(steps) // _MOST) or 1]
    if steps and thin[-1] != steps[-1]:
        thin.append(steps[-1])
    return Series(title(name), thin, [values[step] for step in thin])


def _order(name: str) -> tuple:
    *where, last = name.split("/")
    stem, _, k = last.partition("@")
    known = list(_NAMES).index(last) if last in _NAMES else len(_NAMES)
    return (len(where), stem != "recall", int(k) if k.isdigit() else 0, known, name)


def _is_recall(name: str) -> bool:
    return name.split("/")[-1].startswith("recall@")


def _finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
