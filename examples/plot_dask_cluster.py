"""
=============================
LoCEs on a cluster, with Dask
=============================

How do you compute LoCEs on many machines, and are the vectors the same? A large table takes one
forward pass per image and one optimization per row. A Dask cluster does both in parallel, with the
same code as on one machine. A store saves the rows that were computed before.
"""

# %%
# LoCEs without a cluster
# -----------------------
# The reference is computed in this process, and nothing is stored.

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
# The cluster has two processes on this machine, with one thread each. ``SubprocessCluster`` starts
# workers as the command ``dask worker`` does, so they do not read this script. In a notebook, use
# ``LocalCluster``; in a script, put it under ``if __name__ == "__main__":``. On real machines, pass
# the address of the scheduler to ``Client``.
#
# ``joblib.parallel_config("dask")`` is all that LoCETransformer needs. The network is a *builder*,
# the function ``load_scene_model``: workers receive its name, not the weights. Before it starts,
# each worker compares its network with that of this process, by its content and by the activations
# of a probe image.
#
# ``memory`` names a folder that keeps every vector. Workers send vectors back, and only this
# process writes to the folder, so it need not be shared. Only the paths of images must be valid on
# every worker. Here a first run stops after 20 scenes, and the second run has the whole table.

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
# The vectors are equal to the last bit, not only close. A vector depends on its image, its mask and
# the settings, and not on the process that computes it or on other rows.

import numpy as np

print(f"equal to the last bit: {np.array_equal(on_cluster, expected)}")

# %%
# Which worker did which task?
# ----------------------------
# Dask records when each worker computed a task. A task is a few images with all their rows. The
# first 20 scenes are missing here, because their rows came from the store. The workers imported
# torch and built the network in the first call.

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
# The left map shows the LoCEs of this process, the right map those of the store and the cluster
# together. UMAP is a sensitive test: rows that differ in the last bits would soon be elsewhere.

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
#    Pass the weights to the builder, so that each worker loads them::
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
#    With GPUs, ``dask_cuda.LocalCUDACluster`` starts one worker per GPU; set ``device="cuda"``.
