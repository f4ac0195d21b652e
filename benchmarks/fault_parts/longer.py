"""A pytest plugin, `pytest -p fault_parts.longer -k fuzz`: property tests get FUZZ_EXAMPLES examples.

The tests name a small number themselves, so that the suite stays short. A profile of hypothesis would not change that.
"""

import os

import hypothesis


def pytest_collection_modifyitems(items):
    for item in items:
        test = getattr(item, "obj", None)
        test = getattr(test, "__func__", test)
        found = getattr(test, "_hypothesis_internal_use_settings", None)
        if found is not None:
            count = int(os.environ["FUZZ_EXAMPLES"])
            test._hypothesis_internal_use_settings = hypothesis.settings(
                found, max_examples=count, deadline=None, database=None, derandomize=False
            )
