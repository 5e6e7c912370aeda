"""The gallery in groups, from first steps to large runs.

Sphinx-Gallery makes groups of folders. The examples stay in one folder, so that their addresses are
short; their cards are grouped here. A card shows a detail of a picture, because the text of a whole
picture is too small there.
"""

import re
from pathlib import Path

from PIL import Image, ImageOps

GROUPS = {
    "First steps": ("plot_first_loces", "plot_grid_search_layers"),
    "Data": ("plot_own_data_and_model", "plot_find_wrong_labels"),
    "Analysis": (
        "plot_distributions",
        "plot_sub_concepts",
        "plot_concept_map",
        "plot_retrieval_and_outliers",
        "plot_loce_gloce_net2vec",
        "plot_robustness",
    ),
    "Models": ("plot_compare_models", "plot_vision_transformer", "plot_detector"),
    "Scale": ("plot_dask_cluster",),
}
ORDER = tuple(stem for stems in GROUPS.values() for stem in stems)
# Number of the picture, and left, upper, right and lower edge of the detail as shares of its size.
DETAILS = {
    "plot_first_loces": (1, (0.5, 0, 1, 0.45)),
    "plot_grid_search_layers": (2, (0, 0, 1, 0.27)),
    "plot_own_data_and_model": (1, (0, 0, 0.75, 0.42)),
    "plot_find_wrong_labels": (1, (0, 0, 0.75, 0.245)),
    "plot_distributions": (4, (0.5, 0, 1, 0.75)),
    "plot_sub_concepts": (1, (0, 0, 1, 0.545)),
    "plot_concept_map": (1, (0, 0, 1, 0.78)),
    "plot_retrieval_and_outliers": (2, (0, 0.05, 0.37, 0.7)),
    "plot_loce_gloce_net2vec": (1, (0, 0.36, 0.5, 0.66)),
    "plot_robustness": (2, (0, 0, 1, 0.33)),
    "plot_compare_models": (1, (0, 0, 1, 0.23)),
    "plot_vision_transformer": (1, (0, 0, 1, 1)),
    "plot_detector": (2, (0, 0.02, 0.51, 0.5)),
    "plot_dask_cluster": (2, (0.45, 0, 1, 0.8)),
}
CARD_SIZE = (480, 320)
_CARD = '.. raw:: html\n\n    <div class="sphx-glr-thumbcontainer"'
_HEADING = """\
.. raw:: html

    </div>

{title}
{line}

.. raw:: html

    <div class="sphx-glr-thumbnails">

"""


class ExampleOrder:
    """Sort key of file names: listed files in their order, then the others by name.

    Parameters
    ----------
    src_dir : str
        Folder of the examples.
    """

    def __init__(self, src_dir):
        self.src_dir = src_dir

    def __call__(self, filename):
        """Return the key of a file name."""
        stem = Path(filename).stem
        return (ORDER.index(stem) if stem in ORDER else len(ORDER), stem)

    def __repr__(self):
        """Return the same text in each build, because Sphinx compares it."""
        return "ExampleOrder"


def group_cards(app, docname, source):
    """Put a heading before the first card of each group."""
    if docname != "auto_examples/index":
        return
    titles = {stems[0]: title for title, stems in GROUPS.items()}
    head, *cards = source[0].split(_CARD)
    for k, card in enumerate(cards):
        title = titles.get(re.search(r":doc:`/auto_examples/(\w+)`", card)[1])
        heading = _HEADING.format(title=title, line="-" * len(title)) if title else ""
        cards[k] = f"{heading}{_CARD}{card}"
    source[0] = head + "".join(cards)


def widen_examples(app, doctree):
    """Leave out the contents beside an example: its code and pictures need the width."""
    docname = app.env.docname
    if docname.startswith("auto_examples/plot_"):
        app.env.metadata[docname]["html_theme.sidebar_secondary.remove"] = True


def cut_details(app):
    """Show a detail of a picture on each card."""
    images = Path(app.srcdir, "auto_examples", "images")
    for stem, (number, box) in DETAILS.items():
        path = images / f"sphx_glr_{stem}_{number:03d}_2_00x.png"
        if path.is_file():  # a build without the gallery has none
            with Image.open(path) as picture:
                edges = [
                    round(share * size) for share, size in zip(box, picture.size * 2, strict=True)
                ]
                detail = picture.convert("RGB").crop(edges)
            card = ImageOps.pad(detail, CARD_SIZE, color="white")
            card.save(images / "thumb" / f"sphx_glr_{stem}_thumb.png")


def setup(app):
    """Connect the extension."""
    app.connect("builder-inited", cut_details, priority=900)  # after Sphinx-Gallery
    app.connect("source-read", group_cards)
    app.connect("doctree-read", widen_examples)
    return {"parallel_read_safe": True}
