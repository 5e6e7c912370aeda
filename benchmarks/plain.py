"""The method as plain code: every channel upsampled, autograd, ``torch.optim.AdamW``.

Tests compare the solver's values with it, and benchmarks its cost.
"""

import torch
from torch.nn import functional


def _by_product(weights, upsampled):
    """Sum the weighted channels, as the published implementation does."""
    return (upsampled * weights[:, :, None, None]).sum(1)


def _by_matmul(weights, upsampled):
    """Compute the same sum without an array of all weighted channels."""
    return torch.einsum("nc,nchw->nhw", weights, upsampled)


FORMS = {"product": _by_product, "matmul": _by_matmul}


def plain_loss(weights, upsampled, targets, objective="net2vec", form="matmul"):
    """Return the loss of each sample, from channels at mask size (n, C, H, W)."""
    projections = FORMS[form](weights, upsampled).sigmoid()
    if objective == "net2vec":
        background = 1 - (targets > 0).to(weights).mean((1, 2), keepdim=True)
        hit = background * targets * projections
        rest = (1 - background) * (1 - targets) * (1 - projections)
        return -(hit + rest).sum((1, 2))
    difference = projections - targets
    error = difference**2 if objective == "mse" else difference.abs()
    penalty = (weights.abs().sum(1) + weights.norm(dim=1)) / weights.shape[1]
    return error.mean((1, 2)) + penalty


def plain_loces(
    activations, targets, *, objective="net2vec", start=None, max_iter=50, form="matmul"
):
    """Optimize LoCEs with plain code.

    Parameters
    ----------
    activations : Tensor of shape (n_samples, n_channels, height, width)
    targets : Tensor of shape (n_samples, n_rows, n_columns)
        Masks at mask size.
    objective, start, max_iter
        As for ``optimize_loces``; ``start`` is the vector itself.
    form : {"matmul", "product"}, default="matmul"
        How channels are summed; both compute the same function.

    Returns
    -------
    Tensor of shape (n_samples, n_channels)
    """
    size = targets.shape[1:]
    upsampled = functional.interpolate(activations, size=size, mode="bilinear")
    weights = torch.zeros(activations.shape[:2], dtype=activations.dtype)
    if start is not None:
        weights += torch.as_tensor(start)
    weights.requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=0.1, weight_decay=0.01)
    for _ in range(max_iter):
        optimizer.zero_grad()
        plain_loss(weights, upsampled, targets, objective, form).sum().backward()
        optimizer.step()
    return weights.detach()
