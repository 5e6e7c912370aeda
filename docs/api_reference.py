"""The public names, in the order of the API reference.

The extension ``api_pages`` writes the pages from this list. ``tests/test_docs_api.py`` compares it
with the package.
"""

from typing import NamedTuple


class Section(NamedTuple):
    """Names of one module that belong together.

    Parameters
    ----------
    title : str
        Heading, or an empty string for a module with a single section.
    text : str
        Purpose of the names, in one sentence.
    names : tuple of str
        The names in order.
    """

    title: str
    text: str
    names: tuple


class Module(NamedTuple):
    """A public module. Its page starts with its docstring.

    Parameters
    ----------
    sections : tuple of Section
        The sections in order.
    """

    sections: tuple

    @property
    def names(self):
        """All names of the module."""
        return [name for section in self.sections for name in section.names]


API_REFERENCE = {
    "sklearn_loce": Module(
        (
            Section(
                "Transformers",
                "Estimators that turn a table of samples into an array.",
                ("LoCETransformer", "MaskedMeanTransformer"),
            ),
            Section(
                "Networks and layers",
                "A handle on a network, and the activations of its layers.",
                ("TorchModel", "list_layers", "ActivationExtractor", "Joined"),
            ),
            Section(
                "Functions on tensors",
                "The method without an estimator.",
                ("optimize_loces", "project_loces"),
            ),
            Section(
                "Storage",
                "A folder that keeps computed vectors.",
                ("RowStore",),
            ),
        ),
    ),
    "sklearn_loce.datasets": Module(
        (
            Section(
                "Loaders",
                "Load annotations from files or from memory.",
                (
                    "load_coco",
                    "load_coco_panoptic",
                    "load_voc",
                    "load_masks",
                    "load_yolo",
                    "load_labelme",
                    "from_detections",
                ),
            ),
            Section(
                "Export",
                "Write a table as annotations for other tools.",
                ("to_coco",),
            ),
            Section(
                "Small objects",
                "Crop the table around each object, and paste results into whole images.",
                ("crop_samples", "paste_crops"),
            ),
            Section(
                "Downloads",
                "Checked downloads that resume after an interruption.",
                ("fetch_coco_val2017", "fetch_voc2012"),
            ),
            Section(
                "Drawn scenes",
                "Data with a known truth and a network, included in the package.",
                ("make_scenes", "load_scene_model"),
            ),
        ),
    ),
    "sklearn_loce.metrics": Module(
        (
            Section(
                "Separation and overlap",
                "Compare distances between concepts with distances inside them.",
                (
                    "category_separation",
                    "pairwise_separation",
                    "overlap_ratio",
                    "pairwise_silhouette",
                ),
            ),
            Section(
                "Retrieval",
                "Measure whether the nearest rows of a query show its concept.",
                ("precision_at_k", "mean_average_precision_at_k", "r_precision"),
            ),
            Section(
                "Clusters",
                "Compare clusters with concepts.",
                (
                    "purity_score",
                    "penalized_purity_score",
                    "cluster_composition",
                    "sub_concepts",
                    "confused_concepts",
                ),
            ),
            Section(
                "Layers and models",
                "Compare several embeddings of the same rows.",
                ("compare_layers", "rank_layers", "compare_similarity", "linear_cka"),
            ),
            Section("Masks", "Compare predicted with given masks.", ("mask_iou",)),
            Section(
                "Scorers",
                "Scorers for GridSearchCV and cross_validate.",
                (
                    "get_scorer",
                    "get_scorer_names",
                    "make_embedding_scorer",
                    "make_cluster_scorer",
                    "ConceptScorer",
                    "MultiConceptScorer",
                ),
            ),
        ),
    ),
    "sklearn_loce.cluster": Module(
        (Section("", "", ("ConceptAgglomerative",)),),
    ),
    "sklearn_loce.mixture": Module(
        (Section("", "", ("ConceptGaussianMixture",)),),
    ),
    "sklearn_loce.outliers": Module(
        (Section("", "", ("ConceptOutlierDetector", "label_issues")),),
    ),
    "sklearn_loce.segmentation": Module(
        (Section("", "", ("ConceptSegmenter", "Net2VecSegmenter")),),
    ),
    "sklearn_loce.plotting": Module(
        (
            Section(
                "Images",
                "Rows as pictures: masks, projections, neighbors, clusters.",
                (
                    "ProjectionDisplay",
                    "SegmentationDisplay",
                    "RetrievalDisplay",
                    "OutlierDisplay",
                    "LabelIssuesDisplay",
                    "ClusterGalleryDisplay",
                ),
            ),
            Section(
                "Concepts",
                "How concepts relate to each other.",
                (
                    "ConceptMapDisplay",
                    "SeparationDisplay",
                    "OverlapDisplay",
                    "CentroidDistanceDisplay",
                    "DendrogramDisplay",
                    "PrecisionAtKDisplay",
                ),
            ),
            Section(
                "Layers and channels",
                "Scores by layer, and weights by channel.",
                ("LayerComparisonDisplay", "ChannelDisplay"),
            ),
            Section(
                "In the browser",
                "One file, without a network.",
                ("to_html",),
            ),
        ),
    ),
    "sklearn_loce.corruptions": Module(
        (Section("", "", ("GaussianNoise", "SaltAndPepperNoise")),),
    ),
    "sklearn_loce.paper": Module(
        (Section("", "", ("reproduce", "Network")),),
    ),
    "sklearn_loce.utils": Module(
        (Section("", "", ("UnsupervisedUMAP",)),),
    ),
    "sklearn_loce.utils.estimator_checks": Module(
        (Section("", "", ("parametrize_with_loce_checks", "loce_checks")),),
    ),
    "sklearn_loce.exceptions": Module(
        (Section("", "", ("FailedRowsError", "LayoutError", "StoreError")),),
    ),
}
