"""The built documentation: its links, and its pages in a browser.

These tests need ``docs/_build/html``, as the command in ``CONTRIBUTING.md`` writes it.
"""

import importlib.util
from pathlib import Path

import pytest

from .browser import (
    chromium,
    console_errors,
    failed_requests,
    missing_browser,
    network_events,
    open_quietly,
    requested,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"
BUILT = DOCS / "_build" / "html"
needs_build = pytest.mark.skipif(
    not (BUILT / "index.html").is_file(), reason="needs the documentation to be built"
)


@pytest.fixture(scope="module")
def check_links():
    spec = importlib.util.spec_from_file_location("check_links", DOCS / "check_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(tmp_path, check_links):
    """Return a function that lists the problems of a page with a given body."""

    def problems(body):
        (tmp_path / "other.html").write_text('<h1 id="there">Other</h1>')
        (tmp_path / "picture.png").write_bytes(b"")
        (tmp_path / "index.html").write_text(f"<html><body>{body}</body></html>")
        return list(check_links.Site(tmp_path).problems())

    return problems


@pytest.mark.parametrize(
    "body",
    [
        '<a href="other.html#there">a</a>',
        '<p id="here"><a href="#here">a</a>',
        '<a href="https://doi.org/10.1007/s11263-025-02446-y">a</a>',
        '<img src="picture.png" srcset="picture.png, picture.png 2.00x">',
        '<img src="data:image/png;base64,AAAA">',
    ],
)
def test_valid_links_give_no_problem(site, body):
    assert site(body) == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="missing.html">a</a>', "no such file"),
        ('<a href="other.html#nowhere">a</a>', "no such anchor"),
        ('<a href="#nowhere">a</a>', "no such anchor"),
        ('<img src="missing.png">', "no such file"),
        ('<img src="picture.png" srcset="missing.png 2.00x">', "no such file"),
        ('<a href="https://nowhere/page">a</a>', "is no address"),
        ('<a href="htps://example.org">a</a>', "is no address"),
        ('<script src="https://example.org/x.js"></script>', "is fetched from the network"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "is fetched from the network"),
    ],
)
def test_broken_links_are_problems(site, body, problem):
    [found] = site(body)
    assert found.endswith(problem)


def test_styles_that_fetch_from_the_network_are_problems(site, tmp_path):
    (tmp_path / "x.css").write_text("@font-face { src: url('https://example.org/font.woff2') }")
    [found] = site("")
    assert "example.org/font.woff2: is fetched from the network" in found


@pytest.mark.slow
@needs_build
def test_the_documentation_has_no_broken_link(check_links):
    site = check_links.Site(BUILT)
    assert len(site.pages) > 100
    assert list(site.problems()) == []


@needs_build
def test_every_example_has_a_page_with_a_picture():
    for example in (DOCS.parent / "examples").glob("plot_*.py"):
        page = BUILT / "auto_examples" / f"{example.stem}.html"
        assert page.is_file()
        assert f"sphx_glr_{example.stem}_001" in page.read_text(encoding="utf-8")


@pytest.mark.slow
@needs_build
@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "page",
    [
        "index.html",
        "how_it_works.html",
        "auto_examples/plot_first_loces.html",
        "api/generated/sklearn_loce.LoCETransformer.html",
        "search.html?q=purity",
    ],
)
def test_pages_open_offline_without_errors(page, tmp_path):
    with chromium(tmp_path / "profile") as driver:
        driver.get(f"{BUILT.as_uri()}/{page}")
        driver.execute_async_script("setTimeout(arguments[0], 500)")
        events = network_events(driver)
        assert console_errors(driver) == []
        assert failed_requests(events) == []
        urls = requested(events)
        assert len([url for url in urls if url.startswith("file:")]) > 5
        assert [url for url in urls if url.startswith(("http", "ws"))] == []
        title = driver.execute_script("return document.querySelector('h1').offsetHeight")
        assert title > 0


@pytest.mark.slow
@needs_build
@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_formulas_are_drawn_and_the_search_finds_names(tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium(tmp_path / "profile") as driver:
        driver.get(f"{BUILT.as_uri()}/how_it_works.html")
        wide = "return [...document.querySelectorAll('math[display=block]')].map(m => m.clientWidth"
        script = f"{wide} || m.getBoundingClientRect().width)"
        WebDriverWait(driver, 60).until(lambda driver: len(driver.execute_script(script)) > 5)
        WebDriverWait(driver, 60).until(lambda driver: min(driver.execute_script(script)) > 100)
        driver.get(f"{BUILT.as_uri()}/search.html?q=overlap_ratio")
        results = "return document.querySelectorAll('ul.search li').length"
        WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(results))


# Elements whose content is wider than themselves, and would scroll.
WIDE = """
return [...document.querySelectorAll("pre, table, .cell_output, .pst-scrollable-table-container")]
    .concat([document.documentElement])
    .filter(element => element.scrollWidth > element.clientWidth + 1)
    .map(element => `${element.tagName} ${element.className}: ${element.innerText.slice(0, 60)}`)
"""


@needs_build
@pytest.mark.slow
@pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_no_page_scrolls_sideways_or_has_errors_at_1280_pixels(tmp_path):
    # Listings of sources, with line numbers, may scroll. The theme keeps templates among its files.
    apart = {"_modules", "_static"}
    pages = [path for path in BUILT.rglob("*.html") if not apart & set(path.parts)]
    assert len(pages) > 100
    problems = {}
    with chromium(tmp_path / "profile", size=(1280, 900)) as driver:
        for page in pages:
            errors, failed = open_quietly(driver, page.as_uri())
            if found := [*errors, *failed, *driver.execute_script(WIDE)]:
                problems[page.relative_to(BUILT).as_posix()] = found
    assert problems == {}
