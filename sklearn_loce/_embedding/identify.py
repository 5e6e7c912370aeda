"""Keys of an estimator's vectors, and the probe of its network."""

from numbers import Integral

from .._network.extract import ActivationExtractor
from .._network.handle import as_module, digest_model, weight_versions
from .._network.identity import digest
from .._network.joined import members_of
from .._network.preprocess import make_transform, resolve_preprocess
from .._network.probe import probe, probe_sizes
from .._store.keys import Key, agree, find_source
from .._warnings import warn_user
from .images import make_extractor

_MOST_PASSES = 5


def look_up_layers(loce, image_size):
    """Set names, channels and readings of the layers by a probe; return its records.

    Parameters
    ----------
    loce : estimator
    image_size : tuple of int
        (height, width) of an image of the table, for networks that take no other probe.

    Returns
    -------
    dict of {str: ndarray} or None
        Records by layer; ``None`` if two passes differ.
    """
    transform = make_transform(loce.preprocess, loce.model)
    for size in [*probe_sizes(as_module(loce.model)), image_size]:
        how = {"reshape_transform": loce.reshape_transform, "device": loce.device}
        extract = ActivationExtractor(loce.model, loce.layer, **how)
        loce._layers, loce._probe_size = extract.layers, size
        try:
            with extract:
                first = probe(extract, transform, size, loce._seed)
                again = _probe_again(extract, transform, size, loce._seed)
        except Exception:
            if size == image_size:
                raise
            continue  # the network does not accept this size
        break
    loce.layers_ = [str(layer) for layer in loce._layers]
    loce.n_channels_, loce._readings = [*first.n_channels.values()], extract.readings
    loce._is_lent, loce._runs_once = extract.is_lent, extract.runs_once
    return first.records if _are_steady(first, again) else None


def _probe_again(extract, transform, size, seed):
    """Pass the probe again until no random generator moves; other threads may move it, too."""
    for _ in range(_MOST_PASSES):
        again = probe(extract, transform, size, seed)
        if not again.draws:
            break
    return again


def _are_steady(first, second):
    """Return whether two passes agree; warn of a network that draws random numbers."""
    # Random numbers may leave both passes equal, for example if a block is skipped only sometimes.
    draws = first.draws and second.draws
    if not draws and all(agree(first.records[x], second.records[x]) for x in first.records):
        return True
    what = "draws random numbers in evaluation mode"
    if not draws:
        what = f"or preprocess {what}, or counts its passes: two passes of one image differ"
    warn_user(f"The network {what}. The vectors are not stored: another run would give others.")
    return False


def probe_network(loce):
    """Return the present records of a fitted estimator's network for the probe, by layer.

    The records of ``fit`` replace a second pass. The result is ``None`` if the two passes differ.
    """
    transform = make_transform(loce.preprocess, loce.model)
    with make_extractor(loce) as extract:
        first, known = probe(extract, transform, loce._probe_size, loce._seed), loce._records
        is_known = known is not None and not first.draws
        if is_known and all(agree(first.records[x], known[x]) for x in known):
            return first.records
        again = _probe_again(extract, transform, loce._probe_size, loce._seed)
    return first.records if _are_steady(first, again) else None


def check_weights(loce, fingerprint, versions):
    """Raise if the weights changed since these versions; return the present versions."""
    module = as_module(loce.model)
    now = weight_versions(module)
    # A network may write equal values, and a lent network has other modes during the run.
    if now == versions or loce._is_lent or digest_model(loce.model) == fingerprint:
        return now
    raise RuntimeError(
        f"The weights of {type(module).__name__} changed while the table was processed, for "
        "example in a training step of another thread. The vectors of this run are not stored. "
        "Train and transform one after the other, or transform with a copy.deepcopy of the network."
    )


def find_keys(loce, session, fingerprint, records):
    """Return the Key of each layer.

    Parameters
    ----------
    loce : estimator
        Fitted.
    session : Session or MemoryStore
    fingerprint : bytes
        Digest of the network.
    records : dict of {str: ndarray}
        Records of the network for the probe.

    Returns
    -------
    list of Key
    """
    seed = keyed_seed(loce)
    preprocess = digest(resolve_preprocess(loce.preprocess, loce.model))
    network = digest(fingerprint, preprocess, loce.reshape_transform, seed, loce._probe_size)
    keys = []
    for k, layer in enumerate(loce.layers_):
        members = members_of(loce._layers[k])
        source = find_source(session, network, members, records[layer], loce.n_channels_[k])
        settings = loce._objective.key() | {"seed": seed}
        if loce._starts[k] is not None:
            settings["init"] = digest(loce._starts[k]).hex()
        if loce.mean_ is not None:
            settings["standardize"] = digest(loce.mean_[k], loce.scale_[k]).hex()
        keys.append(Key(source, settings, layer, fingerprint.hex(), preprocess.hex()))
    return keys


def keyed_seed(loce):
    """Return the seed of the vectors, which is part of their keys.

    Without a fixed seed, vectors that depend on random numbers are not stored.
    """
    is_fixed = isinstance(loce.random_state, Integral)
    may_draw = not make_transform(loce.preprocess, loce.model).full_frame
    return loce._seed if is_fixed and may_draw else None
