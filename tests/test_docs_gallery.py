"""The groups of the gallery."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

DOCS = Path(__file__).resolve().parents[1] / "docs"
CARD = """\
.. raw:: html

    <div class="sphx-glr-thumbcontainer" tooltip="What it is.">

  :doc:`/auto_examples/{}`
"""


def _load_order():
    spec = importlib.util.spec_from_file_location("order", DOCS / "_ext" / "gallery_order.py")
    order = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(order)
    return order


def test_each_group_has_a_heading_before_its_first_card():
    order = _load_order()
    source = ["Examples\n========\n\n" + "".join(CARD.format(stem) for stem in order.ORDER)]
    order.group_cards(SimpleNamespace(), "auto_examples/index", source)
    *_, (title, stems) = order.GROUPS.items()
    before, _, after = source[0].partition(f"\n{title}\n{'-' * len(title)}\n")
    assert [stem for stem in order.ORDER if f"`/auto_examples/{stem}`" in after] == list(stems)
    assert all(f"\n{other}\n" in before for other in order.GROUPS if other != title)
    assert source[0].count("sphx-glr-thumbcontainer") == len(order.ORDER)
    assert source[0].count("    </div>\n") == source[0].count('class="sphx-glr-thumbnails"')


def test_other_pages_are_left_alone():
    source = [CARD.format("plot_first_loces")]
    _load_order().group_cards(SimpleNamespace(), "quickstart", source)
    assert source == [CARD.format("plot_first_loces")]
