"""Trace a pass, operation by operation, from the images to the layers.

An operation that moves numbers moves their places in the same way. A convolution begins a new grid.
An operation that mixes all places ends the grid. So windows, unfolded patches, merged and
transposed tokens are read correctly in any library. Learned or selected tokens are not mistaken for
places, even if their number fits.
"""

from typing import NamedTuple

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..exceptions import LayoutError
from .grids import LEARNED, MIXED, POOLED, Atlas, Block, Places, exact_codes

_CHOSEN = (
    "its tokens are selected, merged or sorted by their values or at random, so their places "
    "differ between images"
)
_REGIONS = "it describes regions of interest one by one, which share no grid with the image"
_PADDED = "it comes from a map that the network padded or cropped on one side"
_PAIRS = "it contains attention weights between places; choose the output of its block instead"
_MOST_POOLED = 3  # cells on a side that a strided layer may merge
_LARGEST_PATCH = 64  # pixels on a side that a first layer may merge


class _Call(NamedTuple):
    func: object
    args: tuple
    kwargs: dict
    outputs: list


class Trace(TorchDispatchMode):
    """The trace of one forward pass, on the thread that runs it.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_channels, height, width)
        The same object that the network is called with.
    frame : Frame
        The declared position of these images in the input of the first layer.

    Attributes
    ----------
    began : bool
        Whether a layer with weights has run on the images.
    framed : bool
        Whether the image was found at the position of the frame.
    draws : bool
        Whether an operation has drawn random numbers.
    reads_values : bool
        Whether the network read a number that comes from the images. Its control flow may then
        depend on it.
    """

    def __init__(self, images, frame):
        super().__init__()
        self.n_images, self.shape, self.frame = len(images), images.shape, frame
        self.atlas = Atlas(self.n_images)
        self.began = self.reads_values = self.draws = False
        self.framed = False
        self._places = WeakTensorKeyDictionary()
        self._places[images] = self.atlas.lay(images.shape)

    def places_of(self, tensor):
        """Return the places of a tensor; ``None`` if it does not come from the images."""
        return self._places.get(tensor)

    @property
    def most_pooled(self):
        """The number of cells on a side that may become one without pooling."""
        return _MOST_POOLED if self.began else _LARGEST_PATCH

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation, and record the places of its results."""
        kwargs = kwargs or {}
        self.draws |= _draws(func, args, kwargs)
        namespace, _, name = func._schema.name.partition("::")
        if name == "convolution" and not self.began:
            self._adopt(args[0])
        given = [t for t in _tensors((*args, *kwargs.values())) if t in self._places]
        rule = _rule_of(func, namespace, name, given)
        if rule is None:
            return func(*args, **kwargs)
        if rule is _lose:
            # Inference mode does not decompose composite operations.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self.reads_values |= name in _READS
        outputs = _tensors((result,))
        if outputs:
            found = self._follow(rule, _Call(func, args, kwargs, outputs), given)
            for output, places in zip(outputs, found, strict=False):
                self._places[output] = places
        return result

    def _follow(self, rule, call, given):
        """Return the places of the outputs of an operation."""
        known = [self._places[t] for t in given]
        if rule not in (_begin_empty, _draw, _copy) and all(p.codes is None for p in known):
            return [_first_lost(known)] * len(call.outputs)
        dtype = call.outputs[0].dtype
        if not (dtype.is_floating_point or dtype.is_complex) and rule is not _draw:
            return [Places(None, _CHOSEN)] * len(call.outputs)
        try:
            found = rule(self, call, known)
        except LayoutError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError):
            # No known network has such arguments. The pass itself continues.
            found = _lose(self, call, [Places(None)])
        if isinstance(found, str):
            found = Places(None, found)
        coded = [places for places in known if places.codes is not None]
        if rule in _CARRIES and coded and all(places.lost == _PAIRS for places in coded):
            parts = found if type(found) is list else [found]
            found = [part._replace(lost=_PAIRS) for part in parts]
        return found if type(found) is list else [found] * len(call.outputs)

    def _adopt(self, given):
        """Treat the input of a first convolution as the images if these left torch before it."""
        is_known = given in self._places or given.ndim != 4
        if is_known or given.shape[:2] != self.shape[:2]:
            return
        if tuple(given.shape[2:]) != tuple(self.frame.size):
            self.refuse_frame(given.shape[2:], None)
        self.framed = True
        self._places[given] = self.atlas.lay(given.shape)

    def regrid(self, places, shape, sides=(1, 1), *, convolves=False):
        """Return the places of a map after a convolution, pooling or interpolation."""
        size = tuple(places.codes.shape[2:])
        if places.is_map:  # its grid is the whole map
            blocks = None if self.framed else [Block((0, 0), size, (0, 0), size)]
        else:
            blocks = self._find_blocks(places.codes) if len(shape) == places.codes.ndim == 4 else []
        if blocks == []:
            return self._sample(places.codes, shape)
        flaws = [self._flaw_of(block, size, sides, convolves) for block in blocks or ()]
        if flaws and "" not in flaws:
            return flaws[0]
        if any(new == 1 < n > self.most_pooled for new, n in zip(shape[2:], size, strict=True)):
            return POOLED
        return self.atlas.lay(shape)

    def _find_blocks(self, codes):
        """Find the grid in a map, which may be padded or concatenated with other maps."""
        # In a concatenation, one part may have been padded to the size of the other, as in U-Nets.
        ends = [self.atlas.find_block(codes[:, channel]) for channel in (0, -1)]
        if any(ends):
            return [block for block in ends if block]
        merged = self.atlas.merge(codes, 1, self.most_pooled)
        if isinstance(merged, str):
            return []
        whole = self.atlas.find_block(merged) or self.atlas.find_block(self.atlas.thin(merged))
        return [whole] if whole else []

    def _sample(self, codes, shape):
        """Return the place of each number: the middle of its field of windows or tokens."""
        merged = self.atlas.merge(codes, 1, self.most_pooled)
        if isinstance(merged, str):
            return merged
        how = {"size": tuple(shape[2:]), "mode": "nearest-exact"}
        return Places(functional.interpolate(merged.unsqueeze(1), **how).expand(shape))

    def _flaw_of(self, block, size, sides, convolves):
        """Explain why a block with its surroundings does not cover the whole image."""
        crops = [
            (first, n - first - seen)
            for first, n, seen in zip(block.origin, block.size, block.shape, strict=True)
        ]
        # Convolutions without padding lose equally on both sides, also by the crops in U-Nets.
        if any(abs(before - behind) > 1 for before, behind in crops):
            return _PADDED
        if self.framed or (block.shape == size and not convolves):
            shares = (1.0, 1.0)
        else:
            frame = self.frame
            shares = [n / m for n, m in zip(frame.content, frame.size, strict=True)]
        # The zeros around the image may be as wide as the kernel or stride of the convolution.
        is_off = any(
            first >= side or abs(share * n - seen) >= side + (share < 1)
            for first, seen, n, share, side in zip(
                block.start, block.shape, size, shares, sides, strict=True
            )
        )
        if is_off and not self.framed:
            self.refuse_frame(size, block.shape)
        self.framed |= convolves or block.shape != size
        return _PADDED if is_off else ""

    def refuse_frame(self, seen, content):
        """Raise because the image is not at the position of the frame."""
        part = "" if content is None else f" of which {content[0]} x {content[1]} are the image,"
        raise LayoutError(
            f"The first layer sees {seen[0]} x {seen[1]} pixels,{part} for an image of "
            f"{self.shape[2]} x {self.shape[3]}: the network resizes or pads images itself, so the "
            "positions of its grids are unknown. Pass TorchModel(network, forward=...) with a "
            "method frame that returns the size of the first layer's input."
        )


def _draws(func, args, kwargs):
    """Return whether an operation draws random numbers; attention does so only in training."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    arguments = func._schema.arguments
    given = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given |= {a.name: value for a, value in zip(arguments, args, strict=False)} | kwargs
    names = "dropout_p", "dropout", "p"
    chance = next((given[name] for name in names if name in given), 1.0)
    return bool(chance) and given.get("train", given.get("training", True)) is not False


