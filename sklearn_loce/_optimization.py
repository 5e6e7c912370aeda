"""The optimisation of LoCEs, as pure functions on tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from ._adamw_cpu import solve_on_cpu
from ._adamw_torch import Recorder, project, solve_with_torch
from ._masks import MASK_RESIZE, check_mask_size, resize_masks

INITS = ("zeros", "ones", "uniform", "normal")


@dataclass(frozen=True)
class Objective:
    """What a LoCE minimises: a sum over mask pixels, plus a penalty on the vector.

    Parameters
    ----------
    slope : {"constant", "difference", "sign"}
        dL/dP of one pixel is what is held of it, or its difference to that, or the sign of it.
    slope_scale : float
        Factor of the last two, to be divided by the number of pixels.
    hold : callable
        Targets (n, H, W) to what the slope needs of every pixel.
    pixel_loss : callable
        (projections, targets, held), each (n, H, W), to the loss of each pixel.
    penalty : float
        Factor of ``(||v||_1 + ||v||_2) / n_channels``.
    """

    slope: str
    slope_scale: float
    hold: Callable
    pixel_loss: Callable
    penalty: float


def _balanced_weight(target):
    """Give dL/dP of Net2Vec's pseudo-BCE, which does not depend on P.

    With a the background's share it is (1 - a) (1 - t) - a t, and that is (1 - a) - t.
    """
    return (target > 0).mean((1, 2), dtype=np.float64, keepdims=True) - target


def _pseudo_bce(projection, target, held):
    background = 1 - (target > 0).double().mean((1, 2), keepdim=True)
    return held * projection - (1 - background) * (1 - target)


def _squared_error(projection, target, held):
    return (projection - held) ** 2 / target[0].numel()


def _absolute_error(projection, target, held):
    return (projection - held).abs() / target[0].numel()


def _unchanged(target):
    return target


OBJECTIVES = {
    "net2vec": Objective("constant", 1.0, _balanced_weight, _pseudo_bce, penalty=0.0),
    "mse": Objective("difference", 2.0, _unchanged, _squared_error, penalty=1.0),
    "mae": Objective("sign", 1.0, _unchanged, _absolute_error, penalty=1.0),
}


@dataclass(frozen=True)
class Settings:
    """What the solver needs to know: the objective and AdamW's constants."""

    objective: Objective
    learning_rate: float
    max_iter: int
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8


def initial_vector(init, n_channels, random_state):
    """Draw the start of the optimisation, shape (n_channels,), float64."""
    rng = check_random_state(random_state)
    draw = {
        "zeros": np.zeros,
        "ones": np.ones,
        "uniform": rng.random_sample,
        "normal": rng.standard_normal,
    }
    return draw[init](n_channels)


def _images(activations):
    """Group the rows that share activations."""
    sharing = {}
    for i, grid in enumerate(activations):
        sharing.setdefault((grid.data_ptr(), grid.shape, grid.stride()), []).append(i)
    return [np.array(rows) for rows in sharing.values()]


def solve_rows(activations, targets, start, settings, *, n_threads=None, recorder=None):
    """Optimise one LoCE per row.

    Parameters
    ----------
    activations : sequence of Tensor of shape (n_channels, height, width)
        One per row, all of one dtype and on one device; rows of one image may share theirs.
    targets : ndarray of shape (n_rows, H, W), float32
    start : ndarray of shape (n_channels,)
    settings : Settings
    n_threads : int, default=None
        Of the solver for the CPU; ``None`` means as many as torch has. The result is the same.
    recorder : Recorder, default=None
        Of the solver for GPUs, to be kept from batch to batch.

    Returns
    -------
    Tensor of shape (n_rows, n_channels)
        In the activations' dtype, on the CPU.
    """
    images = _images(activations)
    if activations[0].device.type == "cpu" and activations[0].dtype == torch.float32:
        arrays = [sample.detach().numpy() for sample in activations]
        return torch.from_numpy(solve_on_cpu(arrays, images, targets, start, settings, n_threads))
    recorder = recorder or Recorder()
    return solve_with_torch(activations, images, targets, start, settings, recorder)


