"""The order of the gallery: from first steps to large runs."""

from pathlib import Path

ORDER = (
    "plot_first_loces",
    "plot_distributions",
    "plot_retrieval_and_outliers",
    "plot_find_wrong_labels",
    "plot_sub_concepts",
    "plot_concept_map",
    "plot_grid_search_layers",
    "plot_compare_models",
    "plot_loce_gloce_net2vec",
    "plot_robustness",
    "plot_own_data_and_model",
    "plot_vision_transformer",
    "plot_detector",
    "plot_dask_cluster",
)


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
