"""Figures whose text stays text. This module needs matplotlib: import it inside functions."""

import matplotlib as mpl
from matplotlib.figure import Figure

# Read by matplotlib when a figure is saved, not when it is drawn.
TEXT_AS_TEXT = {"svg.fonttype": "none", "pdf.fonttype": 42}


class PaperFigure(Figure):
    """Figure that is saved with text as text: it can be searched, copied and edited.

    Parameters
    ----------
    *args, **kwargs : tuple, dict
        As for :class:`matplotlib.figure.Figure`.

    Examples
    --------
    >>> import io
    >>> from sklearn_loce.plotting._figure import PaperFigure
    >>> figure, file = PaperFigure(), io.StringIO()
    >>> _ = figure.text(0.5, 0.5, "car")
    >>> figure.savefig(file, format="svg")
    >>> ">car</text>" in file.getvalue()
    True
    """

    def savefig(self, *args, **kwargs):
        """Save the figure, with text as text.

        Parameters
        ----------
        *args, **kwargs : tuple, dict
            As for :meth:`matplotlib.figure.Figure.savefig`.
        """
        with mpl.rc_context(TEXT_AS_TEXT):
            super().savefig(*args, **kwargs)
