"""One of each is added here, and only at the places that docs/developers.md names: a metric, a policy of completion,
a network and a stage."""

from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from bundles import a_model
from cohorts import changed
from engines import a_volume
from places import RECIPE
from pydantic import Field
from pydantic.fields import FieldInfo
from torch import nn
from trainings import CHANGES, MODEL, NAMES, PROTOCOL, prepare

from flare23_lib import cli
from flare23_lib.cli import stages
from flare23_lib.config import Config
from flare23_lib.config import settings as stage_settings
from flare23_lib.config.configuration import Configuration
from flare23_lib.config.load import merge as merge_files
from flare23_lib.config.tables import Table
from flare23_lib.config.training_models import Completion, MergePolicy
from flare23_lib.errors import BundleError, ConfigError
from flare23_lib.evaluation.cases import Scoring
from flare23_lib.evaluation.evaluate import evaluate_folders
from flare23_lib.evaluation.metrics import METRICS, Metric
from flare23_lib.evaluation.paper_tables import Evaluated, make_tables
from flare23_lib.evaluation.ranking import rank_folders
from flare23_lib.evaluation.tables import format_summary, read_table
from flare23_lib.inference.bundle import load_bundle, write_bundle
from flare23_lib.inference.engine import Engine
from flare23_lib.inference.export import export_checkpoint
from flare23_lib.inference.model import ModelLabel
from flare23_lib.inference.network import SUPPRESSED_LOGIT, WindowNetwork
from flare23_lib.io.nifti import header_for, read_labels, write_volume
from flare23_lib.labels import IGNORE_VALUE, Label, LabelMap
from flare23_lib.networks import NETWORKS, Architecture
from flare23_lib.networks.size import forward_macs
from flare23_lib.networks.stunet import DecoderSwitch
from flare23_lib.nnunet.plans import plans
from flare23_lib.nnunet.train import TrainingRuntime, export, train
from flare23_lib.nnunet.training_job import training_job
from flare23_lib.pseudo_labels.merge import RULES, MergeRules, merge
from flare23_lib.report.model_card import write_model_card
from flare23_lib.report.scores import draw_scores

# A metric: its function and its row


def volume_error(case, label):
    """The difference of the volumes in mL."""
    reference, prediction, _ = case.voxels(label)
    return abs(prediction - reference) * float(np.prod(case.spacing)) / 1000


