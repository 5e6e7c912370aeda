"""One scale for the pictures of executed pages: an inch of a figure has 115 CSS pixels.

Matplotlib writes the resolution into each PNG. Its font of 10 points is then as large as the text of
the page.
"""

from pathlib import Path

from docutils import nodes
from PIL import Image

PIXELS_PER_INCH = 115


def set_widths(app, doctree):
    """Set the width of each picture that the code of a page draws."""
    for image in doctree.findall(nodes.image):
        if "jupyter_execute" not in image["uri"] or "width" in image:
            continue
        with Image.open(Path(app.srcdir, image["uri"])) as picture:
            inches = picture.width / picture.info["dpi"][0]
        image["width"] = f"{round(inches * PIXELS_PER_INCH)}px"


def setup(app):
    """Connect the extension."""
    app.connect("doctree-read", set_widths)
    return {"parallel_read_safe": True}
