"""The public names, in the order in which the API reference shows them.

One list, from which ``conf.py`` writes the pages; ``tests/test_docs_api.py`` holds it against the
package.
"""

from typing import NamedTuple


class Section(NamedTuple):
    """Names of one module that belong together.

    Parameters
    ----------
    title : str
    text : str
        What they are for, in one sentence.
    names : tuple of str
    """

    title: str
    text: str
    names: tuple


class Module(NamedTuple):
    """A public module.

    Parameters
    ----------
    text : str
        What it is for, in one sentence.
    sections : tuple of Section
    """

    text: str
    sections: tuple

    @property
    def names(self):
        """All names of the module."""
        return [name for section in self.sections for name in section.names]


API_REFERENCE = {
    "sklearn_loce": Module(
        "From a table of images and masks to one vector per row.",
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
                "The method without the estimator.",
                ("optimize_loces", "project_loces"),
            ),
            Section(
                "Storage",
                "Where computed vectors are kept.",
                ("RowStore",),
            ),
        ),
    ),
    "sklearn_loce.datasets": Module(
        "Tables of samples, one row per image-concept pair.",
        (
            Section(
                "Loaders",
                "From annotations on disk or in memory.",
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
                "The way back",
                "A table as annotations that other tools read.",
                ("to_coco",),
            ),
            Section(
                "Small objects",
                "A table of crops around each object, and the way back to whole images.",
                ("crop_samples", "paste_crops"),
            ),
            Section(
                "Downloads",
                "Checked downloads, which continue where they stopped.",
                ("fetch_coco_val2017", "fetch_voc2012"),
            ),
            Section(
                "Drawn scenes",
                "Data with a known truth and a network, which come with the package.",
                ("make_scenes", "load_scene_model"),
            ),
        ),
    ),
    "sklearn_loce.metrics": Module(
        "How well a space of embeddings separates and finds concepts.",
        (
            Section(
                "Separation and overlap",
                "Distances between concepts against distances within.",
                (
                    "category_separation",
                    "pairwise_separation",
                    "overlap_ratio",
                    "pairwise_silhouette",
                ),
            ),
            Section(
                "Retrieval",
                "Whether neighbors show the query's concept.",
                ("precision_at_k", "mean_average_precision_at_k", "r_precision"),
            ),
            Section(
                "Clusters",
                "Clusters against concepts.",
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
                "Several spaces side by side.",
                ("compare_layers", "rank_layers", "compare_similarity", "linear_cka"),
            ),
            Section("Masks", "Predicted masks against given masks.", ("mask_iou",)),
            Section(
                "Scorers",
                "For GridSearchCV and cross_validate.",
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
        "Trees of embeddings, cut where clusters are pure.",
        (Section("", "", ("ConceptAgglomerative",)),),
    ),
    "sklearn_loce.mixture": Module(
        "Concepts and sub-concepts as normal distributions.",
        (Section("", "", ("ConceptGaussianMixture",)),),
    ),
    "sklearn_loce.outliers": Module(
        "Rows that are unlike the others of their concept, and rows of another one.",
        (Section("", "", ("ConceptOutlierDetector", "label_issues")),),
    ),
    "sklearn_loce.segmentation": Module(
        "One vector or a few per concept, projected onto unseen images.",
        (Section("", "", ("ConceptSegmenter", "Net2VecSegmenter")),),
    ),
    "sklearn_loce.plotting": Module(
        "Displays that store their numbers, and a map for the browser.",
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
        "Noise on images, to see how much a vector moves.",
        (Section("", "", ("GaussianNoise", "SaltAndPepperNoise")),),
    ),
    "sklearn_loce.paper": Module(
        "The paper's experiments, as one command and as a function.",
        (Section("", "", ("reproduce", "Network")),),
    ),
    "sklearn_loce.utils": Module(
        "Tools around the estimators.",
        (Section("", "", ("UnsupervisedUMAP",)),),
    ),
    "sklearn_loce.utils.estimator_checks": Module(
        "Checks of scikit-learn's conventions for estimators that take a table of samples.",
        (Section("", "", ("parametrize_with_loce_checks", "loce_checks")),),
    ),
    "sklearn_loce.exceptions": Module(
        "Errors with a meaning of their own.",
        (Section("", "", ("FailedRowsError", "LayoutError", "StoreError")),),
    ),
}
