"""Pages in a real browser. They are opened from files, with everything they need inside."""

import io
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageColor

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

pytestmark = [
    pytest.mark.skipif(bool(missing_browser()), reason=missing_browser() or "is there"),
    pytest.mark.slow,  # together, not each
]

N_ROWS = 24
_CONCEPT, _CLUSTER, _IOU = (f"[data-field={name}]" for name in ("Concept", "Cluster", "IoU"))
_LEAST, _LARGEST = f"{_IOU} [aria-label^=Least]", f"{_IOU} [aria-label^=Largest]"
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
    """Return (path, embeddings, samples) of a map with hostile texts."""
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

    def drag(self, *places):
        """Drag the mouse from place to place."""

        def build(chain):
            pointer = chain.w3c_actions.pointer_action
            pointer.move_to_location(*places[0]).pointer_down()
            for place in places[1:]:
                pointer.move_to_location(*place)
            pointer.pointer_up()

        self.act(build)

    def choose(self, name):
        """Choose the column that gives colors."""
        from selenium.webdriver.support.ui import Select

        Select(self.find("#color")).select_by_visible_text(name)

    def swipe(self, x, y, distance):
        """Move a finger up, and give how far the page has scrolled when it rests."""

        def touch(kind, *heights):
            points = [{"x": x, "y": height} for height in heights]
            event = {"type": kind, "touchPoints": points}
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

        self.run("scrollTo(0, 0)")
        touch("touchStart", y)
        for k in range(1, 9):
            touch("touchMove", y - distance * k / 8)
        touch("touchEnd")
        time.sleep(0.5)
        return self.run("return scrollY")

    def place(self, row):
        return self.run(_PLACE, row)

    def chosen(self):
        return self.run("return chosen")

    def save(self, button, file):
        """Press a button, and wait for the file that it saves."""
        where = {"behavior": "allow", "downloadPath": str(file.parent)}
        self.driver.execute_cdp_cmd("Page.setDownloadBehavior", where)
        self.find(button).click()
        deadline = time.monotonic() + 20
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return file

    def selected(self):
        return self.run("return selected")

    def pixels(self):
        """Return what is painted, as an array of RGB."""
        self.run("return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 60)))")
        shot = Image.open(io.BytesIO(self.driver.get_screenshot_as_png()))
        return np.asarray(shot.convert("RGB")).astype(int)

    def painted(self):
        """Tell of each row whether its place is colored, and not white."""
        pixels = self.pixels()
        places = [self.run(_PLACE, row) for row in range(N_ROWS)]
        return [bool(pixels[y - 1 : y + 2, x - 1 : x + 2].min() < 200) for x, y in places]


def read_csv(file):
    return pd.read_csv(file, keep_default_na=False)


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
    page.find(f"{_CONCEPT} label:nth-of-type(2)").click()
    hidden = page.texts(f"{_CONCEPT} .choice .name")[1]
    expected = [concept != hidden for concept in written[2]["concept"]]
    assert page.painted() == expected
    assert page.find("#shown").text == f"{sum(expected)} of {N_ROWS} points shown"
    page.point_at_row(expected.index(False))
    page.pixels()
    assert page.run("return document.getElementById('card').hidden")
    page.point_at_row(expected.index(True))
    page.wait("return !document.getElementById('card').hidden")


def test_all_and_none(page):
    none, all_ = page.driver.find_elements("css selector", f"{_CLUSTER} .all button")[::-1]
    none.click()
    assert page.painted() == [False] * N_ROWS
    all_.click()
    assert page.painted() == [True] * N_ROWS