LABELS = LabelMap((Label("liver", 1), Label("spleen", 3)))


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Two folders of scores with a third metric: of good predictions, and of bad and missing ones."""
    nan = float("nan")
    metric = Metric("VE", volume_error, nan, nan, nan, higher_is_better=False, unit="mL")
    monkeypatch.setitem(METRICS, metric.name, metric)
    reference = np.zeros((6, 10, 10), np.uint8)
    reference[1:5, 2:6, 2:8] = 1
    bad = reference.copy()
    bad[:, :4] = 0
    predictions = {"good": {"a": reference, "b": reference}, "bad": {"a": bad}}
    write = lambda path, array: write_volume(path, array, header_for(array.shape, np.eye(4) * 10, array.dtype))  # noqa: E731
    for case in ("a", "b"):
        write(tmp_path / "references" / f"{case}.nii.gz", reference)
    for model, cases in predictions.items():
        for case, array in cases.items():
            write(tmp_path / model / f"{case}.nii.gz", array)
        folders = (tmp_path / model, tmp_path / "references", tmp_path / "scores" / model)
        evaluate_folders(*folders, Scoring(LABELS))
    return tmp_path / "scores"


def test_a_new_metric_is_in_all_tables(scored):
    metrics = read_table(scored / "bad" / "metrics.csv")
    assert list(metrics.columns) == [
        "Name", *(f"{name}_{metric}" for metric in ("DSC", "NSD", "VE") for name in LABELS.names), "status",
    ]  # fmt: skip
    assert metrics["liver_VE"].tolist() == pytest.approx([48, np.nan], nan_ok=True)
    assert metrics["spleen_VE"].isna().all(), "no volume holds it"
    assert metrics["liver_DSC"].tolist() == [0.6667, 0]
    summary = read_table(scored / "bad" / "summary.csv").set_index("class")
    assert summary.loc["liver", "VE_mean"] == summary.loc["organs", "VE_mean"] == 48
    assert "    VE" in format_summary(scored / "bad" / "summary.csv")

    models = [Evaluated.read(scored / name, measured=False) for name in ("good", "bad")]
    tables = make_tables(models, Scoring(LABELS), [("good", "bad")], {})
    assert tables["table6"].shown.loc[0, "bad VE, mL"].startswith("48.00")
    assert tables["table7"].shown.loc[0, "difference VE, mL"].startswith("-48.00")


def test_a_new_metric_is_ranked_its_way_and_drawn(scored):
    ranking = rank_folders([scored / "bad", scored / "good"], LABELS)
    assert ranking.metrics == ["organ_DSC", "organ_NSD", "organ_VE"]
    assert ranking.table["folder"].str.rsplit("/").str[-1].tolist() == ["good", "bad"]
    assert ranking.table["organ_VE_rank"].tolist() == [1, 2], "the smaller error is better"
    summaries, cases = ({"bad": read_table(scored / "bad" / f"{name}.csv")} for name in ("summary", "metrics"))
    draw_scores(scored / "scores.svg", summaries, cases)
    texts = [text.text for text in ElementTree.parse(scored / "scores.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"DSC", "NSD", "VE, mL", "48.000"} < set(texts)


# A policy of completion: its field and its rule

FIELD = "disputed_labels"


def disputed(case):
    """What original labels become where the teacher predicts another class."""
    if getattr(case.rules, FIELD) == "ignore":
        for z, kept in case.slices_with("kept"):
            yield "kept", (z, kept & (case.predicted[z] != 0)), IGNORE_VALUE


@pytest.fixture
def policy(monkeypatch):
    """Put the field into MergePolicy, as if the class had it, and the rule into the list."""
    default = "keep_original"
    field = Field(default=default, exclude_if=lambda value: value == default)
    tables = [MergePolicy, Completion, stage_settings.CompletionSettings, MergeRules]
    users = [stage_settings.MethodSettings, Configuration, Config]

    def rebuild():
        for table in (*tables, *users):
            table.model_rebuild(force=True)

    with monkeypatch.context() as patch:
        for table in tables:
            made = FieldInfo.from_annotated_attribute(Literal["keep_original", "ignore"], field)
            patch.setitem(table.__pydantic_fields__, FIELD, made)
        rebuild()
        monkeypatch.setattr("flare23_lib.pseudo_labels.merge.RULES", [*RULES, disputed])
        yield
    rebuild()


def merged(**options):
    """Merge a case as a completion of the configuration says; returns the labels and the counts."""
    config = Config.load([RECIPE], {"completions": {"tumor": options}})
    told = config.completion_settings("tumor").to_json()
    settings = stage_settings.CompletionSettings.from_json(told)
    rules = MergeRules.of(settings, tumors=settings.tumor_values)
    original, predicted = (np.array([[row]], np.uint8) for row in ([1, 1, 3, 0], [1, 2, 0, 4]))
    result = merge(original, predicted, [1, 3], rules)
    return result.labels.ravel().tolist(), result.counts, told


def test_a_new_policy_changes_a_merge_through_the_configuration(policy):
    labels, counts, told = merged()
    assert labels == [1, 1, 3, 4]
    assert FIELD not in told, "at its default it changes no fingerprint"
    labels, changed_counts, told = merged(**{FIELD: "ignore"})
    assert labels == [1, IGNORE_VALUE, 3, 4]
    assert told[FIELD] == "ignore"
    assert changed_counts == counts
    config = Config.load([RECIPE], {"completions": {"tumor": {FIELD: "ignore"}}})
    users = [name for name, model in config.models.items() if "tumor" in model.train_on.label_completions]
    assert users
    assert all(config.training_settings(name).ignore_label for name in users)
    with pytest.raises(ConfigError, match=f"completions.unlabeled.{FIELD}: the category"):
        Config.load([RECIPE], {"completions": {"unlabeled": {FIELD: "ignore"}}})


# A network: the module, its architecture, and its row


class Toy(nn.Module):
    """A convolution down and one up again, with logits at two resolutions."""

    def __init__(self, input_channels, num_classes, width, strides, deep_supervision=False):
        super().__init__()
        self.decoder = DecoderSwitch(deep_supervision)
        self.down = nn.Conv3d(input_channels, width, 3, strides[1], padding=1)
        self.up = nn.ConvTranspose3d(width, width, strides[1], strides[1])
        self.heads = nn.ModuleList(nn.Conv3d(width, num_classes, 1) for _ in range(2))

    def forward(self, x):
        low = torch.relu(self.down(x))
        high = self.heads[0](torch.relu(self.up(low)))
        return [high, self.heads[1](low)] if self.decoder.deep_supervision else high


@dataclass(frozen=True)
class ToyArchitecture(Architecture):
    network_class = f"{__name__}.Toy"

    width: int
    strides: tuple = ((1, 1, 1), (2, 2, 2), (2, 2, 2))

    @property
    def activations(self):
        return 2.0 * self.width


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(NETWORKS, "toy", (ToyArchitecture, {"width": 6}))


STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]


def test_a_new_network_is_described_bundled_and_predicts(toy, tmp_path, monkeypatch):
    config = Config.load([RECIPE], merge_files(CHANGES, {"models": {MODEL: {"network": "toy"}}}))
    settings = type(config.training_settings(MODEL)).from_json(config.training_settings(MODEL).to_json())
    architecture = settings.network
    assert architecture == Architecture.named("toy", STRIDES)
    planned = plans(settings)["configurations"]["3d_fullres"]["architecture"]
    assert planned["arch_kwargs"] == {"width": 6, "strides": STRIDES}
    classes = tuple(ModelLabel(name, value) for value, name in enumerate(["background", *NAMES]))
    made = a_model(network=architecture, patch_size=(8, 16, 16), labels=classes, unseen=("absent",))
    torch.manual_seed(0)
    write_bundle(tmp_path, made, Toy(1, 5, **architecture.arch_kwargs).state_dict())
    bundle = load_bundle(tmp_path).with_inference(windows="all", precision="float32", tta=False)
    assert bundle.model.network == architecture
    assert_predicts(bundle)
    monkeypatch.delitem(NETWORKS, "toy")
    with pytest.raises(BundleError, match="this version has no"):
        load_bundle(tmp_path)


def assert_predicts(bundle):
    """Segment a volume; logits of a window are the network's, of classes that were seen, also in 16 bit."""
    volume, patch = a_volume((11, 20, 23), np.diag([2.0, 2.0, 3.0, 1.0])), torch.randn(1, 8, 16, 16)
    segmentation = Engine(bundle).segment(volume)
    assert segmentation.labels.shape == volume.array.shape
    assert set(np.unique(segmentation.labels)) <= {0, 1, 2, 3}, "absent was never seen"
    for precision, tolerance in (("float32", 1e-6), ("bfloat16", 0.05)):
        window_network = WindowNetwork(bundle.build_network(), torch.device("cpu"), precision)
        window_network.suppress_classes([4])
        with torch.inference_mode():
            logits = window_network(patch).float()
            expected = bundle.build_network()(patch[:, None])[0].movedim(0, -1)
        torch.testing.assert_close(logits[0, ..., :4], expected[..., :4], atol=tolerance, rtol=tolerance)
        assert (logits[..., 4] == SUPPRESSED_LOGIT).all()


