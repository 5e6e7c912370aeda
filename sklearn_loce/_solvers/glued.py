"""Vectors with what the solver says of them glued behind.  # until _embedding is rebuilt."""

import numpy as np
import torch

FACTS = ("intercept", "n_iter", "gradient_norm")
INTERCEPT, N_ITER, GRADIENT_NORM = range(-3, 0)


def n_facts(objective):
    return len(FACTS) if objective.has_bias else 0


def solve_rows(activations, targets, start, objective, *, n_threads=None, recorder=None):
    how = {"n_threads": n_threads, "recorder": recorder}
    solution = objective.solve(activations, targets, start, **how)
    facts = [getattr(solution, name) for name in FACTS] if objective.has_bias else []
    return torch.from_numpy(np.column_stack([solution.vectors, *facts]))
