"""Cases segmented by a model of the workflow: predictions of validation cases, and what pseudo-labels are made of."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flare23_lib import versions
from flare23_lib.cache.entries import CacheFolder, Entry, Metadata, Shard, fingerprint
from flare23_lib.cache.results import Results, collect, write_record
from flare23_lib.config.settings import InferenceSettings
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.inference.image_files import can_prefetch
from flare23_lib.io.atomic import read_json
from flare23_lib.io.nifti import Volume, read_volume, write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

if TYPE_CHECKING:
    from flare23_lib.inference.engine import Engine

log = logging.getLogger(__name__)

LABELS = ".nii.gz"
RUNNER_UP_LABELS = ".next.nii.gz"
TTA_VOTE_COUNT = ".votes.nii.gz"


def model_digest(description: Mapping[str, Any]) -> str:
    """Return what tells a model from another: the digest of its weights and all that shapes its results.

    Its name, its labels' names, where it comes from and how it is used by default are not part of it; nor are the
    classes it never saw, which follow from the training that the weights come from.

    Args:
        description: the content of model.json.
    """
    values = [label["value"] for label in description["labels"]]
    unshaping = dict.fromkeys(("name", "inference", "provenance", "unseen"))
    return fingerprint({**description, **unshaping, "labels": values})


def segmentation_folder(results: Results, digest: str, inference: InferenceSettings) -> CacheFolder:
    """Return the folder of a model's segmentations with these settings."""
    key = {"version": versions.SEGMENTATION, "model": digest, "inference": inference.to_json()}
    return results.cache("segmentations", key)


def segmentation_entry(folder: CacheFolder, case: Case, exclude: Collection[int] = (), votes: bool = False) -> Entry:
    """Return the entry of a case's segmentation.

    Args:
        folder: of the model and its settings.
        case: the case.
        exclude: label values without which the runner-up labels are made.
        votes: whether the votes of the mirrored passes are kept.
    """
    inputs: dict[str, Any] = {"image": case.image_id, "exclude": sorted(exclude)}
    if votes:
        inputs["votes"] = True
    return folder.entry(case.case, inputs)


@dataclass(frozen=True)
class ModelUse:
    """A model of the workflow and how it is used.

    Attributes:
        name: of the model.
        inference: how it segments.
        device: as `devices.choose`.
        threads: CPU threads.
    """

    name: str
    inference: InferenceSettings
    device: str = "auto"
    threads: int = 1


Wanted = Sequence[tuple[Case, Collection[int]]]
"""Cases, each with the label values without which its runner-up labels are made."""


def segmentation_entries(
    results: Results, model: str, inference: InferenceSettings, wanted: Wanted, votes: bool
) -> list[Entry]:
    """Return the entries of a model's segmentations; StoreError if the model has no bundle."""
    folder = segmentation_folder(results, model_digest(model_description(results, model)), inference)
    return [segmentation_entry(folder, case, exclude, votes) for case, exclude in wanted]


def predict_validation(results: Results, model: ModelUse, shard: Shard, output: Path) -> None:
    """Segment the validation cases of a shard, and write its record."""
    wanted = validation_shard(results, shard)
    made = segment_cases(results, model, wanted, False, f"validation-{shard}")
    write_record(output, ["case", "file"], [row for row, _ in made])


def validation_shard(results: Results, shard: Shard) -> Wanted:
    """Return the validation cases of a shard."""
    return [(case, ()) for case in usable_cases(results.cases, "validation") if case.case in shard]


