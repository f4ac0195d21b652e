"""A table of outcomes, and where it stands on a page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

FAULT = "FAULT"  # begins the outcome of a try that broke a promise


class Table(NamedTuple):
    """The rows of a part, and a sentence that says what was tried."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    tried: str

    def markdown(self) -> str:
        rows = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in self.rows]
        lines = [self.head, ["---"] * len(self.head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def faults(self) -> int:
        return sum(FAULT in str(cell) for row in self.rows for cell in row)


def insert(page: Path, name: str, text: str) -> None:
    """Replaces what stands between the two markers `<!-- table NAME -->` and `<!-- end -->` on a page."""
    before = page.read_text()
    start = f"<!-- table {name} -->\n"
    after = re.sub(
        f"{re.escape(start)}.*?<!-- end -->", lambda _: f"{start}\n{text}\n\n<!-- end -->", before, flags=re.S
    )
    if start not in before:
        raise SystemExit(f"{page} has no marker {start.strip()}")
    page.write_text(after)
