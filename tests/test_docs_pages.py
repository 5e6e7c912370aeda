"""The fenced code of pages runs as printed. Sphinx executes code cells at each build."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("no_figure_stays")

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = DOCS.parent / "examples"
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
TOCTREE = re.compile(r"```\{toctree\}\n(?::[^\n]*\n)*(.*?)```", flags=re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# This page needs an extra, and has tests of its own.
ELSEWHERE = {"scale.md"}
PAGES = sorted(
    path.name
    for path in DOCS.glob("*.md")
    if path.name not in ELSEWHERE and BLOCK.search(path.read_text(encoding="utf-8"))
)


def _run_session(code, names, where):
    """Run a block of prompts and answers, and compare the answers."""
    session = doctest.DocTestParser().get_doctest(code, names, where, None, 0)
    reports = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    runner.run(session, out=reports.append, clear_globs=False)
    names.update(session.globs)
    return "".join(reports)


def _run_page(path):
    """Return the report of the first block whose answers differ from the page."""
    names = {"__name__": "page"}
    for i, (kind, code) in enumerate(BLOCK.findall(path.read_text(encoding="utf-8"))):
        if kind == "python":
            exec(compile(code, f"{path.name}, block {i}", "exec"), names)
        elif report := _run_session(code, names, f"{path.name}, block {i}"):
            return report
    return ""


def test_pages_are_found():
    assert {"index.md", "reproducibility.md"} <= set(PAGES)


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (p == "study.md")) for p in PAGES]
)
def test_code_runs_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if report := _run_page(DOCS / page):
        pytest.fail(report)


@pytest.mark.parametrize(
    ("page", "is_reported"),
    [
        ("```python\nx = 1\n```\n\n```pycon\n>>> x + 1\n2\n```\n", False),
        ("```pycon\n>>> 1 + 1\n3\n```\n", True),
    ],
)
def test_wrong_answers_are_reported(page, is_reported, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(page)
    assert bool(_run_page(path)) is is_reported


def test_failing_code_raises(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("```python\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError):
        _run_page(path)


def test_the_user_guide_lists_every_page_and_the_readme_links_it():
    guide = (DOCS / "user_guide.md").read_text(encoding="utf-8")
    listed = [name for tree in TOCTREE.findall(guide) for name in tree.split()]
    apart = {"index", "user_guide", "changelog", "contributing", "development", "faq", "quickstart"}
    assert set(listed) == {path.stem for path in DOCS.glob("*.md")} - apart
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\]\(docs/(\w+)\.md\)", readme))
    assert links >= {*listed, "quickstart", "faq"}
    assert links >= set(re.findall(r"^\[.*\]\((\w+)\.md\)\n:", guide, flags=re.MULTILINE))


def test_the_order_of_the_gallery_lists_every_example():
    spec = importlib.util.spec_from_file_location("order", DOCS / "_ext" / "gallery_order.py")
    order = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(order)
    assert sorted(order.ORDER) == sorted(path.stem for path in EXAMPLES.glob("plot_*.py"))
