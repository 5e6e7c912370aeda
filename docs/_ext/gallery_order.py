"""The gallery in groups, from first steps to large runs.

Sphinx-Gallery makes groups of folders. The examples stay in one folder, so that their addresses are
short; their cards are grouped here.
"""

import re
from pathlib import Path

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
    """Sort key of file names: those that are listed first, the others by name.

    Parameters
    ----------
    src_dir : str
        Folder of the examples.
    """

    def __init__(self, src_dir):
        self.src_dir = src_dir

    def __call__(self, filename):
        """Give the key of a file name."""
        stem = Path(filename).stem
        return (ORDER.index(stem) if stem in ORDER else len(ORDER), stem)

    def __repr__(self):
        """Tell Sphinx that it is the same from build to build."""
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


def setup(app):
    """Connect the extension."""
    app.connect("source-read", group_cards)
    return {"parallel_read_safe": True}
