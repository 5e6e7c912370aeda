"""Configuration of Sphinx."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]

os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars don't belong on a page
# On a machine under load, workers that import torch don't answer for longer than Dask's 30 s. It
# drops them then, and the example of a cluster would wait for others for ever.
os.environ.setdefault("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", "300s")

# For the kernels that execute pages.
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
# The charts of the study are drawn by `benchmarks`, which is not installed.
paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(paths)
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm without ipywidgets

import sklearn_loce

project = "sklearn_loce"
author = "The sklearn_loce developers"
copyright = f"{author}, BSD 3-Clause License"
version = release = sklearn_loce.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "external_names",
    "gallery_order",
    "mathml",
    "picture_scale",
    "source_lines",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "auto_examples/*.ipynb"]
default_role = "literal"
smartquotes = False  # values such as "net2vec" are code, also inside text

# Pages
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # a page shows what its code gives today
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_in_temp = True  # pages write files
nb_merge_streams = True
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# API
autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_use_plots = False
viewcode_line_numbers = True

# Gallery
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "gallery_order.ExampleOrder",
    "doc_module": ("sklearn_loce",),
    "backreferences_dir": "api/backreferences",
    "reference_url": {"sklearn_loce": None},
    "image_srcset": ["2x"],
    "thumbnail_size": (480, 320),
    "run_stale_examples": True,  # the package may have changed where an example has not
    "capture_repr": ("_repr_html_",),  # the address of an object is of no use
    "write_computation_times": False,
    "show_memory": False,
    "remove_config_comments": True,
    "download_all_examples": False,
}

# Theme
html_context = {"default_mode": "auto"}
html_theme = "pydata_sphinx_theme"
html_title = f"sklearn_loce {release}"
html_static_path = ["_static"]
html_css_files = ["loce.css"]
html_favicon = "_static/mark.svg"
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # pages opened from files may not fetch others
html_sidebars = {
    "index": [],
    "quickstart": [],
    "faq": [],
    "changelog": [],
    "contributing": [],
}
html_theme_options = {
    "logo": {
        "image_light": "_static/mark.svg",
        "image_dark": "_static/mark.svg",
        "text": "sklearn_loce",
        "alt_text": "sklearn_loce, home",
    },
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "secondary_sidebar_items": {"index": [], "**": ["page-toc"]},
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
}


def skip_foreign_members(app, what, name, obj, skip, options):
    """Leave out what scikit-learn and others document themselves."""
    home = getattr(obj, "__module__", None)
    if what == "class" and callable(obj) and home and not home.startswith("sklearn_loce"):
        return True
    return None


def setup(app):
    """Connect what is too small for an extension."""
    app.connect("autodoc-skip-member", skip_foreign_members)
