"""Peak memory of the optimization beyond its inputs, in one process per side."""

from benchmarks.inputs import draw
from benchmarks.measure import has_memory_counters, in_own_process, memory_growth
from benchmarks.report import Column, Section, Table
from benchmarks.solver import sides_of

_TITLE = "Memory"
_TEXT = """\
This section compares the peak of the resident set, minus the inputs, with {samples} samples.
Each side runs in its own process. It takes only two steps, because all further steps use the
same memory. A value below {least} MB counts as {least} MB. Ratios are plain / ours."""
_LEAST = 0.1  # MB, below which growth is noise


def grow(side, shape, n_samples):
    """Return the peak growth of a side beyond its inputs in MB; runs in a new process."""
    sides_of(*draw((4, 3, 3), 2), max_iter=2)[side]()  # loads what is loaded once
    return memory_growth(sides_of(*draw(shape, n_samples), max_iter=2)[side])


def run(options):
    """Measure the section."""
    text = _TEXT.format(samples=options.samples, least=_LEAST)
    if not has_memory_counters():
        return Section(_TITLE, text, skipped="this system has no /proc/self/status.")
    shape = options.memory_shape
    sides = ("product", "matmul", "ours")
    grown = {side: in_own_process(grow, side, shape, options.samples) for side in sides}
    ours = max(grown["ours"], _LEAST)
    columns = [
        Column("shape"),
        Column("product, MB", 0),
        Column("matmul, MB", 0),
        Column("ours, MB", 1),
        Column("product / ours", 0, better="higher"),
        Column("matmul / ours", 0, better="higher"),
    ]
    ratios = [grown[side] / ours for side in sides[:2]]
    row = [str(shape), *grown.values(), *ratios]
    return Section(_TITLE, text, [Table("Peak over the inputs", columns, [row])])