def test_a_cluster_is_filtered(page):
    page.find(f"{_CLUSTER} label:nth-of-type(1)").click()
    hidden = page.texts(f"{_CLUSTER} .choice .name")[0]
    assert page.painted() == [HOSTILE[row // 8] != hidden for row in range(N_ROWS)]


def test_iou_is_filtered_by_the_keyboard(page):
    page.find(_LEAST).send_keys(*["\ue014"] * 30)  # to the right
    assert page.find(f"{_IOU} output").text == "0.3 to 1"
    assert page.painted() == [bool(iou >= 0.3) for iou in np.linspace(0, 1, N_ROWS)]
    page.find(_LARGEST).send_keys("\ue011")  # Home: not below the other end
    assert page.find(f"{_IOU} output").text == "0.3 to 0.3"


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
    assert page.texts("#neighbors .name") == [written[2]["concept"][k] for k in order]
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
    table = read_csv(page.save("#selected .save", tmp_path / "rows.csv"))
    rows = [8, *order]
    assert table["row"].tolist() == rows
    np.testing.assert_allclose(table["distance"][1:].astype(float), distances, rtol=1e-3)
    for name in ("concept", "image_id"):
        assert table[name].tolist() == samples[name].iloc[rows].tolist()
    assert table["annotation_id"].tolist() == [", ".join(samples["annotation_id"][k]) for k in rows]
    np.testing.assert_allclose(table[HOSTILE[1]], samples[HOSTILE[1]].iloc[rows])


def test_a_card_shows_the_further_columns(page, written):
    for row, ids in ((8, ", ".join(written[2]["annotation_id"][8])), (0, "none")):
        page.run("point(arguments[0])", row)
        facts = dict(zip(page.texts("#card dt"), page.texts("#card dd"), strict=True))
        assert facts["annotation_id"] == ids
        assert facts[HOSTILE[1]] == str(row // 8)


def test_neighbours_that_are_filtered_out_are_painted_no_more(page, written):
    page.point_at_row(7, click=True)
    page.wait("return selected === 7")
    page.driver.find_elements("css selector", f"{_CONCEPT} .all button")[1].click()  # none
    assert page.painted() == [row == 7 for row in range(N_ROWS)]
    assert page.run("return find('links').data.x0.length") == 0
    assert len(page.texts(".near")) == 4  # the list is of the embeddings


def test_the_ends_of_the_iou_part_again_by_mouse(page):
    page.find(_LEAST).send_keys("\ue010")  # End: both lie on the right
    box = f"const b = document.querySelector('{_LARGEST}').getBoundingClientRect();"
    left, top, width, height = page.run(f"{box} return [b.left, b.top, b.width, b.height]")
    y = round(top + height / 2)

    page.drag((round(left + width - 8), y), (round(left + width / 2), y))
    low, high = map(float, page.find(f"{_IOU} output").text.split(" to "))
    assert high == 1
    assert low == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("how", ["Clear", "Escape"])
def test_the_focus_stays_when_the_selection_goes(page, how):
    page.run("select(7)")
    page.run("document.querySelector(arguments[0]).focus()", "#selected button:last-child")
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


def test_search_without_a_match(page):
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
    box = page.find(f"{_CONCEPT} .choice:nth-of-type(1) input")
    assert "(no name)" in box.accessible_name
    page.run("select(0); point(2)")
    for place in ("#card .name", "#selected .name", ".near .name", "#said"):
        assert any("(no name)" in text for text in page.texts(place))


def test_colors_by_cluster(page):
    before = page.pixels()
    page.choose("Cluster")
    assert (before != page.pixels()).any()
    x, y = page.run(_PLACE, 0)
    x1, y1 = page.run(_PLACE, 7)  # another concept, the same cluster
    pixels = page.pixels()
    np.testing.assert_array_equal(pixels[y, x], pixels[y1, x1])


# ---- Selecting many ----


def around(page, first, last, margin=12):
    """Return the corners of a box from one row to another."""
    (x0, y0), (x1, y1) = page.place(first), page.place(last)
    return (x0 - margin, y0 - margin), (x1 + margin, y1 + margin)


def in_box(first, last):
    """Return the rows of the grid that lie between two of its corners."""
    (top, left), (bottom, right) = (divmod(row, COLUMNS) for row in (first, last))
    lines, columns = range(top, bottom + 1), range(left, right + 1)
    return [line * COLUMNS + column for line in lines for column in columns]


def listed(page, box="#chosen"):
    script = "return [...document.querySelectorAll(arguments[0])].map((b) => +b.dataset.point)"
    return page.run(script, f"{box} .near")


def test_a_box_selects_points_shows_their_images_and_saves_them(page, written, tmp_path):
    page.find("[data-tool=box]").click()
    page.drag(*around(page, 7, 16))
    rows = in_box(7, 16)
    assert page.chosen() == rows == listed(page)
    assert page.wait(_LOADED, "#chosen img") == [["data:image/webp;base64,", 80]] * len(rows)
    assert page.find("#said").get_attribute("textContent") == f"{len(rows)} rows selected"
    table = read_csv(page.save("#chosen .save", tmp_path / "rows.csv"))
    samples = written[2].iloc[rows]
    assert table["row"].tolist() == rows
    assert table["annotation_id"].tolist() == [", ".join(ids) for ids in samples["annotation_id"]]
    assert table["concept"].tolist() == samples["concept"].tolist()
    assert "distance" not in table
    page.driver.find_elements("css selector", "#chosen .near")[2].click()
    assert page.selected() == rows[2]
    assert listed(page) == rows
    page.drag(*around(page, 0, 1))
    assert page.chosen() == [0, 1]
    page.act(lambda chain: chain.key_down("\ue008"))  # Shift adds
    page.drag(*around(page, 22, 23))
    page.act(lambda chain: chain.key_up("\ue008"))
    assert page.chosen() == [0, 1, 22, 23]
    page.press("ESCAPE")
    assert page.chosen() == listed(page) == []


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_rows_are_copied_as_they_are_saved(page, has_clipboard):
    if not has_clipboard:
        page.run("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.run("choose([3, 1])")
    for box, expected in (
        ("#chosen .copy", "asCsv([3, 1])"),
        ("#copy-shown", "asCsv(rowsShown())"),
        (
            "#selected .copy",
            "asCsv([5, ...data.neighbors[5]], ['', ...data.distances[5]])",
        ),
    ):
        if box.startswith("#selected"):
            page.run("clearTo(5)")
        button = page.find(box)
        button.click()
        page.wait("return arguments[0].textContent === 'Copied'", button)
        # Pasted by the keyboard, as a page may not read the clipboard without being asked.
        page.run(
            "const box = document.createElement('textarea'); box.id = 'paste';"
            "document.body.append(box); box.focus()"
        )
        page.act(lambda chain: chain.key_down("\ue009").send_keys("v").key_up("\ue009"))
        pasted = page.run("const { value } = byId('paste'); byId('paste').remove(); return value")
        assert pasted == page.run(f"return {expected}").replace("\r\n", "\n")
    assert page.find("#said").get_attribute("textContent") == "5 rows copied"


def test_a_box_takes_no_points_that_are_filtered_out(page, written):
    page.find(f"{_CONCEPT} label:nth-of-type(2)").click()
    hidden = page.texts(f"{_CONCEPT} .choice .name")[1]
    page.find("[data-tool=box]").click()
    page.drag(*around(page, 0, 17))
    expected = [k for k in in_box(0, 17) if written[2]["concept"][k] != hidden]
    assert page.chosen() == expected


def test_a_lasso_selects_what_it_encloses(page):
    page.find("[data-tool=lasso]").click()
    (x0, y0), (x1, y1) = around(page, 0, 21, margin=20)
    start = (x0, y0 - 20)
    page.drag(start, (x1 + 20, y1), (x0, y1), start)  # the lower left half of a square
    expected = [row for row in in_box(0, 21) if row % COLUMNS <= row // COLUMNS]
    assert page.chosen() == expected


def test_the_keyboard_selects_many(page, written):
    page.run("select(8); byId('map').focus()")
    page.press("SPACE", "ARROW_RIGHT", "SPACE", "ARROW_RIGHT", "SPACE", "SPACE")
    assert page.chosen() == [8, 9]
    assert page.find("#said").get_attribute("textContent") == "2 rows selected"
    page.press("ENTER", "ARROW_RIGHT", "ENTER")
    assert page.selected() == 9
    assert page.run("return document.activeElement.dataset.point") == "9"
    page.run("byId('map').focus()")
    page.act(lambda chain: chain.key_down("\ue009").send_keys("a").key_up("\ue009"))
    assert page.chosen() == list(range(N_ROWS))


def test_long_selections_show_their_images_in_parts(page):
    page.run("choose([...Array(130).keys()].map((k) => k % nRows))")
    assert len(listed(page)) == 60
    page.find(".more").click()
    assert len(listed(page)) == 120
    page.find(".more").click()
    assert len(listed(page)) == 130
    assert not page.find(".more").is_displayed()


def test_the_points_shown_are_selected_and_saved(page, tmp_path):
    page.find(_LEAST).send_keys(*["\ue014"] * 50)
    rows = [row for row, iou in enumerate(np.linspace(0, 1, N_ROWS)) if iou >= 0.5]
    table = read_csv(page.save("#save-shown", tmp_path / "rows.csv"))
    assert table["row"].tolist() == rows
    page.find("#choose-shown").click()
    assert page.chosen() == rows
    page.find("#show-all").click()
    assert page.run("return rowsShown()") == list(range(N_ROWS))
    assert not page.find("#show-all").is_displayed()


def test_a_search_finds_any_text_and_selects_all_of_it(page, written):
    ids = written[2]["annotation_id"]
    wanted = ids[14][1]
    page.press("/")
    page.press(wanted.upper())
    assert page.find("#found").text == "1 row"
    page.press("ENTER")
    assert page.selected() == 14
    page.find("#query").clear()
    concept = written[2]["concept"][3]
    page.find("#query").send_keys(concept)
    page.find("#choose-found").click()
    assert page.chosen() == np.flatnonzero(written[2]["concept"] == concept).tolist()


# ---- Colors, filters and names ----


def test_numbers_color_by_a_scale_with_a_legend(page):
    page.choose("IoU")
    assert page.texts("#scale output") == ["0", "1"]
    ends = page.run("return [data.scale[0], data.scale.at(-1)]")
    pixels = page.pixels()
    for row, color in zip((0, N_ROWS - 1), ends, strict=True):
        x, y = page.place(row)
        expected = 0.85 * np.array(ImageColor.getrgb(color)) + 0.15 * 255
        np.testing.assert_allclose(pixels[y, x], expected, atol=2)
    assert page.run("return document.querySelectorAll('.choice .sign:not([hidden])').length") == 0
    page.choose("Concept")
    assert not page.find("#scale").is_displayed()


def test_marks_are_in_the_list_of_the_column_that_colors(page):
    shown = "return [...document.querySelectorAll(arguments[0])]"
    shown += ".map((sign) => !sign.hasAttribute('hidden'))"
    for field in ("Concept", "Cluster"):
        page.choose(field)
        for other, selector in (("Concept", _CONCEPT), ("Cluster", _CLUSTER)):
            assert set(page.run(shown, f"{selector} .sign")) == {field == other}


def test_further_columns_filter_by_range_and_by_list(page, written):
    numbers, ids = page.driver.find_elements("css selector", ".field")[3:5][::-1]
    assert numbers.get_attribute("data-field") == HOSTILE[1]
    numbers.find_element("css selector", "summary").click()
    numbers.find_element("css selector", "input").send_keys(*["\ue014"] * 50)
    values = written[2][HOSTILE[1]]
    expected = (values >= values.max() / 2).tolist()
    assert page.painted() == expected
    ids.find_element("css selector", "summary").click()
    page.run("arguments[0].querySelector('input').click()", ids)  # of those without an id
    expected = [ok and bool(i) for ok, i in zip(expected, written[2]["annotation_id"], strict=True)]
    assert page.painted() == expected


def test_columns_of_many_texts_filter_by_a_part(driver, tmp_path):
    samples = hostile_table(8).assign(file=[f"{HOSTILE[0]} {k}.png" for k in range(8)])
    table = pd.concat([samples] * 30, ignore_index=True)
    table["file"] = [f"{name} {k}" for k, name in enumerate(table["file"])]
    how = {"coordinates": grid_coordinates(len(table)), "n_neighbors": 1}
    X = np.random.default_rng(0).normal(size=(len(table), 3))
    path = to_html(X, table, tmp_path / "map.html", **how)
    page = MapPage(driver)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait(_READY)
    page.find("[data-field=file] summary").click()
    page.find("[data-field=file] input").send_keys("3.PNG 1")
    expected = [k for k, name in enumerate(table["file"]) if "3.png 1" in name]
    assert page.run("return rowsShown()") == expected


def test_names_stand_where_most_points_are_and_do_not_overlap(page, driver, tmp_path):
    places = "return find('name places').data"
    page.wait("return find('name places').data.text.length")
    assert {text.rstrip("…") for text in page.run(places)["text"]} <= {n[:30] for n in HOSTILE}
    page.find("#names").click()
    page.wait("return !find('name places').data.text.length")
    rng = np.random.default_rng(0)
    names = [f"concept {k}" for k in range(80)]
    centers, codes = rng.normal(size=(80, 2)), np.arange(240) % 80
    coordinates = centers[codes] + 0.01 * rng.normal(size=(240, 2))
    table = pd.concat([hostile_table(8)] * 30, ignore_index=True)
    table["concept"] = [names[code] for code in codes]
    path = to_html(coordinates, table, tmp_path / "map.html", coordinates=coordinates)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait("return find('name places').data.text.length")
    found = page.run(places)
    assert len(found["text"]) > 20
    half = np.array([page.run("return ruler.measureText(arguments[0]).width / 2", text)
                     for text in found["text"]])  # fmt: skip
    pixels = np.column_stack([found["x"], found["y"]]) / page.run("return scale()")
    pixels[:, 1] += found["dy"]
    gap = np.abs(pixels[:, None] - pixels[None])
    apart = (gap[..., 0] >= half[:, None] + half[None]) | (gap[..., 1] >= 12)
    assert apart[~np.eye(len(half), dtype=bool)].all()
    own = centers[[names.index(text) for text in found["text"]]]
    np.testing.assert_allclose(np.column_stack([found["x"], found["y"]]), own, atol=0.05)
    n_whole = len(found["text"])
    page.run("look(middle(model.x_range), middle(model.y_range), scale() / 2)")
    page.wait("return find('name places').data.text.length !== arguments[0]", n_whole)


# ---- The page ----


def test_a_click_enlarges_the_image(page):
    page.point_at_row(7, click=True)
    page.wait("return selected === 7")
    small = page.find("#selected .panel").size["width"]
    page.find(".enlarge").click()
    assert page.find("#large .panel").size["width"] > 1.5 * small
    page.press("ESCAPE")
    page.wait("return !byId('large').open")
    assert page.selected() == 7


def test_the_card_leaves_the_links_of_the_selected_point_free(page):
    page.point_at_row(7)
    page.wait("return !byId('card').hidden")
    page.point_at_row(7, click=True)
    page.wait("return selected === 7")
    assert page.run("return byId('card').hidden")


def test_a_card_beside_the_selected_point_leaves_its_links_free(driver, tmp_path):
    line = [[k, 0.0] for k in range(5)]
    coordinates = np.array([*line, [2.0, -4.0]])  # all neighbors lie right of the first
    X = np.array([[1.0, 0.1 * k] for k in range(5)] + [[-1.0, 0.0]])
    how = {"coordinates": coordinates, "n_neighbors": 4, "columns": []}
    path = to_html(X, hostile_table(6), tmp_path / "map.html", **how)
    page = MapPage(driver)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait(_READY)
    page.run("select(0)")
    page.point_at_row(1)
    page.wait("return pointed === 1")
    covered = """
    const card = byId("card").getBoundingClientRect(), map = byId("map").getBoundingClientRect();
    return [0, 1, 2, 3, 4].filter((k) => {
      const [x, y] = onScreen(k).map((value, axis) => value + [map.x, map.y][axis]);
      return x > card.left && x < card.right && y > card.top && y < card.bottom;
    });
    """
    assert page.run(covered) == []


def emulate(page, style):
    features = [{"name": "prefers-color-scheme", "value": style}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_the_page_follows_a_dark_style(page):
    corner = "const b = byId('map').getBoundingClientRect(); return [b.right - 9, b.bottom - 9]"
    for style, is_dark in (("dark", True), ("light", False)):
        emulate(page, style)
        x, y = map(int, page.run(corner))
        pixels = page.pixels()
        assert bool(pixels[y, x].max() < 60) == is_dark
        assert bool(pixels[5, 700].max() < 60) == is_dark


def luminance(rgb):
    """Measure the relative luminance of WCAG 2."""
    rgb = np.array(rgb) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_all_colors_of_the_palette_are_visible_on_dark_and_on_light(driver, tmp_path):
    samples, n_rows = hostile_table(N_ROWS + 2), N_ROWS + 2  # as many as there are colors
    samples["concept"] = [f"concept {i}" for i in range(n_rows)]
    path = tmp_path / "map.html"
    embeddings = np.random.default_rng(1).normal(size=(n_rows, 5))
    to_html(embeddings, samples, path, coordinates=grid_coordinates(n_rows))
    page = MapPage(driver)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait(_READY)
    page.find("#names").click()
    page.run("zoom(1.3)")  # no button covers a mark
    try:
        for style in ("dark", "light", "dark"):
            emulate(page, style)
            pixels = page.pixels()
            ground = luminance(ImageColor.getrgb(page.run("return ground")))
            for row in range(n_rows):
                x, y = page.place(row)
                seen = luminance(pixels[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3))
                low, high = np.minimum(seen, ground), np.maximum(seen, ground)
                contrast = ((high + 0.05) / (low + 0.05)).max()
                assert contrast > (2.2 if style == "dark" else 1.4), (style, row)
            # The list has the colors of the map.
            fills = page.run(
                "return [...document.querySelectorAll('[data-field=Concept] .sign path')]"
                ".map((path) => path.getAttribute('fill'))"
            )
            shown = page.run("return data.row.map((_, i) => styleOf(i).color)")
            assert sorted(fills) == sorted(shown)
    finally:
        emulate(page, "light")


def test_names_with_numbers_are_listed_by_value(driver, tmp_path):
    samples = hostile_table(12)
    samples["concept"] = [f"concept {i}" for i in range(12)]
    path, clusters = tmp_path / "map.html", np.arange(12) - 1
    embeddings = np.random.default_rng(1).normal(size=(12, 5))
    to_html(embeddings, samples, path, coordinates=grid_coordinates(12), clusters=clusters)
    page = MapPage(driver)
    assert open_quietly(driver, path.as_uri()) == ([], [])
    page.wait(_READY)
    names = page.texts(f"{_CONCEPT} .choice .name")
    assert names == [f"concept {i}" for i in range(12)]
    assert page.texts(f"{_CLUSTER} .choice .name") == [str(i) for i in clusters]
    page.find(f"{_CONCEPT} label:nth-of-type(3) input").click()  # "concept 2"
    assert page.run("return rowsShown()") == [row for row in range(12) if row != 2]


def test_the_address_contains_the_state(page, driver, written):
    page.choose("IoU")
    page.find(f"{_CONCEPT} label:nth-of-type(2)").click()
    page.find(_LEAST).send_keys(*["\ue014"] * 30)
    page.find("#query").send_keys("png & more")
    page.find("[data-tool=box]").click()
    page.drag(*around(page, 7, 16))
    page.find("#chosen .near").click()
    page.find("#zoom-in").click()
    state = "return [selected, chosen, rowsShown(), colored.name, byId('query').value]"
    before, view = page.run(state), page.run("return wanted")
    page.wait("return location.hash === `#${stateText()}`")
    address = page.run("return location.href")
    assert open_quietly(driver, "about:blank") == ([], [])
    assert open_quietly(driver, address) == ([], [])
    page.wait(_READY)
    assert page.run(state) == before
    np.testing.assert_allclose(page.run("return wanted"), view, rtol=1e-4)
    page.run("location.hash = ''")
    page.wait("return rowsShown().length === nRows && selected === null && wanted === null")


def test_an_address_of_nonsense_does_no_harm(driver, written):
    page = MapPage(driver)
    nonsense = "color=99&f0=7,-1,x,1e9&f2=a-b&row=-3&rows=1,5000,__proto__&view=1,2,NaN,Infinity"
    assert open_quietly(driver, "about:blank") == ([], [])
    assert open_quietly(driver, f"{written[0].as_uri()}#{nonsense}") == ([], [])
    page.wait(_READY)
    assert page.run("return [selected, rowsShown().length, chosen]") == [None, N_ROWS, [1]]


def test_the_map_is_saved_as_png(page, tmp_path):
    file = page.save("#save-png", tmp_path / "map.png")
    picture = np.asarray(Image.open(file).convert("RGB"))
    assert picture.shape[:2] == tuple(page.run("return [model.outer_height, model.outer_width]"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 6


def test_a_finger_outside_of_the_drawing_scrolls(page):
    page.driver.set_window_size(500, 900)
    try:
        page.wait("return document.body.scrollWidth <= innerWidth && model.inner_width < 500")
        box = "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        for selector, scrolls in ((".caption", True), ("header", True), ("#map", False)):
            x, y = page.run(f"{box} return [b.left + 30, b.top + b.height / 2]", selector)
            assert (page.swipe(x, y, 50) > 5) == scrolls
    finally:
        page.driver.set_window_size(1400, 900)


def test_a_narrower_window_shows_what_was_shown(page):
    inside = "return [...Array(nRows).keys()].filter((i) => { const [x, y] = onScreen(i);"
    inside += "return x > 0 && y > 0 && x < size[0] && y < size[1] })"
    try:
        for act in ("fit()", "zoom(1 / 1.6)"):
            page.run(act)
            before = page.run(inside)
            page.driver.set_window_size(800, 900)
            page.wait("return model.inner_width < 600")
            assert set(before) <= set(page.run(inside))
            page.driver.set_window_size(1400, 900)
            page.wait("return model.inner_width > 600")
            assert page.run(inside) == before
    finally:
        page.driver.set_window_size(1400, 900)


def test_hostile_texts_are_shown_as_text(page):
    assert page.driver.title == HOSTILE[2]
    assert page.find("h1").text == HOSTILE[2]
    assert sorted(page.texts(f"{_CONCEPT} .choice .name")) == sorted(HOSTILE)
    for row in range(N_ROWS):
        page.run("select(arguments[0]); point((arguments[0] + 1) % nRows)", row)
    assert page.run("return document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert page.run("return document.scripts.length") == 6


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
