"""The concept map in the browser: its size, and the time until it answers.

With 5,000 rows, each of an image of its own, the file has 28 MB, and where they share 759 images,
12 MB. A box around all points, CSV, copy, colors, search, filters and keys take 30 to 235 ms
(two cores that had other work).

Run ``python -m benchmarks.concept_map``; it needs Debian's ``chromium`` and ``chromium-driver``.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from sklearn.cluster import KMeans

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.plotting import to_html
from tests.browser import chromium, missing_browser

_ROWS_PER_SCENE = 6  # at least, on average
_FRAMES = 40
_PATIENCE = 60  # seconds for a page to open
_REST = 1.5  # seconds for an answer
_ACTS = (
    *(
        "box around all",
        "CSV",
        "copy",
        "color by IoU",
        "color by cluster",
        "search",
        "select what is found",
    ),
    *("Control+A", "filter a concept", "arrow key"),
)
_READY = "return document.documentElement.dataset.ready"
_PAN = """
const [frames, done] = arguments, times = [], step = scale();
const draw = (now) => {
  times.push(now);
  look(middle(model.x_range) + (times.length % 8 - 3.5) * step, middle(model.y_range), scale());
  if (times.length <= frames) requestAnimationFrame(draw);
  else done(times.slice(1).map((time, k) => time - times[k]));
};
requestAnimationFrame(draw);
"""


# Milliseconds from an event of mouse or key to the third frame after it, which shows the answer.
_WATCH = """
window.answers = [];
for (const type of ["pointerup", "click", "keydown", "input", "change"]) {
  addEventListener(type, ({ timeStamp, isTrusted }) => {
    let left = 3;
    const tell = () => answers.push(performance.now() - timeStamp);
    const wait = () => (left-- ? requestAnimationFrame(wait) : tell());
    if (isTrusted) wait();
  }, true);
}
"""
_ANSWERS = "const found = answers; answers = []; return found"


def draw_table(n_rows, own_images):
    """Draw scenes with n_rows rows; with `own_images`, every row has an image of its own."""
    scenes = make_scenes(n_rows if own_images else n_rows // _ROWS_PER_SCENE + 1, random_state=0)
    table = scenes.data
    if own_images:
        # The concept alternates between scenes.
        rank = table.groupby("image_id").cumcount()
        table = table[rank == table["image_id"] % 3]
    return table.iloc[:n_rows].reset_index(drop=True)


def write_map(table, path):
    """Write the map with all options; return the seconds without those of UMAP."""
    how = {"objective": "net2vec", "on_empty": "nan"}
    loce = LoCETransformer(TorchModel(load_scene_model), "features.3", **how)
    embeddings = loce.fit_transform(table)
    clusters = KMeans(20, n_init=1, random_state=0).fit_predict(embeddings)
    start = time.perf_counter()
    to_html(embeddings, table, path, coordinates="pca", transformer=loce, clusters=clusters)
    return time.perf_counter() - start


def open_map(path):
    """Open the map in a new browser; return seconds to the answer, ms per frame and per act."""
    # Import it here, because missing_browser explains if it is missing.
    from selenium.webdriver.support.ui import WebDriverWait

    with tempfile.TemporaryDirectory() as profile, chromium(profile) as driver:
        driver.get(path.as_uri())
        wait = WebDriverWait(driver, _PATIENCE, poll_frequency=0.05)
        ready = wait.until(lambda driver: driver.execute_script(_READY))
        frames = driver.execute_async_script(_PAN, _FRAMES)
        return int(ready) / 1000, statistics.median(frames), *measure_answers(driver)


def measure_answers(driver):
    """Return the ms until each of `_ACTS` is answered, with events of a mouse and a keyboard."""
    # Import it here, because missing_browser explains if it is missing.
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def find(selector):
        return driver.find_element("css selector", selector)

    def drag_all():
        stage = find("#map")
        width, height = stage.size["width"] // 2 - 8, stage.size["height"] // 2 - 50
        chain = ActionChains(driver).move_to_element_with_offset(stage, -width, -height)
        chain.click_and_hold().move_by_offset(2 * width, 2 * height).release().perform()

    acts = (
        drag_all,
        lambda: find("#save-shown").click(),
        lambda: find("#copy-shown").click(),
        lambda: find("#color").send_keys("IoU"),
        lambda: find("#color").send_keys("Cluster"),
        lambda: find("#query").send_keys(driver.execute_script("return conceptOf(0)")),
        lambda: find("#choose-found").click(),
        lambda: find("#map").send_keys(Keys.CONTROL, "a"),
        lambda: find("[data-field=Concept] .choice input").click(),
        lambda: find("#map").send_keys(Keys.ARROW_RIGHT),
    )
    find("[data-tool=box]").click()
    driver.execute_script(_WATCH)
    found = []
    for act in acts:
        driver.execute_script(_ANSWERS)
        act()
        time.sleep(_REST)
        found.append(max(driver.execute_script(_ANSWERS)))
    return found


def main():
    """Measure both kinds of tables and print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--own-images",
        type=int,
        nargs="+",
        choices=(0, 1),
        default=(0, 1),
        help="1: every row has an image of its own; 0: the rows of a scene share one",
    )
    options = parser.parse_args()
    if missing := missing_browser():
        parser.error(missing)
    heads = ("images", "written in", "size", "interactive after", "a frame of panning", *_ACTS)
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for own_images in options.own_images:
            table = draw_table(options.rows, own_images)
            path = Path(folder) / "map.html"
            written = write_map(table, path)
            opened = [open_map(path) for _ in range(options.repeats)]
            ready, *answers = (statistics.median(values) for values in zip(*opened, strict=True))
            n_images, size = table["image_id"].nunique(), path.stat().st_size / 1e6
            cells = [f"{n_images} for {len(table)} rows", f"{written:.1f} s", f"{size:.1f} MB"]
            cells += [f"{ready:.2f} s", *(f"{answer:.0f} ms" for answer in answers)]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
