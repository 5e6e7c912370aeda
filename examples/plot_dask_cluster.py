"""
=================================
LoCEs on a cluster, with Dask
=================================

A big table takes one forward pass per image and one optimization per row. A Dask cluster does both
in parallel, with the same code as on one machine. Does the cluster change the
vectors? And what happens to rows that were computed before?
"""

# %%
# A table, and its LoCEs without a cluster
# ----------------------------------------
# First the reference: everything in this process, and nothing kept.

import time

from sklearn_loce import LoCETransformer, RowStore, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=60, random_state=0)
alone = LoCETransformer(TorchModel(load_scene_model), layer="features.3", memory=False)
expected = alone.fit_transform(scenes.data)
print(f"{len(expected)} image-concept pairs in 60 scenes, {expected.shape[1]} channels")

# %%
# The cluster
# -----------
# Here it is two processes of this machine, with one thread each. ``SubprocessCluster`` starts
# workers as the command ``dask worker`` does, so that they do not read this script.
# ``LocalCluster`` does the same in a notebook; in a script it belongs under ``if __name__ ==
# "__main__":``. On real machines, the ``Client`` gets the address of the scheduler instead.
#
# ``joblib.parallel_config("dask")`` is all that LoCETransformer needs. The network is a *builder*,
# the function ``load_scene_model``: its name travels to the workers, not its weights. Before it
# works, each worker compares its network with that of this process, by its content and by the
# activations of a probe image.
#
# ``memory`` names a folder in which every vector is kept. Workers send vectors back, and this
# process alone writes the folder, so that it need not be shared; only paths of images have to be
# valid on every worker. Say that a first run was interrupted after 20 scenes. The second one has
# the whole table.

from tempfile import TemporaryDirectory

import joblib
from dask.distributed import Client, get_task_stream
from distributed.deploy import SubprocessCluster

with (
    TemporaryDirectory() as folder,
    SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    Client(cluster) as client,
    joblib.parallel_config("dask"),
):
    client.wait_for_workers(2)
    loce = LoCETransformer(TorchModel(load_scene_model), layer="features.3", memory=folder)
    loce.fit(scenes.data).transform(scenes.data[scenes.groups < 20])
    print(f"rows in the store: {len(RowStore(folder).to_frame())}")
    start = time.time()
    with get_task_stream(client) as stream:
        on_cluster = loce.transform(scenes.data)
    print(f"rows in the store: {len(RowStore(folder).to_frame())}")

# %%
# The same bits?
# --------------
# Not close: equal. A vector depends on its image, its mask and the settings, and not on the process
# that computes it, or on other rows.

import numpy as np

print(f"equal to the last bit: {np.array_equal(on_cluster, expected)}")

# %%
# Who did what
# ------------
# Dask's record of tasks shows when each worker computed. A task is a handful of images with all
# their rows. Work on the first 20 scenes is missing: those rows came from the store. The workers
# imported torch and built the network in the first call; this one found both there.

import matplotlib.pyplot as plt
import pandas as pd

tasks = pd.DataFrame(
    [
        (task["worker"], part["start"] - start, part["stop"] - part["start"])
        for task in stream.data
        for part in task["startstops"]
        if part["action"] == "compute"
    ],
    columns=["worker", "start", "seconds"],
)
tasks["worker"] = "worker " + tasks["worker"].rank(method="dense").astype(int).astype(str)
work = tasks.groupby("worker")["seconds"].agg(tasks="count", seconds="sum").round(1)
print(work.to_string(index_names=False))

figure, ax = plt.subplots(figsize=(6.6, 1.7), layout="constrained")
for place, (_, own) in enumerate(tasks.groupby("worker")):
    ax.broken_barh(own[["start", "seconds"]].to_numpy(), (place - 0.35, 0.7), edgecolor="white")
ax.set(yticks=range(len(work)), yticklabels=work.index, xlabel="seconds since the call")
ax.set_title("Tasks of the two workers", fontsize=10)
ax.spines[["top", "right"]].set_visible(False)

# %%
# The same map
# ------------
# Left, the LoCEs of this process; right, those of the store and the cluster together. UMAP is a
# sensitive test: rows that differ in the last bits would soon lie elsewhere.

from sklearn_loce.plotting import ConceptMapDisplay

figure, axes = plt.subplots(1, 2, figsize=(6.8, 4.2), layout="constrained")
for ax, (title, vectors) in zip(
    axes, {"in this process": expected, "store and cluster": on_cluster}.items(), strict=True
):
    ConceptMapDisplay.from_embeddings(
        vectors, scenes.target, mixture=None, random_state=0, ax=ax, legend=ax is axes[1]
    )
    ax.set_title(title, fontsize=10)

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Give the builder the weights, and each worker loads them itself::
#
#        from functools import partial
#
#        from sklearn_loce.datasets import fetch_coco_val2017
#        from torchvision.models import VGG16_Weights, vgg16
#
#        coco = fetch_coco_val2017(categories=["car", "bus", "truck"])
#        weights = VGG16_Weights.IMAGENET1K_V1
#        loce = LoCETransformer(
#            TorchModel(partial(vgg16, weights=weights)),
#            layer="features.28",
#            preprocess=weights,
#            memory="loces",
#        )
#        with Client("tcp://scheduler:8786"), joblib.parallel_config("dask"):
#            embeddings = loce.fit_transform(coco.data)
#
#    With GPUs, ``dask_cuda.LocalCUDACluster`` starts one worker for each; set ``device="cuda"``.