def segment_cases(
    results: Results, model: ModelUse, wanted: Wanted, votes: bool, lock_name: str
) -> list[tuple[dict[str, str], Metadata]]:
    """Segment what is missing; returns each case's `case` and `file`, and its metadata.

    Args:
        results: the results folder.
        model: the model.
        wanted: cases.
        votes: whether the votes of the mirrored passes are kept.
        lock_name: of the lock that is held meanwhile.

    Raises:
        CasesFailedError: the other cases are done.
    """
    entries = segmentation_entries(results, model.name, model.inference, wanted, votes)
    if not entries:
        return []
    made = []
    with entries[0].folder.create().lock(lock_name):
        known = [entry.load() for entry in entries]
        cases = [case for case, _ in wanted]
        missing = [(case, entry) for case, entry, found in zip(cases, entries, known, strict=True) if found is None]
        log.info("%d cases, %d of them to be segmented", len(entries), len(missing))
        engine = _engine(results, model) if missing else None
        volumes = _read_ahead(engine, missing)
        failures = CaseFailures(len(entries))
        for case, entry, loaded in progress(list(zip(cases, entries, known, strict=True))):
            metadata = loaded
            if metadata is None:
                image = next(volumes)
                with failures.case(case.case, case.image):
                    metadata = _segment_case(engine, image(), entry, case.image)
                    log.info("%s in %.1f s", case.case, sum(metadata["results"]["timings"].values()))
            if metadata is not None:
                made.append(({"case": case.case, "file": results.relative(entry.file(LABELS))}, metadata))
    failures.raise_any()
    return made


def model_description(results: Results, model: str) -> dict[str, Any]:
    """Return the content of a model's model.json; StoreError if it is missing."""
    return read_json(results.model_file(model))


def _engine(results: Results, model: ModelUse) -> Engine:
    import torch

    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.engine import Engine
    from flare23_lib.runtime.devices import choose

    torch.set_num_threads(max(1, model.threads))
    bundle = load_bundle(results.bundle(model.name))
    return Engine(bundle, choose(model.device, claimed=1), **model.inference.to_json())


def _read_ahead(engine: Engine, wanted: Sequence[tuple[Case, Entry]]) -> Iterator[Callable[[], Volume]]:
    """Yield for each case a function that returns its image, once, or raises what reading it raised.

    The next image is read while one is in use, if there is memory for both.
    """
    with ThreadPoolExecutor(1) as thread:
        reading: Future[Volume] | None = None
        for (case, entry), following in itertools.zip_longest(wanted, wanted[1:]):
            current, reading = reading, None
            try:
                volumes = [current.result() if current else read_volume(case.image)]
                del current
                if following is not None:
                    plan = engine.plan(volumes[0].geometry, volumes[0].array.nbytes, *_options(entry))
                    if can_prefetch(engine, plan, Path(following[0].image)):
                        reading = thread.submit(read_volume, following[0].image)
            except Exception as error:
                yield functools.partial(_raise, error)
            else:
                yield volumes.pop  # nothing here holds the image any more


def _raise(error: Exception) -> NoReturn:
    raise error


def _options(entry: Entry) -> tuple[list[int], bool]:
    """Return the engine's `exclude` and `votes` for an entry."""
    return entry.inputs["exclude"], entry.inputs.get("votes", False)


def _segment_case(engine: Engine, volume: Volume, entry: Entry, name: str) -> Metadata:
    from flare23_lib.inference.bundle import axis_warning

    if warning := axis_warning(engine.model, volume.geometry):
        log.warning("%s: %s", name, warning)
    header, options = volume.header, _options(entry)
    prepared = engine.prepare(volume, *options)
    del volume  # the engine's plan of memory has no place for it from here on
    segmentation = engine.infer(prepared, *options)
    suffixes = [LABELS]
    if segmentation.runner_up_labels is not None:
        write_volume(entry.file(RUNNER_UP_LABELS), segmentation.runner_up_labels, header)
        suffixes.append(RUNNER_UP_LABELS)
    if segmentation.tta_vote_count is not None:
        write_volume(entry.file(TTA_VOTE_COUNT), segmentation.tta_vote_count, header)
        suffixes.append(TTA_VOTE_COUNT)
    write_volume(entry.file(LABELS), segmentation.labels, header)
    values = {label.name: str(label.value) for label in engine.model.labels}
    results = {
        "agreement": {values[name]: score for name, score in segmentation.tta_agreement.items()},
        "passes": segmentation.passes,
        "precision": engine.precision,
        "timings": segmentation.timings,
    }
    return entry.save(suffixes, results)


def collect_predictions(results: Results, model: str, shards: int, output: Path) -> None:
    """Check that every validation case is predicted, list the files and link them by plain names.

    Raises:
        StoreError: a case is in no shard's record.
    """
    cases = [case.case for case in usable_cases(results.cases, "validation")]
    rows = collect(results, "predictions", model, shards, cases)
    write_csv(output, ["case", "file"], [{"case": row["case"], "file": row["file"]} for row in rows])
