"""Pages in a real browser. They are opened from files, with everything they need inside."""

import io
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sklearn_loce.plotting import to_html

from .browser import (
    chromium,
    console_errors,
    failed_requests,
    missing_browser,
    network_events,
    open_quietly,
    requested,
)
from .concept_maps import (
    COLUMNS,
    HOSTILE,
    grid_coordinates,
    hostile_table,
    nearest,
    write_hostile_map,
)

pytestmark = pytest.mark.skipif(bool(missing_browser()), reason=missing_browser() or "is there")

N_ROWS = 24
_READY = "return document.documentElement.dataset.ready"
_PLACE = """
const box = document.getElementById("map").getBoundingClientRect(), [x, y] = onScreen(arguments[0]);
return [Math.round(box.left + x), Math.round(box.top + y)];
"""
_LOADED = """
return [...document.querySelectorAll(arguments[0])].map((image) =>
  [image.src.slice(0, 23), image.complete && image.naturalWidth]);
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Give (path, embeddings, samples) of a map with hostile texts."""
    path = tmp_path_factory.mktemp("map") / "map.html"
    return path, *write_hostile_map(path, N_ROWS)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(driver, written):
    """Open the map anew; whatever a test does must leave the console and the network silent."""
    page = MapPage(driver)
    assert open_quietly(driver, written[0].as_uri()) == ([], [])
    page.wait(_READY)
    yield page
    assert console_errors(driver) == []
    events = network_events(driver)
    assert failed_requests(events) == []
    assert [url for url in requested(events) if not url.startswith("file:")] == []
    assert driver.execute_script("return window.hurt === undefined")


class MapPage:
    """What a person does with the map."""

    def __init__(self, driver):
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        self._wait = WebDriverWait(driver, 20, poll_frequency=0.05)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments):
        """Wait until a script gives something true, and give that."""
        return self._wait.until(lambda driver: driver.execute_script(script, *arguments))

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector):
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
            selector,
        )

    def act(self, build):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        chain = ActionChains(self.driver)
        chain.w3c_actions = ActionBuilder(self.driver, duration=0)
        build(chain)
        chain.perform()

    def point_at(self, x, y, *, click=False):
        def build(chain):
            chain.w3c_actions.pointer_action.move_to_location(x, y)
            if click:
                chain.w3c_actions.pointer_action.click()

        self.act(build)

    def point_at_row(self, row, *, beside=0, **how):
        x, y = self.run(_PLACE, row)
        self.point_at(x + beside, y, **how)

    def press(self, *keys):
        from selenium.webdriver.common.keys import Keys

        self.act(lambda chain: chain.send_keys(*(getattr(Keys, key, key) for key in keys)))

    def selected(self):
        return self.run("return selected")

    def pixels(self):
        """Give what is painted, as an array of RGB."""
        self.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 60)))")
        shot = Image.open(io.BytesIO(self.driver.get_screenshot_as_png()))
        return np.asarray(shot.convert("RGB")).astype(int)

    def painted(self):
        """Tell of each row whether its place is coloured, and not white."""
        pixels = self.pixels()
        places = [self.run(_PLACE, row) for row in range(N_ROWS)]
        return [bool(pixels[y - 1 : y + 2, x - 1 : x + 2].min() < 200) for x, y in places]


def test_every_point_is_painted_where_it_should_be(page):
    assert page.painted() == [True] * N_ROWS
    (x0, y0), (x1, y1) = (page.run(_PLACE, row) for row in (0, N_ROWS - 1))
    steps = (N_ROWS - 1) % COLUMNS, (N_ROWS - 1) // COLUMNS
    assert (x1 - x0) / steps[0] == pytest.approx((y1 - y0) / steps[1], abs=1)  # equal scales


