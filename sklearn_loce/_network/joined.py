"""Several layers of a network as one, for one filter over all of their channels."""

from dataclasses import dataclass


@dataclass(frozen=True, init=False, repr=False)
class Joined:
    """Several layers of a network as one layer, with the channels of all of them.

    Shallow layers locate edges, and deep layers identify objects. One filter over the channels of
    both redraws masks better than a filter on either, most of all those of small objects. Pass it
    wherever the name of a layer is asked for, alone or in a list.

    Parameters
    ----------
    *layers : str
        Dotted names of two or more layers, as :func:`list_layers` gives them. Their order is that
        of the channels.

    Attributes
    ----------
    layers : tuple of str
        As given.

    Raises
    ------
    ValueError
        If there are fewer than two layers, or one is named twice.
    TypeError
        If a layer is no str.

    See Also
    --------
    LoCETransformer : Takes it as ``layer``.
    ActivationExtractor : The joined activations.

    Notes
    -----
    With the activations A_l of layer l in one image, of n_l cells, its channels in the joined layer
    are ``A_l / sqrt(sum(A_l ** 2) / n_l)``, interpolated bilinearly to the finest of the layers'
    grids. No layer outweighs the others so, whatever its scale. The channels of a layer that is
    zero everywhere are zero. Members pass the network once, also if they are asked for alone.

    This is not the vectors of several layers side by side, which
    ``layer=["features.1", "features.4"]`` gives: each of those redraws the mask alone.

    The value is immutable and hashable, and equal to one of the same layers in the same order.
    ``str`` gives the name that ``layers_``, tables and features have for it.

    Examples
    --------
    >>> from sklearn_loce import Joined, LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> X, model = make_scenes(2, random_state=0).data, TorchModel(load_scene_model)
    >>> joined = Joined("features.1", "features.4")
    >>> joined
    Joined('features.1', 'features.4')
    >>> str(joined)
    'features.1+features.4'
    >>> loce = LoCETransformer(model, ["features.4", joined], objective="logistic").fit(X)
    >>> iou = loce.evaluate(X).groupby("layer")["iou"].mean()
    >>> bool(iou["features.1+features.4"] > iou["features.4"])
    True
    """

    layers: tuple

    def __init__(self, *layers):
        if not all(isinstance(layer, str) for layer in layers):
            names = ", ".join(map(repr, layers))
            raise TypeError(
                "Joined takes names of layers one by one, as in Joined('features.1', 'features.4')"
                f", got {names}."
            )
        if len(set(layers)) < max(2, len(layers)):
            raise ValueError(f"Joined takes two or more different layers, got {list(layers)}.")
        object.__setattr__(self, "layers", tuple(map(str, layers)))

    def __repr__(self):
        return f"Joined({', '.join(map(repr, self.layers))})"

    def __str__(self):
        return "+".join(self.layers)


def members_of(layer):
    """Return the names of the layers that a layer is made of: its own, or those that it joins."""
    return layer.layers if isinstance(layer, Joined) else (layer,)
