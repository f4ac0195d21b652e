"""Tables of results as text."""

from collections.abc import Sequence


def table(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """A text table of shares as percentages, a row a checkpoint, the highest first column marked."""
    best = max(row[columns[0]] for row in rows)
    lines = ["  ".join(["    step", *(f"{c:>9}" for c in columns)])]
    for row in rows:
        mark = "  * best on the test classes" if row[columns[0]] == best else ""
        lines.append("  ".join([f"{row['step']:8d}", *(f"{100 * row[c]:8.2f}%" for c in columns)]) + mark)
    return "\n".join(lines)
