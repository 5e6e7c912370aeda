"""The optimisation of LoCEs, as pure functions on tensors."""

import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._samples.masks import MASK_RESIZE, check_mask_size, resize_masks
from .adamw import Recorder, project, solve_with_torch
from .compiled.adamw import solve_on_cpu
from .compiled.lbfgs import solve_ridge_on_cpu
from .lbfgs import solve_ridge_with_torch
from .objectives import ALL_OBJECTIVES, OBJECTIVES, SOLVERS, Settings, losses, make_settings
from .ridge import FACTS, GRADIENT_NORM, KINDS, N_FACTS, RidgeSettings, redrawing_biases

__all__ = [
    "INITS",
    "OBJECTIVES",
    "Settings",
    "all_finite",
    "initial_vector",
    "losses",
    "optimize_loces",
    "project_loces",
    "solve_rows",
    "warn_unconverged",
]

INITS = ("zeros", "ones", "uniform", "normal")


def warn_unconverged(norms, settings, *, stacklevel):
    """Warn of rows whose gradient is still larger than asked for, (n_rows, n_layers)."""
    n_rows = np.count_nonzero((norms > settings.tol).any(1))
    if n_rows:
        warnings.warn(
            f"{n_rows} of {len(norms)} rows did not converge to tol={settings.tol} in "
            f"max_iter={settings.max_iter} iterations. Raise max_iter, alpha or tol.",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )


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
    settings : Settings or RidgeSettings
    n_threads : int, default=None
        Of the solver for the CPU; ``None`` means as many as torch has. The result is the same.
    recorder : Recorder, default=None
        Of the solver for GPUs, to be kept from batch to batch.

    Returns
    -------
    Tensor of shape (n_rows, n_channels + settings.n_facts)
        In the activations' dtype, on the CPU.
    """
    has_ridge = isinstance(settings, RidgeSettings)
    if activations[0].device.type == "cpu" and activations[0].dtype == torch.float32:
        arrays = [sample.detach().numpy() for sample in activations]
        solve = solve_ridge_on_cpu if has_ridge else solve_on_cpu
        images = _images(activations)
        return torch.from_numpy(solve(arrays, images, targets, start, settings, n_threads))
    if has_ridge:
        return solve_ridge_with_torch(activations, targets, start, settings)
    recorder, images = recorder or Recorder(), _images(activations)
    return solve_with_torch(activations, images, targets, start, settings, recorder)


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


def _check_has_info(objective):
    if objective not in KINDS:
        raise ValueError(
            f"return_info=True needs an objective with a bias, {sorted(KINDS)}, got {objective!r}."
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
        "objective": [StrOptions(set(ALL_OBJECTIVES))],
        "solver": [StrOptions(set(SOLVERS))],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [StrOptions({"balanced", "sqrt"}), None],
        "init": [StrOptions(set(INITS))],
        "mask_size": [tuple, list],
        "mask_resize": [StrOptions(set(MASK_RESIZE))],
        "random_state": ["random_state"],
        "return_info": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def optimize_loces(
    activations,
    masks,
    *,
    objective="net2vec",
    solver="auto",
    learning_rate=0.1,
    max_iter=None,
    alpha=1e-4,
    tol=1e-4,
    class_weight="sqrt",
    init="zeros",
    mask_size=(100, 100),
    mask_resize="gaussian",
    random_state=None,
    return_info=False,
):
    """Optimise one Local Concept Embedding per sample.

    A LoCE is the vector v for which ``sigmoid(upsample(sum_c v_c A_c))`` comes closest to the
    concept's mask. The sum is taken at the layer's own resolution and one map is upsampled, which
    is the same function as upsampling every channel; the gradient is written out, so that no
    autograd graph is built. Each sample's loss stands alone: its vector does not depend on the
    samples beside it, to the last bit on the CPU and to rounding elsewhere. In float64 the last
    bits may depend on the number of threads that torch uses.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
        Activations of one layer. float16 and bfloat16 are computed in float32.
    masks : array-like or Tensor of shape (n_samples, mask_height, mask_width)
        Concept masks with values in [0, 1], at any size; a sequence may mix sizes.
    objective : {"net2vec", "mse", "mae", "logistic", "jaccard", "dice"}, default="net2vec"
        "net2vec" is the paper's pseudo binary cross-entropy, balanced by the background's share;
        "mse" and "mae" are the mean squared and absolute error plus
        ``(||v||_1 + ||v||_2) / n_channels``. The other three have a bias and a ridge, see Notes.
    solver : {"auto", "adamw", "lbfgs"}, default="auto"
        "adamw" for the first three: AdamW with betas (0.9, 0.999), epsilon 1e-8 and weight decay
        0.01, which stops where its steps end. "lbfgs" for the last three: L-BFGS, which converges.
        "auto" takes the objective's own.
    learning_rate : float, default=0.1
        Of AdamW.
    max_iter : int, default=None
        Number of steps of AdamW, all of which are taken, or the most iterations of L-BFGS. ``None``
        means 50 and 500.
    alpha : float, default=1e-4
        Strength of the ridge of the last three. One value means the same for all layers and scales
        of activations. With "jaccard" and "dice", whose losses are at most 1, a ridge of 0.1 is too
        dear for anything to be drawn.
    tol : float, default=1e-4
        L-BFGS ends where the gradient's norm falls to this share of that at the vector zero (with
        "logistic", in the solver's units, of 0.01 if that is more), or for "jaccard" and "dice" of
        the largest on the way. A logistic LoCE is then known to about ``tol / (4 * alpha)`` of its
        length at worst.
    class_weight : {"sqrt", "balanced"} or None, default="sqrt"
        Weight of a pixel of concept or background in the logistic loss: inverse to the square root
        of its class's share in the mask, inverse to the share, or 1. "balanced" lets small concepts
        spill over their edge, ``None`` loses them.
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
    return_info : bool, default=False
        Whether to return what else is known of "logistic", "jaccard" and "dice".

    Returns
    -------
    embeddings : Tensor of shape (n_samples, n_channels)
        The LoCEs, float64 for float64 activations and float32 otherwise, on the activations'
        device.
    info : Bunch
        With ``return_info=True`` only; tensors of shape (n_samples,):

        - ``bias``: to be given to :func:`project_loces`; of all, the one with which the pixels
          above 0.5 have the largest Jaccard index with the mask;
        - ``intercept``: that of the objective's optimum;
        - ``n_iter``: number of iterations;
        - ``gradient_norm``: what ``tol`` bounds.

    Raises
    ------
    ValueError
        If shapes don't fit, activations hold NaN or infinity, masks leave [0, 1], a mask has no
        foreground pixel at ``mask_size``, a result is not finite, ``solver`` is not the
        objective's, or ``return_info`` is asked of an objective without a bias.

    Warns
    -----
    ConvergenceWarning
        If rows did not converge; they are returned as they are.

    Notes
    -----
    With z = upsample(sum_c v_c A_c) + b, P = sigmoid(z), the mask t and its mean q, and sums over
    the pixels at ``mask_size``, the objectives with a bias minimise over v and the intercept b the
    loss plus ``alpha / 2 * s * ||v||^2``, with s the mean over cells of the squared norm of the
    sample's activations there, and as loss

    - "logistic": ``sum(w(q) t softplus(-z) + w(1 - q) (1 - t) softplus(z)) / W``, with the sum of
      all weights W and ``w(q) = q^(-1/2)``, ``1 / q`` or 1 by ``class_weight``. It is strictly
      convex: there is one LoCE, whatever the start, that turns with the axes of the activations.
      It is that of logistic regression on pixels. A mask that covers all pixels gives zeros.
    - "jaccard": ``1 - sum(t P) / sum(t + P - t P)``, and "dice": ``1 - 2 sum(t P) / sum(t + P)``,
      which are not convex: the LoCE is the minimum that the start leads to.

    A mask that covers every pixel has no background to be balanced against: under "net2vec" its
    gradient is zero and the LoCE stays at the start.

    References
    ----------
    .. [1] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025, section 3.
    .. [2] R. Fong and A. Vedaldi, "Net2Vec", CVPR, 2018: the objective.
    .. [3] M. Berman, A. Rannen Triki and M. Blaschko, "The Lovász-Softmax loss", CVPR, 2018,
       section 2: the soft Jaccard and Dice losses.
    .. [4] D. Liu and J. Nocedal, "On the limited memory BFGS method for large scale optimization",
       Mathematical Programming 45, 1989.

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

    >>> embeddings, info = optimize_loces(
    ...     activations, mask, objective="logistic", return_info=True
    ... )
    >>> embeddings.sign()
    tensor([[ 1., -1.]])
    >>> info.gradient_norm < 1e-4
    tensor([True])
    """
    settings = make_settings(
        objective,
        solver,
        learning_rate=learning_rate,
        max_iter=max_iter,
        alpha=alpha,
        tol=tol,
        class_weight=class_weight,
    )
    if return_info:
        _check_has_info(objective)
    _check_activations(activations)
    check_mask_size(mask_size)
    arrays = _as_arrays(masks, len(activations))
    targets = resize_masks(arrays, mask_size, mask_resize)
    _check_targets(targets)
    if activations.dtype != torch.float64:
        activations = activations.float()
    start = initial_vector(init, activations.shape[1], random_state)
    solved = solve_rows(list(activations.detach()), targets, start, settings)
    if not torch.isfinite(solved).all():
        raise ValueError(f"LoCEs did not stay finite; {settings.advice}.")
    solved = solved.to(activations.device)
    if not settings.n_facts:
        return solved
    embeddings, facts = solved[:, :-N_FACTS], solved[:, -N_FACTS:]
    warn_unconverged(facts[:, [GRADIENT_NORM]].cpu().numpy(), settings, stacklevel=4)
    if not return_info:
        return embeddings
    maps = torch.einsum("nc,nchw->nhw", embeddings, activations).cpu().numpy()
    bias = torch.tensor(redrawing_biases(maps, targets)).to(embeddings)
    return embeddings, Bunch(bias=bias, **dict(zip(FACTS, facts.T, strict=True)))


def project_loces(activations, embeddings, mask_size=(100, 100), *, bias=None):
    """Project LoCEs onto the activations they belong to.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
    embeddings : Tensor of shape (n_samples, n_channels)
    mask_size : tuple of int, default=(100, 100)
    bias : Tensor of shape (n_samples,), default=None
        Added before the sigmoid.

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
    bias = None if bias is None else bias.to(activations)
    return project(activations, embeddings.to(activations), tuple(mask_size), bias)
