"""Several layers of a network as one layer, for one LoCE over all their channels."""

from dataclasses import dataclass


@dataclass(frozen=True, init=False, repr=False)
class Joined:
    """Several layers of a network as one layer, with the channels of all of them.

    Shallow layers locate edges, and deep layers identify objects. One LoCE over the channels of
    both matches masks better than a LoCE of either layer, above all masks of small objects. A
    ``Joined`` may replace the name of a layer anywhere, alone or in a list.

    Parameters
    ----------
    *layers : str
        Dotted names of two or more layers from :func:`list_layers`. The channels have the same
        order.

    Attributes
    ----------
    layers : tuple of str
        The names of the layers.

    Raises
    ------
    ValueError
        If there are fewer than two layers, or a layer is listed twice.
    TypeError
        If a layer is not a str.

    See Also
    --------
    LoCETransformer : Accepts a ``Joined`` as ``layer``.
    ActivationExtractor : The joined activations.

    Notes
    -----
    Let A_l be the activations of layer l in one image, with n_l cells. The channels of this layer
    in the joined layer are ``A_l / sqrt(sum(A_l ** 2) / n_l)``, interpolated bilinearly to the
    finest grid of all layers. So no layer outweighs the others, whatever its scale. If a layer is
    zero everywhere, its channels are zero. A single pass of the network serves the joined layer and
    its members.

    A list such as ``layer=["features.1", "features.4"]`` differs from a ``Joined``: it optimizes
    one vector per layer, and each vector is fitted to the mask alone.

    The value is immutable and hashable. It equals a ``Joined`` of the same layers in the same
    order. ``str`` returns its name in ``layers_``, tables and features.

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
