"""The optimization of LoCEs, as pure functions on tensors."""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._network.grids import all_finite
from .objectives import LBFGS_OBJECTIVES, OBJECTIVES, make_objective, warn_unconverged
from .project import best_bias, compute_logits, project
from .resize import MASK_RESIZE, check_mask_size

__all__ = [
    "INITS",
    "initial_vector",
    "optimize_loces",
    "project_loces",
]

INITS = ("zeros", "ones", "uniform", "normal")


def initial_vector(init, n_channels, random_state):
    """Draw the start of the optimization, shape (n_channels,), float64."""
    rng = check_random_state(random_state)
    draw = {
        "zeros": np.zeros,
        "ones": np.ones,
        "uniform": rng.random_sample,
        "normal": rng.standard_normal,
    }
    return draw[init](n_channels)


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
        raise ValueError(f"activations contain NaN or infinity in the samples {bad}.")


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
    if not objective.has_bias:
        raise ValueError(
            "return_info=True needs an objective with a bias, "
            f"{sorted(LBFGS_OBJECTIVES)}, got {objective.name!r}."
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
    objective="logistic",
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
    """Optimize one Local Concept Embedding per sample.

    A LoCE is the vector v whose projection ``sigmoid(upsample(sum_c v_c A_c))`` is closest to the
    concept's mask. The channels are summed at the resolution of the layer, and a single map is
    upsampled. This is the same function as an upsampling of every channel. The gradient is
    hand-written, without autograd. Each sample has its own loss: its vector does not depend on
    other samples, to the last bit on the CPU and to rounding elsewhere. In float64, the last bits
    may depend on the number of threads of torch.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
        Activations of one layer. float16 and bfloat16 are computed in float32.
    masks : array-like or Tensor of shape (n_samples, mask_height, mask_width)
        Concept masks with values in [0, 1], at any size; a sequence may mix sizes.
    objective : {"logistic", "jaccard", "dice", "net2vec", "mse", "mae"}, default="logistic"
        The first three have a bias and a ridge, see Notes. L-BFGS minimizes them until it
        converges. "net2vec" is the paper's pseudo binary cross-entropy, balanced by the share of
        the background. "mse" and "mae" are the mean squared and absolute error plus
        ``(||v||_1 + ||v||_2) / n_channels``. AdamW minimizes these three by a fixed number of
        steps, with betas (0.9, 0.999), epsilon 1e-8 and weight decay 0.01. Parameters that the
        objective does not use must keep their defaults.
    learning_rate : float, default=0.1
        Learning rate of AdamW.
    max_iter : int, default=None
        Number of steps of AdamW, or maximum number of iterations of L-BFGS. ``None`` means 50
        and 500.
    alpha : float, default=1e-4
        Strength of the ridge of "logistic", "jaccard" and "dice". One value means the same for
        all layers and scales of activations. The losses "jaccard" and "dice" are at most 1, so with
        a ridge of 0.1 their projections stay empty.
    tol : float, default=1e-4
        L-BFGS stops when the norm of the gradient is at most this share of a reference. For
        "logistic", the reference is the norm at the vector zero, at least 0.01 in the units of the
        solver. For "jaccard" and "dice", it is the largest norm so far. A logistic LoCE then has a
        relative error of at most about ``tol / (4 * alpha)``.
    class_weight : {"sqrt", "balanced"} or None, default="sqrt"
        Weight of a pixel of concept or background in the logistic loss: the inverse square root of
        the share of its class in the mask, the inverse share, or 1. With "balanced", projections of
        small concepts are too large. With ``None``, small concepts are lost.
    init : {"zeros", "ones", "uniform", "normal"}, default="zeros"
        Start of the optimization. "uniform" on [0, 1) and "normal" draw one random start for all
        samples.
    mask_size : tuple of int, default=(100, 100)
        Size (n_rows, n_columns) at which projection and mask are compared.
    mask_resize : {"gaussian", "area", "nearest", "bilinear"}, default="gaussian"
        Method that resizes masks to ``mask_size``. The result depends on it strongly. "gaussian"
        is the published method (``skimage.transform.resize``).
    random_state : int, RandomState instance or None, default=None
        Seed for a random ``init``.
    return_info : bool, default=False
        Whether to return biases, iterations and gradient norms of "logistic", "jaccard" and "dice".

    Returns
    -------
    embeddings : Tensor of shape (n_samples, n_channels)
        The LoCEs, on the device of the activations. They are float64 for float64 activations and
        float32 otherwise.
    info : Bunch
        Only with ``return_info=True``; tensors of shape (n_samples,):

        - ``bias``: the bias for :func:`project_loces` with which the pixels above 0.5 have the
          largest Jaccard index with the mask;
        - ``intercept``: the bias at the optimum of the objective;
        - ``n_iter``: the number of iterations;
        - ``gradient_norm``: the relative norm that ``tol`` bounds.

    Raises
    ------
    ValueError
        If shapes do not match, activations contain NaN or infinity, mask values are outside [0, 1],
        a mask has no foreground pixel at ``mask_size``, a result is not finite, a parameter that
        the objective does not use differs from its default, or ``return_info`` is true for an
        objective without a bias.

    Warns
    -----
    ConvergenceWarning
        If rows did not converge; the result contains their current vectors.

    See Also
    --------
    project_loces : Project the LoCEs.
    LoCETransformer : LoCEs of a table of images and masks.

    Notes
    -----
    Let z = upsample(sum_c v_c A_c) + b, P = sigmoid(z), t the mask, q its mean, and s the squared
    norm of the activations, averaged over the cells of the sample. Sums run over the pixels at
    ``mask_size``. The objectives with a bias minimize a loss plus ``alpha / 2 * s * ||v||^2`` over
    the vector v and the intercept b. The losses are

    - "logistic": ``sum(w(q) t softplus(-z) + w(1 - q) (1 - t) softplus(z)) / W``, with the sum of
      all weights W. ``class_weight`` chooses ``w(q) = q^(-1/2)``, ``1 / q`` or 1. The loss is
      strictly convex: the LoCE does not depend on the start, and it rotates with the axes of the
      activations. It is the vector of logistic regression on pixels. A mask that covers all pixels
      gives zeros.
    - "jaccard": ``1 - sum(t P) / sum(t + P - t P)``, and "dice": ``1 - 2 sum(t P) / sum(t + P)``.
      These losses are not convex: the LoCE is the minimum that the solver reaches from its start.

    A mask that covers every pixel has no background. Its gradient under "net2vec" is zero, so the
    LoCE stays at the start.

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

    >>> embeddings, info = optimize_loces(activations, mask, return_info=True)
    >>> embeddings.sign()
    tensor([[ 1., -1.]])
    >>> info.gradient_norm < 1e-4
    tensor([True])
    """
    objective = make_objective(
        objective,
        learning_rate=learning_rate,
        max_iter=max_iter,
        alpha=alpha,
        tol=tol,
        class_weight=class_weight,
        mask_size=mask_size,
        mask_resize=mask_resize,
    )
    if return_info:
        _check_has_info(objective)
    _check_activations(activations)
    targets = objective.targets(_as_arrays(masks, len(activations)))
    _check_targets(targets)
    if activations.dtype != torch.float64:
        activations = activations.float()
    grids = list(activations.detach())
    start = initial_vector(init, activations.shape[1], random_state)
    solution = objective.solve(grids, targets, start, n_threads=None)
    if not np.isfinite(solution.vectors).all():
        raise ValueError(f"LoCEs did not stay finite; {objective.advice}.")
    if objective.has_bias:
        warn_unconverged(solution.gradient_norm[:, None], objective)
    embeddings = torch.from_numpy(solution.vectors).to(activations.device)
    return (embeddings, _info(solution, grids, targets)) if return_info else embeddings


def _info(solution, grids, targets):
    rows = zip(grids, solution.vectors, targets, strict=True)
    bias = [best_bias(compute_logits(a, v, t.shape).numpy(), t) for a, v, t in rows]
    facts = {name: getattr(solution, name) for name in ("intercept", "n_iter", "gradient_norm")}
    like = {"dtype": grids[0].dtype, "device": grids[0].device}
    return Bunch(**{k: torch.as_tensor(v, **like) for k, v in {"bias": bias, **facts}.items()})


def project_loces(activations, embeddings, mask_size=(100, 100), *, bias=None):
    """Project LoCEs onto their activations.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
        Activations of one layer.
    embeddings : Tensor of shape (n_samples, n_channels)
        The LoCEs.
    mask_size : tuple of int, default=(100, 100)
        Size (n_rows, n_columns) of the projections.
    bias : Tensor of shape (n_samples,), default=None
        Bias that is added before the sigmoid.

    Returns
    -------
    Tensor of shape (n_samples, n_rows, n_columns)
        Probabilities that a pixel shows the concept.

    Raises
    ------
    ValueError
        If shapes do not match, or activations are complex, NaN or infinite.

    See Also
    --------
    optimize_loces : Optimize LoCEs.
    LoCETransformer.project : The same for rows of a table.

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
