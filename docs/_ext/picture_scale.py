"""One scale for the pictures of pages and examples: an inch of a figure has 115 CSS pixels.

Matplotlib writes the resolution into each PNG. Text of 10 points then is as large as the text
of the page.
"""

from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx_gallery.directives import imgsgnode

PIXELS_PER_INCH = 115


def replace_gallery_pictures(app, doctree):
    """Put an image in place of Sphinx-Gallery's, which has no width: the one of 200 dpi."""
    for node in list(doctree.findall(imgsgnode)):
        uri = node["uri"].replace(".png", "_2_00x.png")
        image = nodes.image(uri=uri, alt=node["alt"], classes=node["class"])
        image["width"] = _width(Path(app.srcdir, uri.lstrip("/")))
        node.replace_self(image)


def set_widths(app, doctree):
    """Set the width of each picture that the code of a page draws."""
    for image in doctree.findall(nodes.image):
        if "jupyter_execute" in image["uri"] and "width" not in image:
            image["width"] = _width(Path(app.srcdir, image["uri"]))


def _width(path):
    with Image.open(path) as picture:
        return f"{round(picture.width / picture.info['dpi'][0] * PIXELS_PER_INCH)}px"


def setup(app):
    """Connect the extension."""
    app.connect("doctree-read", replace_gallery_pictures, priority=400)  # before Sphinx copies
    app.connect("doctree-read", set_widths)
    return {"parallel_read_safe": True}
