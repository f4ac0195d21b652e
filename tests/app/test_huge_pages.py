"""A program starts itself again with huge pages, once, and nothing else changes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from symm_jax.app import huge_pages

ADVICE = "always [madvise] never\n"
PROGRAM = """
import os, signal, sys
from symm_jax.app import huge_pages
huge_pages._read_offer = lambda: "always [madvise] never"
print(os.getpid(), flush=True)
huge_pages.restart()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], signal.getsignal(signal.SIGHUP), sys.flags.dev_mode)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("offer", "before", "after"),
    [
        (ADVICE, {}, "glibc.malloc.hugetlb=1"),
        (ADVICE, {"GLIBC_TUNABLES": "glibc.malloc.check=0"}, "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        (ADVICE, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
        (ADVICE, {"SYMM_JAX_HUGE_PAGES": "0"}, None),
        ("[always] madvise never\n", {}, None),
        ("always madvise [never]\n", {}, None),
        ("", {}, None),
    ],
)
def test_the_variable_is_set_where_it_helps(offer, before, after):
    found = huge_pages.environment(before, offer=offer)
    assert found == before | ({} if after is None else {"GLIBC_TUNABLES": after})


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_become_the_null_device(closed, tmp_path):
    """A daemon closes them. The next file that is opened must not take their place."""
    program = (
        "import os, sys; from symm_jax.app import huge_pages, system; system.open_streams(); huge_pages.restart()\n"
        f"open({str(tmp_path / 'done')!r}, 'w').write(str([os.path.samefile(os.devnull, n) for n in {closed}]))\n"
        "print('x'); print('y', file=sys.stderr, flush=True)"
    )
    closing = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    result = subprocess.run(["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", program], timeout=60)
    assert result.returncode == 0 and (tmp_path / "done").read_text() == str([True] * len(closed))


def test_a_program_starts_again_once_and_stays_itself():
    variables = {key: x for key, x in os.environ.items() if key not in ("GLIBC_TUNABLES", huge_pages.SWITCH)}
    without_hangups = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    program = subprocess.Popen(
        [*without_hangups, sys.executable, "-X", "dev", "-c", PROGRAM, "--flag=a b", ""],
        env=variables | {"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        text=True,
    )
    first, second, result = program.communicate()[0].splitlines()
    assert first == second == str(program.pid) and program.returncode == 7
    assert result == f"glibc.malloc.hugetlb=1 ['--flag=a b', ''] {signal.SIG_IGN} True"
