"""The card of a model: what it labels, what it learned from, how it scored, and what it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flare23_lib.cache.results import Results
from flare23_lib.evaluation.metrics import METRICS
from flare23_lib.io.atomic import read_json, write_text
from flare23_lib.io.tables import read_csv

NOT_A_DEVICE = (
    "This is not a medical device. It was not examined or approved by any authority, and must not be the basis of "
    "diagnosis or treatment."
)


def write_model_card(results: Results, model: str, about: Mapping[str, str], output: Path, scored: bool) -> None:
    """Write a model's card as Markdown.

    Args:
        results: the run.
        model: name of the model.
        about: the configuration's table `model_card`.
        output: file of the card.
        scored: whether the model is evaluated in this run; if not, scores that are there are of earlier weights.
    """
    description, record = read_json(results.model_file(model)), read_json(results.training(model))
    lines = [f"# {model}", "", about["intended_use"], "", NOT_A_DEVICE, ""]
    lines += _table([("license", about["license"]), ("contact", about["contact"]), *_facts(description)], "", "")
    lines += ["", "```bash", f"flare23 predict --model {model} --input ct.nii.gz --output labels", "```", ""]
    lines += ["## Labels", "", *_labels(description), "", "## Training", "", *_training(description, record), ""]
    scores = _scores(results.summary(model)) if scored else ["The model was not evaluated."]
    lines += ["## Scores", "", *scores, ""]
    write_text(output, "\n".join(lines))


def _table(rows: Sequence[tuple[Any, ...]], *head: str) -> list[str]:
    cells = [tuple(str(cell).replace("|", "\\|") for cell in row) for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in cells)]


def _facts(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    by = "x".join
    inference, network = description["inference"], description["network"]
    name = network.get("network_class", "STU-Net").rpartition(".")[-1]
    return [
        ("network", f"{name}, widths {by(map(str, network['widths']))}" if "widths" in network else name),
        ("resolution (z, y, x)", f"{by(f'{value:g}' for value in description['spacing'])} mm"),
        ("window", f"{by(map(str, description['patch_size']))} voxels, step {inference['step']:g}"),
        ("axes", "any; turned to LPS" if description["orientation"] == "canonical" else "as stored in the file"),
        ("weights (SHA-256)", description["weights"]["sha256"]),
    ]


def _labels(description: Mapping[str, Any]) -> list[str]:
    rows = []
    for label in description["labels"][1:]:
        note = "never seen in training" if label["name"] in description["unseen"] else ""
        rows.append((label["value"], label["name"], label.get("kind", ""), note))
    return _table(rows, "value", "label", "kind", "")


def _training(description: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[Any, ...]] = [("cases", record["cases"])]
    rows += [(f"of the source {name}", count) for name, count in record.get("sources", {}).items()]
    images = description.get("training_images") or {}
    rows += [(f"images with axes {codes}", count) for codes, count in images.get("axes", {}).items()]
    for name in ("lowest", "highest"):
        if images.get(name):
            low, high = images[name]
            rows.append((f"{name} HU of an image", f"{low:g}" if low == high else f"{low:g} to {high:g}"))
    low, high = (description["intensity"][name] for name in ("low", "high"))
    rows.append(("intensities in labels (0.5 to 99.5 %)", f"{low:g} to {high:g} HU"))
    return _table(rows, "", "")


def _scores(summary: Path) -> list[str]:
    rows = read_csv(summary)
    scores = [f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std")]
    columns = [name for name in ("cases", *scores, "note") if name in rows[0]]
    cells = [tuple(row[name] for name in ("class", *columns)) for row in rows]
    return _table(cells, "class", *(name.replace("_", " ") for name in columns))