def test_hovering_shows_the_pictures(page, written):
    page.point_at_row(9)
    page.wait("return pointed === 9")
    images = page.wait(_LOADED, "#card img")
    assert len(images) == 3  # the image, and with its projection
    assert all(image == ["data:image/webp;base64,", 80] for image in images)
    assert page.texts("#card .name") == [HOSTILE[9 % len(HOSTILE)]]
    assert page.texts("#card dd")[0] == written[2]["image_id"][9]
    assert page.run("return document.querySelector('#card .edge').getBBox().width > 50")
    page.point_at_row(9, beside=40)
    page.wait("return document.getElementById('card').hidden")


def test_a_concept_that_is_filtered_out_is_painted_no_more(page, written):
    page.find("#concepts label:nth-of-type(2)").click()
    hidden = page.texts("#concepts .name")[1]
    expected = [concept != hidden for concept in written[2]["concept"]]
    assert page.painted() == expected
    assert page.find("#shown").text == f"{sum(expected)} of {N_ROWS} points shown"
    page.point_at_row(expected.index(False))
    page.pixels()
    assert page.run("return document.getElementById('card').hidden")
    page.point_at_row(expected.index(True))
    page.wait("return !document.getElementById('card').hidden")


def test_all_and_none(page):
    none, all_ = page.driver.find_elements("css selector", "#clusters legend button")[::-1]
    none.click()
    assert page.painted() == [False] * N_ROWS
    all_.click()
    assert page.painted() == [True] * N_ROWS


