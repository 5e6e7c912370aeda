"""The code of pages runs as printed. Sphinx executes the pages with code cells at each build."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_figure_stays")

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = DOCS.parent / "examples"
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# These two need more than a minute or an extra, and have tests of their own.
ELSEWHERE = {"large_runs.md", "scale.md"}
SLOW = {"choosing_a_layer.md", "choosing_a_setting.md", "quickstart.md"}
PAGES = sorted(
    path.name
    for path in DOCS.glob("*.md")
    if path.name not in ELSEWHERE and BLOCK.search(path.read_text(encoding="utf-8"))
)


def _run_session(code, names, where):
    """Run a block of prompts and answers, and compare the answers."""
    session = doctest.DocTestParser().get_doctest(code, names, where, None, 0)
    told = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    runner.run(session, out=told.append, clear_globs=False)
    names.update(session.globs)
    return "".join(told)


def _run_page(path):
    """Give what went otherwise than the page says, of the first block where something did."""
    names = {"__name__": "page"}
    for i, (kind, code) in enumerate(BLOCK.findall(path.read_text(encoding="utf-8"))):
        if kind == "python":
            exec(compile(code, f"{path.name}, block {i}", "exec"), names)
        elif told := _run_session(code, names, f"{path.name}, block {i}"):
            return told
    return ""


def test_pages_are_found():
    assert {"index.md", "quickstart.md", "reproducibility.md"} <= set(PAGES)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in PAGES],
)
def test_code_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = _run_page(DOCS / page)
    if told:
        pytest.fail(told)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("```python\nx = 1\n```\n\n```pycon\n>>> x + 1\n2\n```\n", False),
        ("```pycon\n>>> 1 + 1\n3\n```\n", True),
    ],
)
def test_a_wrong_answer_is_seen(page, told, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(page)
    assert bool(_run_page(path)) is told


def test_code_that_fails_is_seen(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError):
        _run_page(path)


def test_the_gallery_is_in_an_order_that_names_every_example():
    spec = importlib.util.spec_from_file_location("order", DOCS / "_ext" / "gallery_order.py")
    order = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(order)
    assert sorted(order.ORDER) == sorted(path.stem for path in EXAMPLES.glob("plot_*.py"))
