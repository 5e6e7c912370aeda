"""Figures whose text stays text. Import this module inside functions, as it needs Matplotlib."""

import matplotlib as mpl
from matplotlib.figure import Figure

# Matplotlib reads these settings when it saves a figure, not when it draws.
TEXT_AS_TEXT = {"svg.fonttype": "none", "pdf.fonttype": 42, "savefig.dpi": 300}


class PaperFigure(Figure):
    """Figure that is saved with text as text, which can be searched, copied and edited.

    Parameters
    ----------
    *args, **kwargs : tuple, dict
        Passed to :class:`matplotlib.figure.Figure`.

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
        """Save the figure with text as text.

        Parameters
        ----------
        *args, **kwargs : tuple, dict
            Passed to :meth:`matplotlib.figure.Figure.savefig`.
        """
        with mpl.rc_context(TEXT_AS_TEXT):
            super().savefig(*args, **kwargs)
