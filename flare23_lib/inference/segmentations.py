"""Cases segmented by a model of the workflow: predictions of validation cases, and the input of pseudo-labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare23_lib import versions
from flare23_lib.cache.entries import CacheFolder, Entry, Metadata, Shard, fingerprint
from flare23_lib.cache.results import Results, collect, write_record
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset.cases import Case, refuse_changed, usable_cases
from flare23_lib.inference.image_files import NO_EXTRAS, Extras, PredictionCase
from flare23_lib.inference.model import read_model
from flare23_lib.inference.segment_cases import Reader, segment_cases
from flare23_lib.io.atomic import read_json
from flare23_lib.io.label_tables import write_label_tables
from flare23_lib.io.nifti import write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.labels import SOFT_LABELS
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

if TYPE_CHECKING:
    import nibabel as nib

    from flare23_lib.inference.engine import Engine, Segmentation

log = logging.getLogger(__name__)

LABELS = ".nii.gz"
TTA_VOTE_COUNT = ".votes.nii.gz"


def model_digest(description: Mapping[str, Any]) -> str:
    """Return a model's fingerprint, from the content of model.json: the weights' digest and all that shapes results.

    Its name, its labels' names, where it comes from and how it is used by default are not part of it; nor are the
    classes it never saw and what its training images were like, which follow from the training that the weights come
    from.
    """
    values = [label["value"] for label in description["labels"]]
    unshaping = dict.fromkeys(("name", "inference", "provenance", "unseen"))
    shaping = {key: value for key, value in description.items() if key != "training_images"}
    return fingerprint({**shaping, **unshaping, "labels": values})


def segmentation_folder(results: Results, digest: str, inference: InferenceSettings) -> CacheFolder:
    """Return the folder of a model's segmentations with these settings."""
    key = {"version": versions.SEGMENTATION, "model": digest, "inference": inference.to_json()}
    return results.cache("segmentations", key)


def segmentation_entry(folder: CacheFolder, case: Case, extras: Extras = NO_EXTRAS) -> Entry:
    """Return the entry of a case's segmentation with what is made in addition."""
    inputs: dict[str, Any] = {"image": case.image_id, "exclude": []}  # as of version 0.1: names stay the same
    inputs |= {name: True for name in ("votes", "soft") if getattr(extras, name)}
    return folder.entry(case.case, inputs)


@dataclass(frozen=True)
class ModelUse:
    """A model of the workflow and how it is used, on a device as for `devices.choose`, with so many CPU threads."""

    name: str
    inference: InferenceSettings
    device: str = "auto"
    threads: int = 1


Wanted = Sequence[tuple[Case, Extras]]
"""Cases, each with what is made in addition to its labels."""


def segmentation_entries(results: Results, model: str, inference: InferenceSettings, wanted: Wanted) -> list[Entry]:
    """Return the entries of a model's segmentations; StoreError if the model has no bundle."""
    folder = segmentation_folder(results, model_digest(read_json(results.model_file(model))), inference)
    return [segmentation_entry(folder, case, extras) for case, extras in wanted]


def predict_validation(results: Results, model: ModelUse, shard: Shard, output: Path) -> None:
    """Segment the validation cases of a shard, and write its record."""
    wanted = validation_shard(results, shard)
    made = segment_missing(results, model, wanted, f"validation-{shard}")
    write_record(output, ["case", "file"], [row for row, _ in made])


def validation_shard(results: Results, shard: Shard) -> Wanted:
    """Return the validation cases of a shard."""
    return [(case, NO_EXTRAS) for case in usable_cases(results.cases, "validation") if case.case in shard]


def segment_missing(
    results: Results, model: ModelUse, wanted: Wanted, lock_name: str
) -> list[tuple[dict[str, str], Metadata]]:
    """Segment what is missing, under a lock of a name; returns each case's `case` and `file`, and its metadata.

    Raises:
        CasesFailedError: the other cases are done.
    """
    entries = segmentation_entries(results, model.name, model.inference, wanted)
    if not entries:
        return []
    with entries[0].folder.create().lock(lock_name):
        found = [entry.load() for entry in entries]
        missing = [index for index, metadata in enumerate(found) if metadata is None]
        log.info("%d cases, %d of them to be segmented", len(entries), len(missing))
        if missing:
            engine = _engine(results, model)
            places = {}
            for index in missing:
                (case, extras), entry = wanted[index], entries[index]
                places[PredictionCase(case.case, Path(case.image), entry.file(LABELS), extras)] = case, entry
            save = partial(_save, engine, places)
            outcomes = progress(segment_cases(engine, Reader([*places], overwrite=True), save), total=len(places))
            failures = CaseFailures(len(entries))
            for index, outcome in zip(missing, outcomes, strict=True):
                with failures.case(outcome.case.name, str(outcome.case.image)):
                    if outcome.error is not None:
                        raise outcome.error
                    log.info("%s in %.1f s", outcome.case.name, sum(outcome.seconds.values()))
                    found[index] = entries[index].metadata()
            failures.raise_any()
    rows = [{"case": case.case, "file": results.relative(entry.file(LABELS))}
            for (case, _), entry in zip(wanted, entries, strict=True)]  # fmt: skip
    return list(zip(rows, filter(None, found), strict=True))


def _save(
    engine: Engine,
    places: Mapping[PredictionCase, tuple[Case, Entry]],
    case: PredictionCase,
    segmentation: Segmentation,
    header: nib.Nifti1Header,
) -> None:
    """Write a segmentation, and the metadata of its entry last."""
    scanned, entry = places[case]
    refuse_changed(scanned, image=True)
    volumes = {
        TTA_VOTE_COUNT: segmentation.tta_vote_count,
        SOFT_LABELS: segmentation.soft,
        LABELS: segmentation.labels,
    }
    written = {suffix: volume for suffix, volume in volumes.items() if volume is not None}
    for suffix, volume in written.items():
        write_volume(entry.file(suffix), volume, header)
    values = {label.name: str(label.value) for label in engine.model.labels}
    entry.save(
        written,
        {
            "agreement": {values[name]: score for name, score in segmentation.tta_agreement.items()},
            "passes": segmentation.passes,
            "precision": engine.precision,
            "timings": segmentation.timings,
        },
    )


def _engine(results: Results, model: ModelUse) -> Engine:
    import torch

    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.engine import Engine
    from flare23_lib.runtime.devices import choose

    torch.set_num_threads(max(1, model.threads))
    bundle = load_bundle(results.bundle(model.name))
    return Engine(bundle.with_inference(**model.inference.to_json()), choose(model.device, claimed=1))


def collect_predictions(results: Results, model: str, shards: int, output: Path) -> None:
    """Check that every validation case is predicted, list the files and link them by plain names.

    Raises:
        StoreError: a case is in no shard's record.
    """
    cases = [case.case for case in usable_cases(results.cases, "validation")]
    rows = collect(results, "predictions", model, shards, cases)
    write_label_tables(output.parent, read_model(results.bundle(model)).label_table)
    write_csv(output, ["case", "file"], [{"case": row["case"], "file": row["file"]} for row in rows])
