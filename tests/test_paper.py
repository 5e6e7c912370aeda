"""The paper's experiments as one command."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.metrics.pairwise import paired_cosine_distances
from torchvision.models import ResNet18_Weights, get_model

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce._network.presets import PaperTransform
from sklearn_loce.corruptions import GaussianNoise
from sklearn_loce.datasets import load_coco, load_scene_model, make_scenes
from sklearn_loce.metrics import precision_at_k
from sklearn_loce.paper import CONCEPTS, NETWORKS, Network, reproduce
from sklearn_loce.paper.__main__ import main
from sklearn_loce.paper._experiments import find_noises
from sklearn_loce.paper._results import Results

from .counting import LAYERS, build_counting, draw_table
from .dataset_trees import make_coco_tree

pytestmark = [
    pytest.mark.usefixtures("no_figure_stays"),
    # Warnings of concepts with few rows.
    pytest.mark.filterwarnings("ignore:Precision at k:UserWarning"),
    pytest.mark.filterwarnings("ignore:No query has more than:UserWarning"),
]

SCENE_LAYERS = ("features.2", "features.5")
HOW = {"n_draws": 2, "rows_per_concept": 6, "verbose": 0}


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(10, random_state=0).data


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    """Return the tables of a run on scenes, and its folder."""
    out = tmp_path_factory.mktemp("paper")
    model = TorchModel(load_scene_model)
    return reproduce(scenes, {"scenes": Network(model, SCENE_LAYERS)}, out, **HOW), out


def test_the_paper_has_19_concepts():
    assert len(set(CONCEPTS)) == len(CONCEPTS) == 19


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "efficientnet_b0", "swin_t", "vit_b_16"])
def test_networks_of_torchvision_have_the_layers_of_the_paper(name):
    with torch.device("meta"):
        modules = dict(get_model(name, weights=None).named_modules())
    assert len(NETWORKS[name].layers) == 3
    assert set(NETWORKS[name].layers) <= modules.keys()


def test_detr_has_the_layers_of_the_paper():
    transformers = pytest.importorskip("transformers")
    config = transformers.DetrConfig(use_pretrained_backbone=False)
    with torch.device("meta"):
        modules = dict(transformers.DetrForObjectDetection(config).named_modules())
    assert set(NETWORKS["detr_resnet50"].layers) <= modules.keys()


@pytest.mark.slow
def test_all_tables_and_figures_are_written(run):
    tables, out = run
    assert set(tables) == {
        *("optimization", "layers", "draws", "retrieval", "separation"),
        *("mixtures", "shapes", "noise", "segmentation"),
    }
    for name in tables:
        assert (out / f"{name}.csv").is_file()
        assert (out / f"{name}.md").read_text().startswith("| network |")
    figures = {path.stem for path in out.rglob("*.pdf")}
    assert figures == {
        *("map", "precision", "separation", "overlap", "tree_relaxed", "tree_strict"),
        *("iou", "purity", "n_clusters", "noise", "segmentation"),
    }
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_optimization_and_retrieval_equal_those_of_the_estimator(run, scenes):
    tables, _ = run
    loce = LoCETransformer(
        TorchModel(load_scene_model), "features.5", objective="net2vec", preprocess="paper"
    )
    embeddings = loce.fit_transform(scenes)
    iou = loce.evaluate(scenes)["iou"]
    table = tables["optimization"].set_index(["layer", "concept"]).loc["features.5"]
    assert table.loc["all", "n_rows"] == len(scenes)
    assert table.loc["all", "mean_iou"] == pytest.approx(iou.mean(), abs=1e-6)
    assert table.loc["car", "mean_iou"] == pytest.approx(
        iou[scenes["concept"] == "car"].mean(), abs=1e-6
    )
    row = tables["retrieval"].query("layer == 'features.5' and concept == 'all'")
    expected = precision_at_k(embeddings, scenes["concept"], 5)
    assert row["5"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_every_draw_has_both_clusterings(run):
    draws = run[0]["draws"]
    assert set(draws["clustering"]) == {"relaxed", "strict"}
    assert (draws["n_repeats"] == 2).all()
    counts = draws[draws["metric"] == "n_clusters"].groupby("clustering")["mean"].mean()
    assert counts["strict"] >= counts["relaxed"]


@pytest.mark.slow
def test_strong_noise_and_coarse_shapes_lower_the_iou(run):
    noise = run[0]["noise"].query("concept == 'all'").groupby(["noise", "percent"])
    iou = noise["mean_iou"].mean()
    assert iou["none", 0] > iou["salt and pepper", 5] > iou["salt and pepper", 20]
    assert noise["cosine"].mean()["none", 0] == 1
    shapes = run[0]["shapes"].query("concept == 'all'")
    assert set(shapes["mask"]) == {"segmentation", "rectangle", "ellipse"}
    assert len(set(shapes["n_rows"])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["retrieval.csv", "shapes.csv"])
def test_missing_results_are_computed_again(run, scenes, missing):
    _, out = run
    path = out / "scenes" / missing
    before, other = path.read_bytes(), out / "scenes" / "noise.csv"
    changed = other.stat().st_mtime_ns
    path.unlink()
    network = Network(TorchModel(load_scene_model), SCENE_LAYERS)
    reproduce(scenes, {"scenes": network}, out, **HOW)
    assert path.read_bytes() == before
    assert other.stat().st_mtime_ns == changed


@pytest.mark.slow
def test_other_settings_raise_an_error(run, scenes):
    network = Network(TorchModel(load_scene_model), SCENE_LAYERS)
    with pytest.raises(ValueError, match=r"other settings: n_draws, samples changed"):
        reproduce(scenes[:-1], {"scenes": network}, run[1], **HOW | {"n_draws": 3})


@pytest.mark.slow
def test_a_complete_run_passes_no_image(tmp_path):
    table = draw_table(12, n_concepts=2)
    network = Network(TorchModel(build_counting), tuple(LAYERS[:2]))
    first = reproduce(table, {"counting": network}, tmp_path, **HOW)
    again = Network(TorchModel(build_counting), tuple(LAYERS[:2]))
    second = reproduce(table, {"counting": again}, tmp_path, **HOW)
    assert again.source.module.n_images == 0
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name])


@pytest.mark.slow
def test_results_on_camvid_are_plausible(camvid_frames, camvid_network, tmp_path):
    network = Network(camvid_network, ("backbone.9", "backbone.13"))
    frames = camvid_frames["image_id"].unique()[::3]
    X = camvid_frames[camvid_frames["image_id"].isin(frames)]
    tables = reproduce(X, {"camvid": network}, tmp_path, **HOW)
    iou = tables["layers"].set_index("layer")["mean_iou"]
    assert 0.2 < iou["backbone.13"] < 0.6
    methods = tables["segmentation"].query("concept == 'all'").set_index("method")["mean_iou"]
    assert methods["LoCE"] > max(methods["GloCE"], methods["Net2Vec"]) > 0.02


def test_noise_is_added_between_both_resizings():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (100, 120, 3), dtype=np.uint8)
    network = TorchModel(partial(get_model, "vit_b_16", weights=None, image_size=32))
    plain = PaperTransform(network.module)(torch.from_numpy(image).permute(2, 0, 1))
    quiet = PaperTransform(network.module, GaussianNoise(0))
    noise = GaussianNoise(20)
    noisy = PaperTransform(network.module, noise)(torch.from_numpy(image).permute(2, 0, 1))
    assert torch.equal(quiet(torch.from_numpy(image).permute(2, 0, 1)), plain)
    resized = Image.fromarray(image).resize((640, 480), Image.Resampling.BICUBIC)
    pixels = noise(torch.from_numpy(np.array(resized)).permute(2, 0, 1)).permute(1, 2, 0)
    expected = Image.fromarray(pixels.numpy()).resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(noisy.permute(1, 2, 0), torch.from_numpy(np.array(expected)))


def test_noise_does_not_warn_of_normalization(scenes):
    model = TorchModel(load_scene_model, preprocess=ResNet18_Weights.DEFAULT)
    noisy = PaperTransform(model.module, GaussianNoise(10))
    loce = LoCETransformer(model, "features.5", objective="net2vec", preprocess=noisy)
    plain = clone(loce).set_params(preprocess="paper")
    cosines = 1 - paired_cosine_distances(*(e.fit_transform(scenes[:6]) for e in (loce, plain)))
    assert 0.3 < np.median(cosines) < 0.9999
    assert loce.score(scenes[:6]) > 0.2


def test_salt_and_pepper_equals_three_draws():
    rng, n_pixels = np.random.default_rng(0), 100_000
    noises = {percent: noise for name, percent, noise in find_noises() if name != "Gaussian"}
    for percent, noise in noises.items():
        hit = rng.integers(n_pixels, size=3 * n_pixels * percent // 100)
        replaced = len(np.unique(hit)) / n_pixels * 100
        assert noise.percent == pytest.approx(replaced, abs=0.3)


def test_tables_are_read_from_their_folder(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return pd.DataFrame({"layer": ["a"], "mean": [1 / 3]})

    tables = [Results(tmp_path, {"n": 1}).table("t", compute) for _ in range(2)]
    assert calls == [1]
    pd.testing.assert_frame_equal(*tables)
    assert (tmp_path / "t.md").read_text() == "| layer | mean |\n| --- | ---: |\n| a | 0.333 |\n"
    with pytest.raises(ValueError, match=r"other settings: n changed. Choose another folder"):
        Results(tmp_path, {"n": 2})


def test_the_error_names_a_network_that_cannot_be_built(tmp_path):
    def fail():
        raise OSError("no route to host")

    with pytest.raises(RuntimeError, match=r"'far' can't be built: OSError: no route to host"):
        reproduce(draw_table(4), {"far": Network(fail, ("a",))}, tmp_path, verbose=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.drop(columns="image_id"), r"lacks the columns \['image_id'\]"),
        (lambda X: X.assign(concept="car"), r"Two concepts are needed"),
        (lambda X: X.replace({"concept": {"concept 0": "all"}}), r"'all' means all concepts"),
    ],
)
def test_invalid_tables_raise_errors(change, message, tmp_path):
    X = draw_table(4)
    with pytest.raises(ValueError, match=message):
        reproduce(change(X), {"counting": Network(build_counting, ("body.2",))}, tmp_path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_draws": 0}, "'n_draws' parameter of reproduce"),
        ({"rows_per_concept": 1}, "'rows_per_concept' parameter of reproduce"),
        ({"networks": {}}, "networks is empty"),
    ],
)
def test_invalid_numbers_raise_errors_before_images_pass(how, message, tmp_path):
    networks = {"counting": Network(TorchModel(build_counting), ("body.2",))}
    with pytest.raises(ValueError, match=message):
        reproduce(draw_table(4), **{"networks": networks, "out": tmp_path} | how)
    assert not list(tmp_path.iterdir())


def test_a_call_that_failed_before_its_first_table_can_be_repeated(tmp_path):
    Results(tmp_path, {"layers": ["typo"]})
    Results(tmp_path, {"layers": ["body.2"]}).table("layers", lambda: pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="other settings: layers changed"):
        Results(tmp_path, {"layers": ["body.4"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "resnet50"], "pass their --layers"),
        (["--layers", "layer4"], "--layers goes with one name"),
        (["--annotations", "a.json"], "go together"),
        (["--scenes", "3", "--coco", "here"], "not allowed with"),
        (["--scenes", "0"], "--scenes: 0 is not above 0"),
        (["--max-images", "-3"], "--max-images: -3 is not above 0"),
        (["--draws", "0"], "--draws: 0 is not above 0"),
        (["--scenes", "2", "--concepts", "sky", "sea"], r"['sea'] are not in the scenes, ['"),
    ],
)
def test_an_invalid_command_line_raises_an_error(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.fixture
def asked(monkeypatch):
    """Return the arguments of ``reproduce``, which is replaced and does nothing."""
    calls = []

    def note(X, networks, out, **how):
        calls.append((X, networks, Path(out), how))

    monkeypatch.setattr("sklearn_loce.paper.__main__.reproduce", note)
    return calls


def test_the_command_generates_scenes_by_default(asked):
    main(["--max-images", "3", "--out", "there"])
    ((X, networks, out, how),) = asked
    assert X["image_id"].nunique() == 3
    assert list(networks) == ["scenes"]
    assert out == Path("there")
    assert how == {"n_draws": 50, "rows_per_concept": 20, "device": None, "n_jobs": None}


def test_the_command_accepts_coco_files_and_names_of_networks(asked, tmp_path):
    path = make_coco_tree(tmp_path)
    files = ["--annotations", str(path), "--images", str(tmp_path)]
    main([*files, "--networks", "resnet18", "--layers", "layer3", "layer4", "--draws", "7"])
    main([*files, "--networks", "vit_b_16", "swin_t"])
    main(files)
    (X, networks, _, how), *others = asked
    pd.testing.assert_frame_equal(X, load_coco(path, tmp_path).data)
    assert networks["resnet18"].layers == ("layer3", "layer4")
    assert (how["n_draws"], how["rows_per_concept"]) == (7, 100)
    assert others[0][1] == {name: NETWORKS[name] for name in ("vit_b_16", "swin_t")}
    assert others[1][1] == NETWORKS


def test_the_command_selects_the_concepts_of_the_paper(asked, monkeypatch):
    def fetch(data_home, categories):
        assert (data_home, categories) == ("here", list(CONCEPTS))
        return make_scenes(2, random_state=0)

    monkeypatch.setattr("sklearn_loce.paper.__main__.fetch_coco_val2017", fetch)
    main(["--coco", "here"])
    assert asked[0][1] == NETWORKS


def test_rare_concepts_are_excluded_with_a_warning(tmp_path):
    def fail():
        raise OSError("stop here")

    X = draw_table(4)
    X.loc[0, "concept"] = "rare"
    network = Network(fail, ("a",))
    with (
        pytest.warns(UserWarning, match=r"Concepts with one row are left out: \['rare'\]"),
        pytest.raises(RuntimeError, match="stop here"),
    ):
        reproduce(X, {"far": network}, tmp_path)
