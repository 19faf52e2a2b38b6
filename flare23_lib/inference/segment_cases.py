"""Cases segmented by a model of the workflow: predictions of validation cases, and what pseudo-labels are made of."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flare23_lib import versions
from flare23_lib.cache.collect import complete_rows, link_cases
from flare23_lib.cache.entries import Item, Shard, StageFolder, fingerprint
from flare23_lib.cache.results import Results, write_record
from flare23_lib.config.settings import InferenceSettings
from flare23_lib.dataset.cases import Case, usable_cases
from flare23_lib.inference.image_files import fits_beside
from flare23_lib.io.atomic import read_json
from flare23_lib.io.nifti import Volume, read_volume, write_volume
from flare23_lib.io.tables import write_csv
from flare23_lib.runtime.failures import CaseFailures
from flare23_lib.runtime.progress import progress

if TYPE_CHECKING:
    from flare23_lib.inference.engine import Engine

log = logging.getLogger(__name__)

LABELS = ".nii.gz"
NEXT_CLASS = ".next.nii.gz"
VOTES = ".votes.nii.gz"


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


def segmentation_folder(results: Results, digest: str, inference: InferenceSettings) -> StageFolder:
    """Return the folder of what a model makes with these settings, whoever asks for it."""
    key = {"version": versions.SEGMENTATION, "model": digest, "inference": inference.to_json()}
    return results.folder("segmentations", key)


def segmentation_item(
    folder: StageFolder, case: Case, exclude: Collection[int] = (), votes: bool = False
) -> tuple[Item, dict[str, Any]]:
    """Return where a case's segmentation belongs, and what it is made from.

    Args:
        folder: of the model and its settings.
        case: the case.
        exclude: label values without which the next class is looked for.
        votes: whether the votes of the mirrored passes are kept.
    """
    inputs = {"image": case.image_id, "exclude": sorted(exclude)}
    if votes:
        inputs["votes"] = True
    return folder.item(case.case, inputs), inputs


def predict_validation(
    results: Results,
    model: str,
    inference: InferenceSettings,
    device: str,
    threads: int,
    shard: Shard,
    output: Path,
) -> None:
    """Segment the validation cases of a shard; arguments as `pseudo_label`."""
    cases = [case for case in usable_cases(results.cases, "validation") if case.case in shard]
    wanted = [(case, ()) for case in cases]
    made = segment_cases(results, model, inference, wanted, False, device, threads, f"validation-{shard}")
    write_record(output, ["case", "file"], [row for row, _ in made])


def segment_cases(
    results: Results,
    model: str,
    inference: InferenceSettings,
    wanted: Sequence[tuple[Case, Collection[int]]],
    votes: bool,
    device: str,
    threads: int,
    lock_name: str,
) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Segment what is not there yet; returns each case's `case` and `file`, and the note of its item.

    Args:
        results: the results folder.
        model: its name.
        inference: how it is used.
        wanted: cases, each with the label values without which the next class is looked for.
        votes: whether the votes of the mirrored passes are kept.
        device: as `devices.choose`.
        threads: threads to use.
        lock_name: of the lock that is held meanwhile.

    Raises:
        CasesFailedError: the other cases are done.
    """
    folder = segmentation_folder(results, model_digest(model_description(results, model)), inference).create()
    made = []
    with folder.lock(lock_name, lambda: log.info("another job segments these cases; waiting for it")):
        items = [(case, *segmentation_item(folder, case, exclude, votes)) for case, exclude in wanted]
        notes = [item.read() for _, item, _ in items]
        missing = [(case, inputs) for (case, _, inputs), note in zip(items, notes, strict=True) if note is None]
        log.info("%d cases, %d of them to be segmented", len(items), len(missing))
        engine = _engine(results, model, inference, device, threads) if missing else None
        volumes = _read_ahead(engine, missing)
        failures = CaseFailures(len(items))
        for (case, item, inputs), done in progress(list(zip(items, notes, strict=True))):
            note = done
            if note is None:
                image = next(volumes)
                with failures.case(case.case, case.image):
                    note = _segment_case(engine, image(), item, inputs)
                    log.info("%s in %.1f s", case.case, sum(note["results"]["timings"].values()))
            made.append(({"case": case.case, "file": results.relative(item.file(LABELS))}, note))
    failures.raise_any()
    return made


def model_description(results: Results, model: str) -> dict[str, Any]:
    """Return the content of a model's model.json; StoreError if it is missing."""
    return read_json(results.model_file(model))


def _engine(results: Results, model: str, inference: InferenceSettings, device: str, threads: int) -> Engine:
    import torch

    from flare23_lib.inference.bundle import load_bundle
    from flare23_lib.inference.engine import Engine
    from flare23_lib.runtime.devices import choose

    torch.set_num_threads(max(1, threads))
    return Engine(load_bundle(results.bundle(model)), choose(device, claimed=1), **inference.to_json())


def _read_ahead(engine: Engine, wanted: Sequence[tuple[Case, Mapping[str, Any]]]) -> Iterator[Callable[[], Volume]]:
    """Give for each case a function that returns its image, once, or raises what reading it raised.

    The next image is read while one is in use, if there is memory for both.
    """
    with ThreadPoolExecutor(1) as thread:
        reading: Future[Volume] | None = None
        for (case, inputs), following in itertools.zip_longest(wanted, wanted[1:]):
            current, reading = reading, None
            try:
                volumes = [current.result() if current else read_volume(case.image)]
                del current
                if following is not None:
                    plan = engine.plan(volumes[0].geometry, volumes[0].array.nbytes, *_options(inputs))
                    if fits_beside(engine, plan, Path(following[0].image)):
                        reading = thread.submit(read_volume, following[0].image)
            except Exception as error:
                yield functools.partial(_raise, error)
            else:
                yield volumes.pop  # nothing here holds the image any more


def _raise(error: Exception) -> NoReturn:
    raise error


def _options(inputs: Mapping[str, Any]) -> tuple[list[int], bool]:
    """Return the engine's `exclude` and `votes` for a segmentation made from these inputs."""
    return inputs["exclude"], inputs.get("votes", False)


def _segment_case(engine: Engine, volume: Volume, item: Item, inputs: Mapping[str, Any]) -> dict[str, Any]:
    header, options = volume.header, _options(inputs)
    prepared = engine.prepare(volume, *options)
    del volume  # the engine's plan of memory has no place for it from here on
    segmentation = engine.infer(prepared, *options)
    suffixes = [LABELS]
    if segmentation.alternative is not None:
        write_volume(item.file(NEXT_CLASS), segmentation.alternative, header)
        suffixes.append(NEXT_CLASS)
    if segmentation.votes is not None:
        write_volume(item.file(VOTES), segmentation.votes, header)
        suffixes.append(VOTES)
    write_volume(item.file(LABELS), segmentation.labels, header)
    values = {label.name: str(label.value) for label in engine.model.labels}
    measures = {
        "agreement": {values[name]: score for name, score in segmentation.agreement.items()},
        "passes": segmentation.passes,
        "precision": engine.precision,
        "timings": segmentation.timings,
    }
    return item.finish(suffixes, inputs, measures)


def gather_predictions(results: Results, model: str, shards: int, output: Path) -> None:
    """Check that every validation case is predicted, list the files and link them by plain names.

    Raises:
        StoreError: a case is in no shard's record.
    """
    cases = [case.case for case in usable_cases(results.cases, "validation")]
    rows = complete_rows(results, "predictions", model, shards, cases)
    link_cases(results, output.parent, rows)
    write_csv(output, ["case", "file"], [{"case": row["case"], "file": row["file"]} for row in rows])
