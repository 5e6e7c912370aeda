"""Download published datasets once into the data home of scikit-learn."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from sklearn.datasets import get_data_home
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._warnings import warn_user
from ._archives import unpack
from ._coco import load_coco
from ._download import download
from ._table import TABLE_CONSTRAINTS
from ._voc import load_voc

_FETCH_CONSTRAINTS = {
    "data_home": [str, os.PathLike, None],
    "download_if_missing": ["boolean"],
    "base_url": [str],
    "n_retries": [Interval(Integral, 0, None, closed="left")],
    "delay": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
}


@dataclass(frozen=True)
class _Archive:
    """An archive to download and unpack.

    Parameters
    ----------
    path : str
        Path relative to the base URL.
    checksum : str
        Checksum with its algorithm.
    folder : str
        Target in the folder of the dataset.
    only : tuple of str, default=()
        The members to unpack; an empty tuple means all.
    """

    path: str
    checksum: str
    folder: str
    only: tuple = ()


# The publishers provide no checksums. Other projects use these MD5 sums for the same files:
# PaddleDetection and MLCommons for COCO, torchvision for VOC.
_COCO_VAL2017 = (
    _Archive("zips/val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80", "images"),
    _Archive(
        "annotations/annotations_trainval2017.zip",
        "md5:f4bbac642086de4f52a3fdda2de5fa2c",
        "annotations",
        only=("annotations/instances_val2017.json",),
    ),
)
_VOC2012 = (
    _Archive("VOCtrainval_11-May-2012.tar", "md5:6cd6e144f989b92b3379bac3b3de84fd", "trainval"),
)


@contextmanager
def _alone(home):
    """Wait until no other live process writes to a folder."""
    lock = FileLock(str(home / ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warn_user(f"Another process downloads to {home}; this one waits for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(archives, home, *, base_url, download_if_missing, **how):
    """Download and unpack missing archives into ``home``, and delete the archives."""
    missing = [home / a.folder for a in archives if not (home / a.folder).is_dir()]
    if not missing:
        return
    if not download_if_missing:
        raise OSError(f"Data not found in {missing[0]} and `download_if_missing` is False")
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home):
        for archive in archives:
            if not (home / archive.folder).is_dir():
                _fetch_one(archive, home, base_url, **how)


def _fetch_one(archive, home, base_url, *, verbose, **how):
    file = home / PurePosixPath(archive.path).name
    url = f"{base_url.rstrip('/')}/{archive.path}"
    download(url, archive.checksum, file, verbose=verbose, **how)
    unpack(file, home / archive.folder, only=archive.only, verbose=verbose)
    file.unlink()


@validate_params(
    {**_FETCH_CONSTRAINTS, "crowd": [StrOptions({"keep", "drop"})], **TABLE_CONSTRAINTS},
    prefer_skip_nested_validation=True,
)
def fetch_coco_val2017(
    *,
    data_home=None,
    download_if_missing=True,
    categories=None,
    merge_instances=True,
    crowd="keep",
    min_area=1,
    mask="segmentation",
    keep=(),
    return_X_y=False,
    base_url="http://images.cocodataset.org",
    n_retries=3,
    delay=1.0,
    verbose=1,
):
    """Load the validation set of MS COCO 2017, downloading it once.

    The set has 5,000 images and 80 concepts. The download of 1.1 GB is verified by checksums and
    resumes after an interruption. Unpacking needs another 1.1 GB on the disk for some time. If
    several processes need the data at once, one downloads it and the others wait.

    Parameters
    ----------
    data_home : str or path, default=None
        Folder for datasets. ``None`` uses the folder of scikit-learn, ``~/scikit_learn_data``.
    download_if_missing : bool, default=True
        Whether to download missing data. If False, missing data raises an OSError.
    categories : list of str, default=None
        Names of the concepts to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row.
    crowd : {"keep", "drop"}, default="keep"
        Whether annotations whose ``iscrowd`` is 1 are kept.
    min_area : int or float, default=1
        Minimum area of a mask, see :func:`load_coco`. The default omits annotations that cover no
        pixel.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields of the annotations that become columns; see :func:`load_coco`.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.
    base_url : str, default="http://images.cocodataset.org"
        Address of the server, or of a mirror with the same paths.
    n_retries : int, default=3
        Number of retries after a network failure.
    delay : float, default=1.0
        Seconds between retries.
    verbose : int, default=1
        With 1 or more, show progress bars.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    OSError
        If the data is missing and ``download_if_missing`` is False, the download fails or differs
        from the published file, or the disk is full.

    See Also
    --------
    load_coco : Load files that are already on the disk.

    References
    ----------
    .. [1] T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV, 2014.
       https://cocodataset.org

    Examples
    --------
    >>> from sklearn_loce.datasets import fetch_coco_val2017
    >>> coco = fetch_coco_val2017(categories=["person", "dog"])  # doctest: +SKIP
    """
    home = Path(get_data_home(data_home)) / "coco_val2017"
    _fetch(
        _COCO_VAL2017,
        home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
        verbose=verbose,
    )
    return load_coco(
        home / "annotations" / "annotations" / "instances_val2017.json",
        home / "images" / "val2017",
        categories=categories,
        merge_instances=merge_instances,
        crowd=crowd,
        min_area=min_area,
        mask=mask,
        keep=keep,
        return_X_y=return_X_y,
    )


@validate_params(
    {**_FETCH_CONSTRAINTS, "split": [str], **TABLE_CONSTRAINTS},
    prefer_skip_nested_validation=True,
)
def fetch_voc2012(
    *,
    split="trainval",
    data_home=None,
    download_if_missing=True,
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
    base_url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    n_retries=3,
    delay=1.0,
    verbose=1,
):
    """Load the segmentation set of PASCAL VOC 2012, downloading it once.

    The set has 2,913 images and 20 concepts. The download of 2 GB is verified by a checksum and
    resumes after an interruption. Unpacking needs another 2 GB on the disk for some time. If
    several processes need the data at once, one downloads it and the others wait.

    Parameters
    ----------
    split : {"trainval", "train", "val"}, default="trainval"
        Part of the data set.
    data_home : str or path, default=None
        Folder for datasets. ``None`` uses the folder of scikit-learn, ``~/scikit_learn_data``.
    download_if_missing : bool, default=True
        Whether to download missing data. If False, missing data raises an OSError.
    categories : list of str, default=None
        Names of the concepts to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row.
    min_area : int or float, default=0
        Minimum area of a mask, see :func:`load_voc`.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields of the annotations that become columns; see :func:`load_voc`.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.
    base_url : str, default="http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
        Address of the server, or of a mirror with the same paths, such as
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012".
    n_retries : int, default=3
        Number of retries after a network failure.
    delay : float, default=1.0
        Seconds between retries.
    verbose : int, default=1
        With 1 or more, show progress bars.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_voc`.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    OSError
        If the data is missing and ``download_if_missing`` is False, the download fails or differs
        from the published file, or the disk is full.

    See Also
    --------
    load_voc : Load a tree that is already on the disk.

    References
    ----------
    .. [1] M. Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective",
       IJCV, 2015.

    Examples
    --------
    >>> from sklearn_loce.datasets import fetch_voc2012
    >>> voc = fetch_voc2012(split="val", categories=["cat", "dog"])  # doctest: +SKIP
    """
    home = Path(get_data_home(data_home)) / "voc2012"
    _fetch(
        _VOC2012,
        home,
        base_url=base_url,
        download_if_missing=download_if_missing,
        n_retries=n_retries,
        delay=delay,
        verbose=verbose,
    )
    return load_voc(
        home / "trainval",
        split,
        categories=categories,
        merge_instances=merge_instances,
        min_area=min_area,
        mask=mask,
        keep=keep,
        return_X_y=return_X_y,
    )