def losses(projections, targets, embeddings, objective):
    """Give the loss of each row, as a float64 tensor of shape (n_rows,)."""
    targets, projections = torch.from_numpy(targets).double(), projections.double()
    held = torch.from_numpy(objective.hold(targets.numpy()))
    loss = objective.pixel_loss(projections, targets, held).sum((1, 2))
    embeddings = embeddings.double()
    norms = embeddings.abs().sum(1) + embeddings.norm(dim=1)
    return loss + objective.penalty * norms / embeddings.shape[1]


def all_finite(tensor):
    """Say whether a tensor holds neither NaN nor infinity."""
    # A sum is ten times as fast as isfinite and needs no copy; it may overflow, so look again.
    return bool(torch.isfinite(tensor.sum()) or all(torch.isfinite(part).all() for part in tensor))


def _check_activations(activations):
    if activations.is_complex():
        raise ValueError(f"activations must be real numbers, got {activations.dtype}.")
    if activations.ndim != 4:
        raise ValueError(
            "activations must have the shape (n_samples, n_channels, height, width), got "
            f"{tuple(activations.shape)}."
        )
    if 0 in activations.shape:
        raise ValueError(f"activations are empty: their shape is {tuple(activations.shape)}.")
    if not all_finite(activations):
        bad = [i for i, sample in enumerate(activations) if not all_finite(sample)]
        raise ValueError(f"activations hold NaN or infinity in the samples {bad}.")


def _check_targets(targets):
    if not (np.isfinite(targets).all() and targets.min() >= 0 and targets.max() <= 1):
        raise ValueError("masks must be finite and in [0, 1].")
    empty = np.flatnonzero(~(targets > 0).any((1, 2)))
    if len(empty):
        raise ValueError(
            f"The masks of the samples {empty.tolist()} have no foreground pixel at mask_size; "
            "leave them out, or choose a larger mask_size."
        )


def _as_arrays(masks, n_samples):
    if len(masks) != n_samples:
        raise ValueError(f"Got {n_samples} activations but {len(masks)} masks.")
    return [_as_array(mask, i) for i, mask in enumerate(masks)]


def _as_array(mask, i):
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu()
        mask = mask.float() if mask.is_floating_point() else mask
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ValueError(
            f"Mask {i} must be a 2-D array of numbers in [0, 1], got {type(mask).__name__} of "
            f"shape {array.shape} and dtype {array.dtype}."
        )
    return array


