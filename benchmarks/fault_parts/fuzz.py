"""The property tests of readers, with more examples than in the suite."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from checkout import ROOT

from fault_parts import tiny
from fault_parts.table import FAULT, Table

_NAMES = "fuzz or test_damaged or test_any_name"


def fuzz(runs: tiny.Tiny, tries: int) -> Table:
    """Runs each test with 100 x `tries` examples."""
    examples, result = 100 * tries, runs.new() / "result.xml"
    here = str(Path(__file__).parents[1])
    variables = os.environ | {"FUZZ_EXAMPLES": str(examples), "PYTHONPATH": os.pathsep.join([here, str(ROOT)])}
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        variables.pop(name)
    files = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "hypothesis" in path.read_text()]
    options = ["-k", _NAMES, "-p", "fault_parts.longer", "-p", "no:xdist", "-p", "no:cacheprovider"]
    subprocess.run([sys.executable, "-m", "pytest", *files, *options, f"--junitxml={result}"], cwd=ROOT, env=variables)
    rows = []
    for case in ElementTree.parse(result).iter("testcase"):
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        text = (problem.get("message") or "").splitlines()[:1] if problem is not None else []
        file = str(case.get("classname")).replace(".", "/")
        found = f"{FAULT} {text}" if problem is not None else "only our own errors"
        rows.append((f"`{file}.py`", str(case.get("name")), found, f"{float(case.get('time') or 0):.0f} s"))
    return Table(("file", "test", "outcome", "time"), rows, f"At most {examples:,} examples per test.")
