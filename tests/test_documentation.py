"""The pages are held to the code: blocks run, links lead somewhere, and what is registered is documented."""

import re
from pathlib import Path
from unittest import mock

import pytest

from symm_jax import losses, models, synthesis

PAGES = [Path(name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(Path("docs").rglob("*.md"))
PAGES = [page for page in PAGES if not {"_build", "modules"} & set(page.parts)]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


ELSEWHERE = [Path("README.md"), Path("docs/losses.md"), Path("docs/models.md")]  # test_launch.py runs these


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page) and page not in ELSEWHERE], ids=str)
def test_code_on_a_page_runs_from_top_to_bottom(page):
    names = {}
    registries = losses.LOSSES, synthesis.SYNTHESES, models.BACKBONES
    with mock.patch.dict(registries[0]), mock.patch.dict(registries[1]), mock.patch.dict(registries[2]):
        for block in blocks(page):
            exec(block, names)
        if "get_config" in names:  # what the page says of a config file
            loss = losses.from_config(names["get_config"]().losses)
            value, _ = loss(*2 * [names["jnp"].eye(4)], names["jnp"].arange(4))
            assert value >= 0


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link) or link.endswith("modules/index.md"):  # elsewhere, or made by the build
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.is_file(), f"{page}: {link}"
        if anchor:
            assert anchor in headings(target), f"{page}: {link}"


def headings(page):
    """Headings as the names that links use."""
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_loss_and_synthesis_is_exported_and_documented():
    api, guide = Path("docs/api/losses.md").read_text(), Path("docs/losses.md").read_text()
    for name, function in (losses.LOSSES | losses.PROXY_LOSSES).items():
        assert getattr(losses, function.__name__) is function, name
        assert function.__name__ in losses.__all__, name
        assert f"autofunction:: symm_jax.losses.{function.__name__}\n" in api, name
        assert f"\n| `{function.__name__}` |" in guide, name
    for name in losses.__all__:
        assert f"symm_jax.losses.{name}\n" in api, name
    api = Path("docs/api/synthesis.md").read_text()
    for name, function in synthesis.SYNTHESES.items():
        assert re.search(rf"auto(function|class):: symm_jax\.synthesis\.{function.__name__}\b", api), name
        assert f"`synthesis.{function.__name__}(" in guide, name


def test_figures_on_the_pages_exist_and_are_used():
    used = {name for page in PAGES for name in re.findall(r"!\[[^]]*\]\((?:docs/)?([\w/]+\.png)\)", page.read_text())}
    assert used == {path.name for path in Path("docs").glob("*.png")}
