"""Tables of results as text."""

from collections.abc import Sequence

from symm_jax.run import best


def table(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """A text table in per cent, one row per checkpoint, and below it the checkpoints that can be reported.

    Args:
      rows: evaluated checkpoints by step, fractions by name.
      columns: names of the columns. The first one selects the checkpoints.
    """
    if not rows:
        return "no checkpoint has been evaluated"
    widths = [max(9, len(column) + 2) for column in columns]
    lines = ["    step" + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True))]
    for row in rows:
        cells = (
            f"{100 * row[c]:{w - 1}.2f}%" if c in row else f"{'-':>{w}}" for c, w in zip(columns, widths, strict=True)
        )
        lines.append(f"{row['step']:8d}" + "".join(cells))
    lines.append("")
    for how, row in best.select(rows, columns[0]).items():
        if columns[0] not in row:  # measured with other recall_ks, and its checkpoint cannot be measured again
            continue
        caution = ", optimistic: chosen by what it measures" if how == best.TEST else ""
        lines.append(
            f"  step {row['step']:<6} {columns[0]} {100 * row[columns[0]]:.2f}%  {best.MEANINGS[how]}{caution}"
        )
    return "\n".join(lines)
