"""A pytest plugin, `pytest -p fault_parts.longer`: property tests get FUZZ_FACTOR times as many examples.

The tests name a small number themselves, so that the suite stays short. A profile of hypothesis would not change that.
"""

import os

import hypothesis

_init = hypothesis.settings.__init__


def _with_more_examples(self, *parent, **options):
    if "max_examples" in options:
        options |= {"max_examples": options["max_examples"] * int(os.environ["FUZZ_FACTOR"]), "deadline": None}
    _init(self, *parent, **options)


hypothesis.settings.__init__ = _with_more_examples