def _tensors(values):
    """Return the tensors in arguments, including those in lists."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += [part for part in value if isinstance(part, torch.Tensor)]
    return found


def _first_lost(known):
    return Places(None, next((p.lost for p in known if p.lost), LEARNED))


def _codes_in(trace, value):
    """Return the codes of a tensor; -1 if it has none."""
    places = trace.places_of(value)
    if places is None or places.codes is None:
        return torch.full((1,) * value.ndim, -1.0, dtype=torch.float64).expand(value.shape)
    return places.codes


def _move(trace, call, known):
    """Apply the operation on the numbers to the codes."""
    codes = _codes_in(trace, call.args[0]).detach()  # an in-place operation must not change these
    moved = call.func(codes, *call.args[1:], **call.kwargs)
    if isinstance(moved, torch.Tensor):
        return Places(moved)
    return [Places(part) for part in moved]


def _reshape(trace, call, known):
    # Codes may have other strides than their numbers, so a view may be impossible.
    codes, shape = _codes_in(trace, call.args[0]), call.outputs[0].shape
    if codes.ndim and shape and codes.shape[-1] == shape[-1] and codes.stride(-1) == 0:
        return Places(codes[..., :1].reshape(*shape[:-1], 1).expand(shape))  # equal for channels
    return Places(codes.reshape(shape))


def _expand(trace, call, known):
    return Places(_codes_in(trace, call.args[0]).expand(call.outputs[0].shape))


def _unfold(trace, call, known):
    # The operation pads with zeros, but zeros are codes, too.
    return Places(call.func(_codes_in(trace, call.args[0]) + 1, *call.args[1:]) - 1)


def _fold(trace, call, known):
    """Fold patches into a map, if they are patches of this map or centered on its cells."""
    codes, places = known[0].codes, trace.atlas.lay(call.outputs[0].shape)
    patches = torch.ops.aten.im2col(places.codes + 1, *call.args[2:]) - 1
    centers = exact_codes(codes, 1)
    if torch.equal(patches, codes):
        return places
    # All numbers of a VOLO patch describe its center, which may be a cell of a coarser grid.
    sizes = [] if centers is None else trace.atlas.sizes_in(centers[centers >= 0])
    is_whole = len(sizes) == 1 and torch.equal(centers, trace.atlas.code(sizes[0]).flatten(1))
    return places if is_whole else MIXED


def _halve(trace, call, known):
    axis = call.args[1] if len(call.args) > 1 else -1
    return Places(known[0].codes.chunk(2, axis)[0])


def _pad(trace, call, known):
    # Reflected and repeated pixels are outside the image, like zeros.
    return Places(functional.pad(_codes_in(trace, call.args[0]), call.args[1], value=-1))


def _join(trace, call, known):
    axis = call.args[1] if len(call.args) > 1 else 0
    parts = [part for part in call.args[0] if part.shape != (0,)]
    codes = [_codes_in(trace, part) for part in parts]
    if "stack" in call.func._schema.name:
        return Places(torch.stack(codes, axis))
    shape = call.outputs[0].shape
    axis %= len(shape)
    for n in range(len(shape)):
        if n != axis and not any(part.stride(n) for part in codes):
            codes = [part.narrow(n, 0, 1) for part in codes]
    return Places(torch.cat(codes, axis).expand(shape))


def _pick(trace, call, known):
    """Follow an index, unless it depends on values, which differ between images."""
    source, *rest = call.args
    chosen_by = _tensors(rest)
    if any(trace.places_of(index) is not None for index in chosen_by):
        return _CHOSEN
    rest = [
        [None if i is None else i.cpu() for i in part]
        if isinstance(part, list | tuple)
        else part.cpu()
        if isinstance(part, torch.Tensor)
        else part
        for part in rest
    ]
    return Places(call.func(_codes_in(trace, source), *rest))


def _keep(trace, call, known):
    """Keep the places of the first input that has places, for example in a normalization."""
    shape = call.outputs[0].shape
    return next((p for p in known if p.codes is not None and p.codes.shape == shape), MIXED)


def _combine(trace, call, known):
    """Keep the places of summands or factors; numbers without a place follow the other input."""
    shape = call.outputs[0].shape
    known = [p for p in known if p.codes is not None]
    whole = [p for p in known if p.is_map and p.codes.shape == shape]
    if whole or (len(known) == 1 and known[0].codes.shape == shape):
        return (whole or known)[0]
    codes = known[0].codes.expand(shape)
    for other in known[1:]:
        if other.codes is not known[0].codes:
            codes = torch.where(codes < 0, other.codes.expand(shape), codes)
    return Places(codes)


def _convolve(trace, call, known):
    given, weight, _, stride, _, dilation = call.args[:6]
    kernel, places = weight.shape[2:], trace.places_of(given)
    if places is None or places.codes is None:
        return _first_lost(known)
    shape = call.outputs[0].shape
    sides = [
        max((n - 1) * d + 1, s)
        for n, d, s in zip(kernel, _fill(dilation, kernel), _fill(stride, kernel), strict=True)
    ]
    is_pointwise = max(sides) == 1 and len(kernel) == 2 and not places.is_map
    merged = trace.atlas.merge(places.codes, 1, trace.most_pooled) if is_pointwise else ""
    if isinstance(merged, str):
        found = trace.regrid(places, shape, sides, convolves=True)
    else:
        found = Places(merged.unsqueeze(1).expand(shape))
    trace.began = True
    return found


def _fill(value, like):
    value = list(value) if isinstance(value, tuple | list) else [value]
    return value * len(like) if len(value) == 1 else value


def _deform(trace, call, known):
    kernel = call.args[1].shape[2:]
    return trace.regrid(known[0], call.outputs[0].shape, kernel, convolves=True)


def _resize(trace, call, known):
    """Begin a new grid, for example in pooling and interpolation."""
    shape = call.outputs[0].shape
    name = call.func._schema.name
    window = call.args[1] if "pool" in name and "adaptive" not in name else 1
    return trace.regrid(known[0], shape, _fill(window, (1, 1)))


def _reduce(trace, call, known):
    """Sum over axes: a sum over channels keeps places, and a sum over neighbors merges them."""
    name = call.func._schema.name
    position = 2 if "norm" in name else 1
    axes = call.args[position] if len(call.args) > position else call.kwargs.get("dim")
    codes = known[0].codes
    if axes is None or axes == []:
        return POOLED
    axes = [axis % codes.ndim for axis in (axes if isinstance(axes, list | tuple) else [axes])]
    for axis in axes:
        codes = trace.atlas.merge(codes, axis, trace.most_pooled)
        if isinstance(codes, str):
            return codes
        codes = codes.unsqueeze(axis)
    return Places(codes.reshape(call.outputs[0].shape))


def _multiply(trace, call, known):
    """Follow rows of a first matrix, or columns of a second one."""
    name = call.func._schema.name
    operands = [arg for arg in call.args if isinstance(arg, torch.Tensor)]
    operands = operands[1:3] if "add" in name else operands[: 1 if "linear" in name else 2]
    sides = zip(map(trace.places_of, operands), (-1, -2), strict=False)
    sides = [(places, axis) for places, axis in sides if places is not None]
    if len(sides) == 1:
        return _weigh(trace, call, *sides[0])
    # The weights or values of attention sum over places. Do not merge these: the mean over a window
    # is not one of the window's places.
    codes = [
        found.unsqueeze(axis).expand(call.outputs[0].shape)
        for places, axis in sides
        if places.codes is not None
        and (found := exact_codes(places.codes, axis)) is not None
        and (found >= 0).any()
    ]
    # The weights keep the places of their rows, which are those of the result of attention.
    return Places(codes[0], _PAIRS if len(codes) == 2 else "") if codes else LEARNED


def _weigh(trace, call, places, axis):
    """Follow numbers that are multiplied by weights; image patches may become cells."""
    codes = trace.atlas.merge(places.codes, axis, trace.most_pooled)
    if not trace.framed and trace.frame.content != trace.frame.size:
        return _PADDED  # patches of a padded image have no grid over the image
    trace.began = trace.framed = True
    if isinstance(codes, str):
        return MIXED
    return Places(codes.unsqueeze(axis).expand(call.outputs[0].shape))


def _attend(trace, call, known):
    """Return the places of the queries, which are the places of the result."""
    query = trace.places_of(call.args[0])
    if query is None or query.codes is None:
        return LEARNED
    codes = exact_codes(query.codes, -1)
    return MIXED if codes is None else Places(codes[..., None].expand(call.outputs[0].shape))


def _begin_empty(trace, call, known):
    """Make codes for an empty tensor into which maps may be copied, as in detectors."""
    output = call.outputs[0]
    if output.ndim < 3 or not output.is_floating_point():
        return []
    return Places(torch.full(output.shape, -1.0, dtype=torch.float64))


def _copy(trace, call, known):
    target, source = call.args[:2]
    codes, known = _codes_in(trace, source).expand(target.shape), trace.places_of(target)
    if known is None or known.codes is None or known.is_map:
        return Places(codes)
    # This is a part of a tensor that began empty, so its codes are a part of the tensor's codes.
    own = known.codes if 0 not in known.codes.stride() else known.codes.clone()
    return Places(own.copy_(codes))


def _draw(trace, call, known):
    return Places(None, _CHOSEN)


def _choose(trace, call, known):
    # Detectors sort regions again; the reason "regions" explains more.
    return _REGIONS if any(p.lost == _REGIONS for p in known) else _CHOSEN


def _find_regions(trace, call, known):
    return _REGIONS


def _lose(trace, call, known):
    """Lose the places, unless an operation of another library keeps the shape."""
    namespace, _, name = call.func._schema.name.partition("::")
    codes = known[0].codes
    if namespace != "aten" and codes is not None and codes.shape == call.outputs[0].shape:
        return known[0]
    return f"it comes from the operation {namespace}.{name}, through which places can't be followed"


_CARRIES = (_move, _reshape, _expand, _keep, _combine, _pick, _reduce)
_READS = frozenset(
    ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2")
)

# The rules of torch's operations, by the names of its dispatcher.
_RULES = {
    name: rule
    for rule, names in {
        _move: """
            permute transpose t movedim unsqueeze squeeze transpose_ t_ unsqueeze_ squeeze_ slice
            select split split_with_sizes unbind diagonal unfold roll flip repeat pixel_unshuffle
            channel_shuffle native_channel_shuffle""",
        _reshape: "view _unsafe_view reshape _reshape_alias _reshape_copy view_copy",
        _expand: "expand expand_copy",
        _unfold: "im2col",
        _fold: "col2im",
        _halve: "glu",
        _pad: """
            constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d
            replication_pad2d""",
        _join: "cat stack",
        _pick: "index gather index_select",
        # torch 2.6 does not tag leaky_relu and some in-place activation functions as pointwise.
        _keep: """
            clone detach detach_ alias contiguous lift_fresh _to_copy fill_ zero_ native_dropout
            layer_norm native_layer_norm group_norm native_group_norm rms_norm _fused_rms_norm
            batch_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_impl_index
            _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_no_update
            _batch_norm_with_update hardswish hardswish_ mish_ _prelu_kernel log_sigmoid_forward
            rrelu_with_noise celu_ elu_ selu_ leaky_relu leaky_relu_ hardsigmoid_ hardtanh_
            _softmax _safe_softmax _log_softmax cumsum
            _native_multi_head_attention _transformer_encoder_layer_fwd""",
        _convolve: "convolution _convolution convolution_overrideable",
        _deform: "deform_conv2d",
        _resize: """
            max_pool2d max_pool2d_with_indices mkldnn_max_pool2d avg_pool2d adaptive_max_pool2d
            _adaptive_avg_pool2d pixel_shuffle upsample_nearest2d _upsample_nearest_exact2d
            upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d
            _upsample_bicubic2d_aa""",
        _reduce: """
            sum mean prod max min amax amin var std var_mean logsumexp linalg_vector_norm norm""",
        _multiply: """
            mm bmm mv addmm baddbmm _int_mm linear linear_dynamic linear_relu
            linear_relu_dynamic""",
        _attend: """
            _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
            _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
            _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math
            _scaled_dot_product_attention_math_for_mps""",
        _copy: "copy_",
        _choose: """
            topk sort argsort kthvalue median bucketize masked_select masked_scatter index_put
            index_put_ index_add index_add_ scatter scatter_ scatter_add scatter_add_
            scatter_reduce scatter_reduce_""",
        _find_regions: "roi_align roi_pool ps_roi_align ps_roi_pool",
        _begin_empty: """
            zeros ones full empty new_zeros new_ones new_full new_empty zeros_like ones_like
            full_like empty_like""",
    }.items()
    for name in names.split()
}


def _rule_of(func, namespace, name, given):
    """Choose the rule of an operation; ``None`` if no input comes from the images."""
    rule = _RULES.get(name)
    if rule is _begin_empty or (given and rule is not None):
        return rule
    if not given:
        return _draw if torch.Tag.nondeterministic_seeded in func.tags else None
    return _combine if torch.Tag.pointwise in func.tags else _lose