@validate_params(
    {
        "activations": [torch.Tensor],
        "masks": ["array-like", torch.Tensor],
        "objective": [StrOptions(set(OBJECTIVES))],
        "solver": [StrOptions({"adamw"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(set(INITS))],
        "mask_size": [tuple, list],
        "mask_resize": [StrOptions(set(MASK_RESIZE))],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def optimize_loces(
    activations,
    masks,
    *,
    objective="net2vec",
    solver="adamw",
    learning_rate=0.1,
    max_iter=50,
    init="zeros",
    mask_size=(100, 100),
    mask_resize="gaussian",
    random_state=None,
):
    """Optimise one Local Concept Embedding per sample.

    A LoCE is the vector v for which ``sigmoid(upsample(sum_c v_c A_c))`` comes closest to the
    concept's mask. The sum is taken at the layer's own resolution and one map is upsampled, which
    is the same function as upsampling every channel; the gradient is written out, so that no
    autograd graph is built. Each sample's loss stands alone: its vector does not depend on the
    samples beside it, to the last bit for float32 on the CPU, and to rounding elsewhere.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
        Activations of one layer. float16 and bfloat16 are computed in float32.
    masks : array-like or Tensor of shape (n_samples, mask_height, mask_width)
        Concept masks with values in [0, 1], at any size; a sequence may mix sizes.
    objective : {"net2vec", "mse", "mae"}, default="net2vec"
        "net2vec" is the paper's pseudo binary cross-entropy, balanced by the background's share;
        "mse" and "mae" are the mean squared and absolute error plus
        ``(||v||_1 + ||v||_2) / n_channels``.
    solver : {"adamw"}, default="adamw"
        AdamW with betas (0.9, 0.999), epsilon 1e-8 and weight decay 0.01.
    learning_rate : float, default=0.1
    max_iter : int, default=50
        Number of steps; all of them are taken.
    init : {"zeros", "ones", "uniform", "normal"}, default="zeros"
        Start of the optimisation. "uniform" on [0, 1) and "normal" are drawn once and shared by
        all samples.
    mask_size : tuple of int, default=(100, 100)
        (n_rows, n_columns) at which projection and mask are compared.
    mask_resize : {"gaussian", "area", "nearest", "bilinear"}, default="gaussian"
        How masks are brought to ``mask_size``. The result depends on it strongly; "gaussian" is
        the published method's (``skimage.transform.resize``).
    random_state : int, RandomState instance or None, default=None
        Determines the start where ``init`` is drawn.

    Returns
    -------
    Tensor of shape (n_samples, n_channels)
        The LoCEs, float64 for float64 activations and float32 otherwise, on the activations'
        device.

    Raises
    ------
    ValueError
        If shapes don't fit, activations hold NaN or infinity, masks leave [0, 1], a mask has no
        foreground pixel at ``mask_size``, or a result is not finite.

    Notes
    -----
    A mask that covers every pixel has no background to be balanced against: under "net2vec" its
    gradient is zero and the LoCE stays at the start.

    References
    ----------
    .. [1] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025, section 3.
    .. [2] R. Fong and A. Vedaldi, "Net2Vec", CVPR, 2018: the objective.

    Examples
    --------
    >>> import torch
    >>> from sklearn_loce import optimize_loces
    >>> activations = torch.zeros(1, 2, 4, 4)
    >>> activations[0, 0, :2] = 1  # the first channel sees the upper half
    >>> activations[0, 1, 2:] = 1
    >>> mask = torch.zeros(1, 64, 64)
    >>> mask[0, :32] = 1
    >>> optimize_loces(activations, mask).sign()
    tensor([[ 1., -1.]])
    """
    _check_activations(activations)
    check_mask_size(mask_size)
    arrays = _as_arrays(masks, len(activations))
    targets = resize_masks(arrays, mask_size, mask_resize)
    _check_targets(targets)
    if activations.dtype != torch.float64:
        activations = activations.float()
    start = initial_vector(init, activations.shape[1], random_state)
    settings = Settings(OBJECTIVES[objective], learning_rate, max_iter)
    embeddings = solve_rows(list(activations.detach()), targets, start, settings)
    if not torch.isfinite(embeddings).all():
        raise ValueError(
            f"LoCEs did not stay finite with learning_rate={learning_rate}. Lower it, or bring the "
            "activations to a smaller scale."
        )
    return embeddings.to(activations.device)


def project_loces(activations, embeddings, mask_size=(100, 100)):
    """Project LoCEs onto the activations they belong to.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
    embeddings : Tensor of shape (n_samples, n_channels)
    mask_size : tuple of int, default=(100, 100)

    Returns
    -------
    Tensor of shape (n_samples, n_rows, n_columns)
        Probabilities that a pixel shows the concept.

    Raises
    ------
    ValueError
        If shapes don't fit, or activations are complex, NaN or infinite.

    Examples
    --------
    >>> import torch
    >>> from sklearn_loce import project_loces
    >>> project_loces(torch.ones(1, 3, 2, 2), torch.zeros(1, 3), mask_size=(2, 2))
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    _check_activations(activations)
    check_mask_size(mask_size)
    if embeddings.shape != activations.shape[:2]:
        raise ValueError(
            f"embeddings must be of shape {tuple(activations.shape[:2])} (n_samples, n_channels), "
            f"got {tuple(embeddings.shape)}."
        )
    if activations.dtype != torch.float64:
        activations = activations.float()
    return project(activations, embeddings.to(activations), tuple(mask_size))