@pytest.mark.slow  # the first pass on PyTorch's device meta, and the first training of a process, take seconds
def test_a_new_network_is_trained(toy, tmp_path):
    one = prepare(tmp_path, cases=1)
    config = Config.load([RECIPE], merge_files(CHANGES, {"models": {MODEL: {"network": "toy"}}}))
    short = {**PROTOCOL, "epochs": 1, "iterations_per_epoch": 2}
    settings = changed(config.training_settings(MODEL), training=short)
    job, record = training_job(one, MODEL, settings, NAMES, 1), one.training(MODEL)
    train(job, TrainingRuntime("cpu"), None, record, record.with_name("training.csv"))
    labels = [Label(name, value, tolerance_mm=1.0) for value, name in enumerate(NAMES, start=1)]
    export(one, MODEL, config.inference_settings(MODEL), labels, one.model_file(MODEL).parent)
    write_model_card(one, MODEL, config.model_card.to_json(), tmp_path / "README.md", scored=False)
    assert "| network | Toy |" in (tmp_path / "README.md").read_text()
    bundle = load_bundle(one.model_file(MODEL).parent).with_inference(windows="all", precision="float32")
    assert type(bundle.build_network()) is Toy
    assert_predicts(bundle)
    checkpoint = next(one.root.rglob("checkpoint_final.pth"))
    assert export_checkpoint(checkpoint, tmp_path / "other", "other").network == bundle.model.network
    voxels = 8 * 16 * 16
    assert forward_macs(bundle.model.network, (8, 16, 16), 5) == voxels // 8 * 27 * 6 + voxels * (6 * 6 + 6 * 5)


# A stage: its settings and function, and its command


class CountSettings(Table):
    """What shapes a count."""

    label: str


def count(folder, settings, value, output):
    """Write how many voxels of a label the files of a folder hold."""
    found = sum(int((read_labels(path).array == value).sum()) for path in folder.glob("*.nii.gz"))
    output.write_text(f"{settings.label}: {found}\n")


def test_a_new_stage_runs_through_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "STAGES", dict(stages.STAGES))

    @stages.stage("count-label", "count a label's voxels", "settings")
    def _count_label(args):
        parts = args.settings
        count(args.results.root, CountSettings.from_json(parts["settings"]), parts["value"], args.output)

    write_volume(tmp_path / "a.nii.gz", np.full((2, 3, 4), 3, np.uint8), header_for((2, 3, 4), np.eye(4), np.uint8))
    output = tmp_path / "count.txt"
    command = ["stage", "count-label", "--results", str(tmp_path), "--output", str(output), "--settings"]
    assert cli.main([*command, '{"settings": {"label": "spleen"}, "value": 3}']) == 0
    assert output.read_text() == "spleen: 24\n"
    with pytest.raises(SystemExit):
        cli.main([*command, "no JSON"])
