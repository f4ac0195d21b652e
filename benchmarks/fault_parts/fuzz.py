"""The property tests of readers, with more examples than in the suite."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from checkout import ROOT

from fault_parts import tiny
from fault_parts.table import FAULT, Table

# What is read -> the test that damages it.
TESTS = {
    "archives": "data/test_archives.py::test_damaged_archives_are_read_or_named_and_never_written_out",
    "names in archives": "data/test_archives.py::test_any_name_stays_below_the_folder_or_is_rejected",
    "pictures": "data/test_decode.py::test_an_image_with_any_damage_is_decoded_or_rejected",
    "text as annotations": "data/test_tables.py::test_any_text_is_a_table_or_is_named",
    "annotations of data sets": "data/test_tables.py::test_damaged_tables_are_read_or_named",
    "MATLAB files, each in a process": "data/test_tables.py::test_damaged_matlab_files_are_read_or_named",
    "weights, .pth and .safetensors": (
        "models/test_torchfile.py::test_a_file_of_weights_with_any_damage_is_read_or_rejected"
    ),
    "`metrics.jsonl`": "run/test_metric_log.py::test_a_wrong_byte_gives_lines_or_our_error",
    "`config.json`": "run/test_config_json.py::test_a_wrong_byte_gives_a_config_or_our_error",
    "`data.json`": "run/test_workdir.py::test_any_data_json_is_read_or_refused_with_a_message",
    "`choice.json`": "run/test_workdir.py::test_any_choice_json_is_read_or_refused_with_a_message",
}


def fuzz(runs: tiny.Tiny, tries: int) -> Table:
    """Runs each test with `tries` times the examples that it has in the suite, which are 20 to 150."""
    result = runs.new() / "result.xml"
    here = str(Path(__file__).parents[1])
    variables = os.environ | {"FUZZ_FACTOR": str(tries), "PYTHONPATH": os.pathsep.join([here, str(ROOT)])}
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        variables.pop(name)
    options = ["-p", "fault_parts.longer", "-p", "no:xdist", "-p", "no:cacheprovider", f"--junitxml={result}"]
    tests = [f"tests/{name}" for name in TESTS.values()]
    subprocess.run([sys.executable, "-m", "pytest", *tests, *options], cwd=ROOT, env=variables)
    cases = [*ElementTree.parse(result).iter("testcase")]
    rows = [_row(read, [case for case in cases if _is_of(case, test)]) for read, test in TESTS.items()]
    return Table(("file", "outcome", "time"), rows, f"{tries} times the examples of the suite.")


def _is_of(case: ElementTree.Element, test: str) -> bool:
    file, name = test.split(".py::")
    found = str(case.get("classname")).replace(".", "/"), str(case.get("name")).split("[")[0]
    return found == (f"tests/{file}", name)


def _row(read: str, cases: list[ElementTree.Element]) -> tuple[str, ...]:
    """One row for the cases of a test."""
    problems = [child.get("message") or "" for case in cases for child in case if child.tag in ("failure", "error")]
    found = f"{FAULT} {problems[0].splitlines()[:1]}" if problems else "read, or refused by our own error"
    seconds = sum(float(case.get("time") or 0) for case in cases)
    return read, found if cases else f"{FAULT} no such test", f"{seconds:.0f} s"