def test_a_cluster_is_filtered(page):
    page.find("#clusters label:nth-of-type(1)").click()
    hidden = page.texts("#clusters .name")[0]
    assert page.painted() == [HOSTILE[row // 8] != hidden for row in range(N_ROWS)]


def test_iou_is_filtered_by_the_keyboard(page):
    page.find("#iou-from").send_keys(*["\ue014"] * 30)  # to the right
    assert page.find("#iou-range").text == "0.30 to 1.00"
    assert page.painted() == [bool(iou >= 0.3) for iou in np.linspace(0, 1, N_ROWS)]
    page.find("#iou-to").send_keys("\ue011")  # Home: not below the other end
    assert page.find("#iou-range").text == "0.30 to 0.30"


def test_selecting_lists_the_neighbours(page, written):
    page.point_at_row(7, click=True)
    page.wait("return selected === 7")
    order, distances = (found[7] for found in nearest(written[1], 4))
    listed = page.run("return [...document.querySelectorAll('.near')].map((b) => +b.dataset.point)")
    assert listed == order
    shown = [float(text) for text in page.texts(".near .distance")]
    np.testing.assert_allclose(shown, distances, rtol=5e-3)
    pictures = page.wait(_LOADED, ".near img")
    assert pictures == [["data:image/webp;base64,", 80]] * 4
    assert page.texts("#neighbours .name") == [written[2]["concept"][k] for k in order]
    page.find(".near").click()
    assert page.selected() == order[0]
    time.sleep(0.5)  # sooner, this would be a double click with the first one
    page.point_at_row(7, beside=40, click=True)
    page.wait("return selected === null")
    assert page.texts(".near") == []


def test_the_selected_row_and_its_neighbours_are_saved_with_their_annotations(
    page, written, tmp_path
):
    _, embeddings, samples = written
    order, distances = (found[8] for found in nearest(embeddings, 4))
    page.run("select(8)")
    where = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", where)
    page.find("#selected .save").click()
    file = tmp_path / "rows.csv"
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    table = pd.read_csv(file, keep_default_na=False)
    rows = [8, *order]
    assert table["row"].tolist() == rows
    np.testing.assert_allclose(table["distance"][1:].astype(float), distances, rtol=1e-3)
    for name in ("concept", "image_id"):
        assert table[name].tolist() == samples[name].iloc[rows].tolist()
    assert table["annotation_id"].tolist() == [", ".join(samples["annotation_id"][k]) for k in rows]
    np.testing.assert_allclose(table[HOSTILE[1]], samples[HOSTILE[1]].iloc[rows])


def test_a_card_tells_the_further_columns(page, written):
    for row, ids in ((8, ", ".join(written[2]["annotation_id"][8])), (0, "none")):
        page.run("point(arguments[0])", row)
        facts = dict(zip(page.texts("#card dt"), page.texts("#card dd"), strict=True))
        assert facts["annotation_id"] == ids
        assert facts[HOSTILE[1]] == str(row // 8)


def test_neighbours_that_are_filtered_out_are_painted_no_more(page, written):
    page.point_at_row(7, click=True)
    page.wait("return selected === 7")
    page.driver.find_elements("css selector", "#concepts legend button")[1].click()  # none
    assert page.painted() == [row == 7 for row in range(N_ROWS)]
    assert page.run("return find('links').data.x0.length") == 0
    assert len(page.texts(".near")) == 4  # the list is of the embeddings


def test_the_ends_of_the_iou_part_again_by_mouse(page):
    page.find("#iou-from").send_keys("\ue010")  # End: both lie on the right
    box = "const b = document.getElementById('iou-to').getBoundingClientRect();"
    left, top, width, height = page.run(f"{box} return [b.left, b.top, b.width, b.height]")
    y = round(top + height / 2)

    def drag(chain):
        pointer = chain.w3c_actions.pointer_action
        pointer.move_to_location(round(left + width - 8), y).pointer_down()
        pointer.move_to_location(round(left + width / 2), y).pointer_up()

    page.act(drag)
    low, high = map(float, page.find("#iou-range").text.split(" to "))
    assert high == 1
    assert low == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("how", ["Clear", "Escape"])
def test_the_focus_stays_when_the_selection_goes(page, how):
    page.run("select(7)")
    page.run("document.querySelector(arguments[0]).focus()", "#selected button")
    page.press("ENTER" if how == "Clear" else "ESCAPE")
    assert page.selected() is None
    assert page.run("return document.activeElement.id") == "map"


def test_long_names_leave_the_card_inside_the_map(driver, tmp_path):
    long = " ".join(["a very long name"] * 200)
    further = {f"{k} {long}": long for k in range(12)}
    table = hostile_table(6).assign(concept=long, image_id=long, **further)
    how = {"coordinates": grid_coordinates(6), "clusters": [long] * 6, "columns": [*further]}
    path = to_html(np.eye(6), table, tmp_path / "map.html", **how)
    page = MapPage(driver)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait(_READY)
    inside = """
    point(arguments[0]);
    const [card, stage] = ["card", "stage"].map((id) => byId(id).getBoundingClientRect());
    return card.top >= stage.top && card.bottom <= stage.bottom;
    """
    assert [page.run(inside, row) for row in range(6)] == [True] * 6


def test_search_goes_through_the_rows_of_an_image(page, written):
    wanted = written[2]["image_id"][3]
    rows = np.flatnonzero(written[2]["image_id"] == wanted).tolist()
    page.press("/")
    page.press(wanted)
    assert page.find("#found").text == f"{len(rows)} rows"
    seen = []
    for _ in range(len(rows) + 1):
        page.press("ENTER")
        seen.append(page.selected())
    assert seen == [*rows, rows[0]]
    assert page.texts("#selected dd")[0] == wanted


def test_search_for_what_is_not_there(page):
    page.find("#query").send_keys("nobody", "\ue007")
    assert page.find("#found").text == "0 rows"
    assert page.selected() is None


def test_the_keyboard_does_it_all(page, written):
    page.run("document.getElementById('zoom-in').focus()")
    page.act(lambda chain: chain.key_down("\ue008").send_keys("\ue004").key_up("\ue008"))
    assert page.run("return document.activeElement.id") == "map"
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.run("select(8)")
    seen = []
    for key in ("ARROW_RIGHT", "ARROW_DOWN", "ARROW_LEFT", "ARROW_UP"):
        page.press(key)
        seen.append(page.selected())
    assert seen == [9, 9 + COLUMNS, 8 + COLUMNS, 8]
    assert written[2]["concept"][8] in page.find("#said").get_attribute("textContent")
    order = nearest(written[1], 4)[0][8]
    page.press("ENTER", "ARROW_RIGHT")
    assert page.run("return +document.activeElement.dataset.point") == order[1]
    page.press("ENTER")
    assert page.selected() == order[1]
    page.press("ESCAPE")
    assert page.selected() is None


def test_keys_and_buttons_zoom(page):
    width = "return model.x_range.end - model.x_range.start"
    whole = page.run(width)
    page.find("#zoom-in").click()
    assert page.run(width) == pytest.approx(whole / 1.4)
    page.run("document.getElementById('map').focus()")
    page.press("+", "+", "-")
    assert page.run(width) == pytest.approx(whole / 1.4**2)
    page.press("0")
    assert page.run(width) == pytest.approx(whole)


def test_the_first_tab_stop_leads_to_the_map(page):
    top = "return document.querySelector('.skip').getBoundingClientRect().bottom"
    assert page.run(top) < 0
    page.press("TAB")
    assert page.run("return document.activeElement.textContent") == "Skip to the map"
    assert page.run(top) > 0
    page.press("ENTER")
    page.wait("return document.activeElement.id === 'map'")
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.run(top) < 0
    page.press("ARROW_RIGHT")
    assert page.selected() is not None


def test_tab_stops_have_names(page):
    unnamed = """
    const stops = [...document.querySelectorAll("a, button, input, [tabindex]")];
    const inside = document.querySelector("#map").firstElementChild?.shadowRoot;
    const lost = inside ? [...inside.querySelectorAll("[tabindex]")] : [];
    return [...stops.filter((stop) => !(stop.ariaLabel || stop.textContent.trim()
      || stop.labels?.[0]?.textContent.trim())), ...lost].map((stop) => stop.outerHTML);
    """
    page.run("select(0)")
    assert page.run(unnamed) == []


def test_a_concept_without_a_name_is_filtered_and_read_out(driver, tmp_path):
    table = hostile_table(6).assign(concept=["", "car"] * 3)
    path = to_html(np.eye(6), table, tmp_path / "map.html", coordinates=grid_coordinates(6))
    page = MapPage(driver)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait(_READY)
    box = page.find("#concepts .choice:nth-of-type(1) input")
    assert "(no name)" in box.accessible_name
    page.run("select(0); point(0)")
    for place in ("#card .name", "#selected .name", ".near .name", "#said"):
        assert any("(no name)" in text for text in page.texts(place))


def test_colours_by_cluster(page):
    before = page.pixels()
    page.find("#colour-by label:nth-of-type(2)").click()
    assert (before != page.pixels()).any()
    x, y = page.run(_PLACE, 0)
    x1, y1 = page.run(_PLACE, 7)  # another concept, the same cluster
    pixels = page.pixels()
    np.testing.assert_array_equal(pixels[y, x], pixels[y1, x1])


def test_hostile_texts_are_shown_as_text(page):
    assert page.driver.title == HOSTILE[2]
    assert page.find("h1").text == HOSTILE[2]
    assert sorted(page.texts("#concepts .name")) == sorted(HOSTILE)
    for row in range(N_ROWS):
        page.run("select(arguments[0]); point(arguments[0])", row)
    assert page.run("return document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert page.run("return document.scripts.length") == 5


def test_a_script_that_is_put_in_does_not_run(page):
    page.run(
        "const s = document.createElement('script'); s.textContent = 'window.hurt = 1';"
        "document.body.append(s);"
    )
    assert page.run("return window.hurt === undefined")
    assert [m for m in console_errors(page.driver) if "Content Security Policy" in m]


@pytest.mark.parametrize("size", [(1900, 1000), (900, 900), (500, 900)])
def test_nothing_is_cut_off_in_windows_of_any_width(page, size):
    page.driver.set_window_size(*size)
    page.run("select(0)")
    try:
        page.wait(
            "return model.inner_width < innerWidth && document.body.scrollWidth <= innerWidth"
        )
        inside = "return [...Array(arguments[0]).keys()].every((i) => {"
        inside += (
            "const [x, y] = onScreen(i); return x > 0 && y > 0 && x < size[0] && y < size[1]})"
        )
        page.run("fit()")
        assert page.run(inside, N_ROWS)
    finally:
        page.driver.set_window_size(1400, 900)
