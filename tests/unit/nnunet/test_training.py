"""Training: what it uses and writes down, and that a kill costs no more than the time since the last checkpoint."""

import contextlib
import ctypes
import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import processes
import pytest
import torch
from faults import flip
from machines import PATIENCE, wait_until
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from processes import Command
from safetensors.torch import load_file
from trainings import MODEL, NAMES, command, prepare, settings

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config.training_models import TrainingProtocol
from flare23_lib.errors import GpuError, KilledError, TrainingError
from flare23_lib.io.atomic import TEMPORARY_MARK, read_json
from flare23_lib.io.tables import read_csv
from flare23_lib.nnunet import checkpoints, launch, sampling, train
from flare23_lib.nnunet.losses import admissible_sets
from flare23_lib.nnunet.retry_state import attempt, killed
from flare23_lib.nnunet.sampling import Rounds, become_worker
from flare23_lib.nnunet.trainer import FlareTrainer
from flare23_lib.nnunet.training_job import CHECKPOINTS, training_job
from flare23_lib.runtime.signals import STOPPING, StoppedError


def run(results, **options):
    return processes.run(command(results, **options))


def epochs(results):
    return [int(row["epoch"]) for row in read_csv(results.training(MODEL).with_name("training.csv"))]


def checkpoint_folder(results):
    return next((results.root / "store" / "training").glob("*")) / CHECKPOINTS


def weights(results):
    return load_file(results.root / read_json(results.training(MODEL))["weights"])


@pytest.fixture
def results(prepared, tmp_path):
    shutil.copytree(prepared.root, tmp_path / "results")
    return Results(tmp_path / "results")


@pytest.fixture(scope="module")
def unbroken(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    shutil.copytree(prepared.root, folder / "results")
    made = Results(folder / "results")
    done = subprocess.run(command(made), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


def test_a_training_ends_with_a_record_of_every_epoch(unbroken):
    assert epochs(unbroken) == [1, 2, 3, 4]
    rows = read_csv(unbroken.training(MODEL).with_name("training.csv"))
    assert all(float(row["seconds"]) > 0 and float(row["train_loss"]) < 3 for row in rows)
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == pytest.approx([0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)], rel=1e-4)
    assert {row["pseudo_dice_absent"] for row in rows} <= {"", "0.0"}
    assert sorted(path.name for path in checkpoint_folder(unbroken).glob("*.pth")) == [checkpoints.FINAL]


def test_the_record_says_what_was_really_used(unbroken):
    record = read_json(unbroken.training(MODEL))
    assert record["used"]["optimizer"]["class"] == "AdamW"
    assert record["used"]["computed_in"] == "torch.float32"
    assert record["used"]["batch_size"] == 2
    assert record["used"]["mirror_axes"] == [0, 1, 2]
    assert record["used"]["forced_patches_per_batch"] == 1
    assert record["used"]["augmented_in_plane"] is False
    assert any("Spatial" in transform for transform in record["used"]["augmentation"])
    assert not any(" at 0x" in transform for transform in record["used"]["augmentation"])
    assert record["labels_unseen"] == ["absent"]
    assert record["settings"] == settings().to_json()


def test_the_same_seed_trains_to_the_same_weights(results, unbroken):
    assert run(results).returncode == 0
    first, second = weights(results), weights(unbroken)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_does_not(results, unbroken):
    assert run(results, seed=1).returncode == 0
    first, second = weights(results), weights(unbroken)
    assert not all(torch.equal(first[name], second[name]) for name in first)


def ended(process):
    """Wait for the end of a training, and return what it wrote to the standard error."""
    process.wait(60 * PATIENCE)
    return process.stderr


def has_checkpoint(results):
    return any((results.root / "store" / "training").glob(f"*/{CHECKPOINTS}/{checkpoints.LATEST}"))


@pytest.mark.slow  # two trainings of 300 iterations each
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_in_mid_epoch_and_the_next_start_goes_on_there(results, number):
    long = {"iterations_per_epoch": 150, "epochs": 2}
    process = Command(command(results, checkpoint_minutes=0.002, **long))
    wait_until(lambda: has_checkpoint(results), process)
    process.send_signal(number)
    said = ended(process)
    assert process.returncode == 128 + number
    answer = f"{signal.Signals(number).name}: finishing the batch under way, then saving a checkpoint"
    assert said.count(answer) == 1
    assert said.strip().splitlines()[-1].startswith(f"flare23: stopped by {signal.Signals(number).name} in epoch")
    name, content = checkpoints.newest(checkpoint_folder(results))
    assert name == checkpoints.LATEST
    assert f"in epoch {content['current_epoch'] + 1} after {len(content['flare23']['epoch']['losses'])} iter" in said
    again = run(results, **long)
    assert again.returncode == 0, again.stderr
    place = (
        f"epoch {content['current_epoch'] + 1}, iteration {len(content['flare23']['epoch']['losses']) + 1} come next"
    )
    assert place in again.stderr
    assert epochs(results) == [1, 2]


@pytest.mark.slow  # another training
def test_a_broken_newest_checkpoint_is_noticed_and_the_one_before_it_used(results):
    long = {"iterations_per_epoch": 100, "epochs": 2}
    process = Command(command(results, checkpoint_minutes=0.001, **long))
    folder = results.root / "store" / "training"
    wait_until(lambda: any(folder.glob(f"*/{CHECKPOINTS}/{checkpoints.PREVIOUS}")), process)
    process.terminate()  # saves a checkpoint; a kill can come between the two renames of one
    ended(process)
    latest = checkpoint_folder(results) / checkpoints.LATEST
    raw = bytearray(latest.read_bytes())
    raw[len(raw) // 2] ^= 1
    latest.unlink()
    latest.write_bytes(raw)
    done = run(results, **long)
    assert done.returncode == 0, done.stderr
    assert "checkpoint_latest.pth is broken (" in done.stderr
    assert "checkpoint_previous.pth: epoch" in done.stderr
    assert epochs(results) == [1, 2]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_wrong_with_a_checkpoint_it_is_set_aside_and_the_one_before_it_read(tmp_path, seed):
    for epoch in (1, 2):
        checkpoints.write_latest(tmp_path, {"epoch": epoch, "weights": torch.arange(1000.0), "name": "n"})
    latest = tmp_path / checkpoints.LATEST
    raw = bytearray(latest.read_bytes())
    chance = random.Random(seed)
    directory = raw.rfind(b"PK\x01\x02")
    for _ in range(8):
        raw[chance.randrange(directory, len(raw))] ^= 1 << chance.randrange(8)
    raw[directory + 10] ^= 99  # of the last part: how it is compressed
    if seed == 0:
        raw[-50] = 255  # where the directory begins: before the file
    latest.unlink()  # the one before it is no link to it
    latest.write_bytes(raw)
    before = checkpoints.mark(tmp_path)
    assert checkpoints.newest(tmp_path) is not None
    name, content = checkpoints.newest(tmp_path)
    assert (name, content["epoch"]) == (checkpoints.PREVIOUS, 1)
    assert latest.with_name(checkpoints.LATEST + checkpoints.BROKEN).read_bytes() == raw
    assert checkpoints.mark(tmp_path) != before
    # From here on a new one counts as progress, and the whole one is kept until it is there.
    checkpoints.write_latest(tmp_path, {"epoch": 2})
    assert checkpoints.newest(tmp_path)[1]["epoch"] == 2
    (tmp_path / checkpoints.LATEST).unlink()
    assert checkpoints.newest(tmp_path)[1]["epoch"] == 1
    checkpoints.remove_intermediate(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(5, "Input/output error"), ImportError()],
)
def test_a_checkpoint_that_cannot_be_read_just_now_is_not_called_broken(tmp_path, monkeypatch, error):
    checkpoints.write_latest(tmp_path, {"epoch": 1})

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints.torch, "load", fail)
    with pytest.raises(type(error)):
        checkpoints.newest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.LATEST]


def test_what_a_kill_left_half_written_is_removed_by_the_next_attempt(results):
    assert run(results, epochs=1).returncode == 0
    half = next(results.root.rglob(CHECKPOINTS)) / f"{TEMPORARY_MARK}x-{checkpoints.LATEST}"
    place = half.with_name(f"{TEMPORARY_MARK}y")
    place.mkdir()
    for path in (half, place / checkpoints.PREVIOUS):
        path.write_bytes(b"half")
    shutil.rmtree(results.root / "training")
    for path in results.root.glob("store/training/*/model.*"):
        path.unlink()
    assert run(results, epochs=1).returncode == 0
    assert not list(results.root.rglob(f"{TEMPORARY_MARK}*"))


@pytest.mark.slow  # a drill of minutes; single signals and kills are above
def test_kills_at_random_moments_lose_no_epoch_and_repeat_none(results):
    chance = random.Random(0)
    long = {"iterations_per_epoch": 60, "epochs": 12}
    statuses, said = [], []
    for kill in range(4):
        options = {**long, "checkpoint_minutes": 0.005}
        process = Command(command(results, **options), start_new_session=True)
        if kill == 0:  # the later ones have something to resume then, on a slow machine too
            wait_until(lambda: has_checkpoint(results), process)
        try:
            process.wait(timeout=chance.uniform(0.5, 4) if kill else chance.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL if kill % 2 else signal.SIGTERM)
        statuses.append(process.wait())
        said.append(process.stderr)
    assert set(statuses) <= {0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
    done = run(results, **long)
    assert done.returncode == 0, done.stderr
    assert statuses.count(0) < len(statuses), "none was killed before its end"
    assert any("come next" in one for one in (*said[1:], done.stderr)), "all began anew"
    assert epochs(results) == list(range(1, 13))
    leftovers = [path.name for path in results.root.rglob("*.pth") if path.name != checkpoints.FINAL]
    assert leftovers == []


@pytest.mark.slow  # another training
def test_a_training_goes_on_after_a_label_got_another_name(results):
    long = {"iterations_per_epoch": 1, "epochs": 60, "checkpoint_minutes": 0.0001}
    process = Command(command(results, **long))
    wait_until(lambda: any(results.root.glob(f"store/training/*/{CHECKPOINTS}/training.csv")), process)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    for names in (["1st", "two", "rare", "absent"], ["first", "two", "rare", "absent"]):
        again = run(results, **long, names=names)
        assert again.returncode == 0, again.stderr
        rows = read_csv(results.training(MODEL).with_name("training.csv"))
        assert [key.removeprefix("pseudo_dice_") for key in rows[0] if key.startswith("pseudo_dice_")] == names
        assert epochs(results) == list(range(1, 61))
    assert "is trained already" in again.stderr


def test_a_nan_loss_ends_the_run_and_the_retries_of_the_same_run_end_at_once(results):
    first = run(results, learning_rate=1e30, epochs=50)
    assert first.returncode == 1
    assert "NaN twice in a row" in first.stderr.splitlines()[-1]
    second = run(results, attempt=2, learning_rate=1e30, epochs=50)
    assert "given up in this run of the workflow: the loss is NaN" in second.stderr
    third = run(results, attempt=1, learning_rate=1e30, epochs=50)
    assert "given up" not in third.stderr


class Progress:
    value = 0

    def __call__(self):
        return self.value


def test_two_attempts_without_a_new_checkpoint_are_enough(tmp_path):
    progress = Progress()

    def die(number):
        with pytest.raises(RuntimeError), attempt(tmp_path, number, progress):
            raise RuntimeError

    die(1)
    die(2)
    with pytest.raises(TrainingError, match="2 attempts ended without a new checkpoint"):
        attempt(tmp_path, 3, progress).__enter__()
    with pytest.raises(TrainingError, match="given up"):
        attempt(tmp_path, 4, progress).__enter__()
    die(1)
    for number in range(2, 9):
        progress.value += 1
        die(number)


def test_a_gpu_without_memory_is_named_at_the_end_and_asks_for_no_more_main_memory(tmp_path):
    full = SimpleNamespace(resume=lambda: True, current_epoch=0, num_epochs=1, run_training=Mock())
    full.run_training.side_effect = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    for number in (1, 2):
        trying = attempt(tmp_path, number, Progress())
        with pytest.raises(GpuError, match="batch_size"), trying, launch.memory_errors():
            launch._finish(full, None)
    assert killed(tmp_path) == 0
    with pytest.raises(TrainingError, match=r"2 attempts .* \(CUDA out of memory. Tried to allocate 2 GiB.\)$"):
        attempt(tmp_path, 3, Progress()).__enter__()


def test_a_worker_that_was_killed_asks_for_more_main_memory(tmp_path):
    error = RuntimeError("One or more background workers are no longer alive.")
    for number in (1, 2):
        with pytest.raises(RuntimeError), attempt(tmp_path, number, Progress()):
            raise error
    assert killed(tmp_path) == 2
    with pytest.raises(TrainingError, match=r"RuntimeError: One or more background workers are no longer alive\.$"):
        attempt(tmp_path, 3, Progress()).__enter__()


@pytest.mark.parametrize("first", [1, 6])
@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, KilledError), (None, RuntimeError)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the augmenter's thread
def test_a_process_that_loads_patches_and_was_killed_is_told_from_one_that_failed(number, kind, first):
    class Loader:
        drawn = 0

        def __next__(self):
            self.drawn += 1
            if self.drawn >= first and number is None:
                raise ValueError("a broken case")
            if self.drawn >= first:
                os.kill(os.getpid(), number)
            return {}

    batches = sampling.endless(Loader(), [1], pinned=False)
    with pytest.raises(kind, match="killed by SIGKILL" if number else "no longer alive"):
        [sampling.next_batch(batches) for _ in range(6)]


def test_a_stop_before_the_first_checkpoint_is_no_failure(tmp_path):
    for number in range(1, 9):
        with pytest.raises(StoppedError), attempt(tmp_path, number, Progress()):
            raise StoppedError(signal.SIGTERM)
    assert killed(tmp_path) == 0


def test_a_signal_ends_the_reading_of_the_cases_and_what_was_read_is_not_read_again(results, monkeypatch):
    read = []

    def require_whole(self, files, threads=1):
        read.append(files)
        if len(read) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Results, "require_whole", require_whole)
    job = training_job(results, MODEL, settings(), NAMES, 1)
    with pytest.raises(StoppedError) as error:
        train._train(job, train.TrainingRuntime(device="cpu"), None)
    assert error.value.exit_code == 128 + signal.SIGTERM
    assert read_json(job.folder.path / "attempts.json")["stopped"] == 1
    checkpoints.write_latest(job.checkpoints, {})
    for attempt_number, times in ((2, 2), (3, 2), (1, 3)):
        with pytest.raises(KeyError, match="network_weights"):
            train._train(job, train.TrainingRuntime(device="cpu", attempt=attempt_number), None)
        assert len(read) == times


def test_checkpoints_need_no_hard_links(tmp_path, monkeypatch):
    """BeeGFS and AFS have none across folders, CIFS and FUSE mounts often none at all."""
    monkeypatch.delattr(os, "link")
    for epoch in range(1, 4):
        checkpoints.write_latest(tmp_path, {"epoch": epoch})
    assert checkpoints.newest(tmp_path)[1]["epoch"] == 3
    (tmp_path / checkpoints.LATEST).unlink()
    assert checkpoints.newest(tmp_path)[1]["epoch"] == 2


def test_every_class_is_the_target_once_a_round_however_rare():
    np.random.seed(0)
    members = {1: [f"case{number}" for number in range(50)], 2: ["case7"], 3: [], 4: ["case1", "case2"]}
    rounds = Rounds(members)
    for _ in range(40):
        drawn = [rounds.draw() for _ in range(3)]
        assert sorted(target for target, _ in drawn) == [1, 2, 4]
        assert all(case in members[target] for target, case in drawn)
    cases = {rounds.draw()[1] for _ in range(3000)}
    assert len(cases) == 50


@pytest.mark.parametrize("ignore", [None, 3])
def test_patches_that_are_only_looked_at_are_counted_as_nnunet_counts_them(ignore):
    random_numbers = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=random_numbers)
    labels = torch.randint(3 if ignore is None else 4, (2, 1, 4, 5, 6), generator=random_numbers)
    trainer = SimpleNamespace(
        device=torch.device("cpu"), network=lambda data: [logits], loss=lambda output, target: torch.tensor(0.5),
        enable_deep_supervision=True, protocol=TrainingProtocol(),
        _forward=lambda batch: (torch.tensor(0.5), logits, labels),
        label_manager=SimpleNamespace(has_regions=False, has_ignore_label=ignore is not None, ignore_label=ignore),
        _sets_of=lambda batch: torch.stack([admissible_sets([1, 2], 3)] * 2),
    )  # fmt: skip
    loss, voxels = FlareTrainer.validation_step(trainer, {})
    theirs = nnUNetTrainer.validation_step(trainer, {"data": logits, "target": [labels.clone()]})
    assert loss == theirs["loss"]
    assert np.array_equal(voxels, np.stack([theirs[f"{kind}_hard"] for kind in ("tp", "fp", "fn")]))
    assert voxels.sum() > 0


@pytest.mark.slow  # two processes import nnU-Net
def test_two_processes_share_a_batch(results):
    done = run(results, gpus=2)
    assert done.returncode == 0, done.stderr
    assert epochs(results) == [1, 2, 3, 4]
    assert read_json(results.training(MODEL))["gpus"] == 2


def ranks_of(process):
    task = Path("/proc") / str(process.pid) / "task" / str(process.pid) / "children"
    children = map(int, task.read_text().split())
    return [pid for pid in children if b"spawn_main" in (Path("/proc") / str(pid) / "cmdline").read_bytes()]


@pytest.mark.slow  # two processes import nnU-Net
def test_one_ctrl_c_reaches_all_processes_and_the_state_is_saved(results):
    process = Command(command(results, iterations_per_epoch=1, epochs=5000, gpus=2), start_new_session=True)
    wait_until(lambda: any(results.root.glob(f"store/training/*/{CHECKPOINTS}/training.csv")), process)
    os.killpg(process.pid, signal.SIGINT)
    said = ended(process)
    assert process.returncode == 128 + signal.SIGINT, said
    assert said.strip().splitlines()[-1].startswith("flare23: stopped by SIGINT")
    assert said.count("finishing the batch under way") == 1, "only the process that started the others answers"
    assert has_checkpoint(results), "none is due in 10 minutes"


@pytest.fixture
def processes_end(monkeypatch):
    """A function that has a training's processes end with exit codes, and then calls `join`."""

    def end(join, *exit_codes):
        processes = [SimpleNamespace(exitcode=code, join=lambda: None) for code in exit_codes]
        context = SimpleNamespace(join=join, processes=processes, sentinels={0: 0, 1: 1})
        monkeypatch.setattr(launch.torch.multiprocessing, "spawn", lambda *_, **__: context)
        monkeypatch.setattr(launch.multiprocessing.connection, "wait", lambda sentinels, _: list(sentinels))
        launch._train_in_processes(SimpleNamespace(processes=2), None)

    return end


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, StoppedError), (None, KilledError)])
def test_a_process_that_ends_while_it_writes_down_why_is_no_traceback(processes_end, number, kind):
    def join(timeout):
        if number is not None:
            os.kill(os.getpid(), number)
        raise EOFError("Ran out of input")

    with pytest.raises(kind):
        processes_end(join, 1, 1)


@pytest.mark.parametrize("kind", [KilledError, GpuError, TrainingError])
def test_the_error_of_a_process_of_several_keeps_its_kind(processes_end, kind):
    text = f"\n\n-- Process 1 terminated\nTraceback\n{kind.__module__}.{kind.__name__}: it ended"
    error = launch.ProcessRaisedException(text, 1, 2)
    with pytest.raises(kind, match=r"^it ended$"):
        processes_end(Mock(side_effect=error), None, 1)


def test_what_another_process_says_for_want_of_a_killed_one_is_not_the_reason(processes_end):
    error = launch.ProcessRaisedException("Traceback\nRuntimeError: Connection reset by peer", 0, 2)
    with pytest.raises(KilledError, match="killed by SIGKILL"):
        processes_end(Mock(side_effect=error), 1, -signal.SIGKILL)


@pytest.mark.slow  # two processes import nnU-Net once more
def test_a_killed_process_of_several_ends_the_others_in_one_line_and_another_attempt_may_go_on(results):
    long = {"iterations_per_epoch": 5000, "epochs": 2, "gpus": 2}
    process = Command(command(results, checkpoint_minutes=0.002, **long))
    wait_until(lambda: has_checkpoint(results), process)
    os.kill(ranks_of(process)[-1], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("flare23: ")]
    assert lines == [next(line for line in lines if "was killed by SIGKILL" in line)]
    assert "Traceback" not in said
    assert not list(results.root.glob("store/training/*/failed.json"))


def test_a_training_without_cases_is_given_up_at_once(results):
    record = results.shard("preprocessed", MODEL, Shard(0, 1))
    record.write_text(record.read_text().splitlines()[0] + "\n")
    first = run(results)
    assert first.returncode == 1
    assert "student: none of its 0 cases holds a label" in first.stderr
    second = run(results, attempt=2)
    assert "given up in this run of the workflow: student: none of its 0 cases" in second.stderr


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_preprocessed_case_with_a_flipped_bit_is_not_learned_from(results, kind):
    """blosc2 reads other voxels, and did not end on one such file."""
    path = sorted(results.root.glob(f"store/preprocessed_{kind}/*/*.b2nd"))[1]
    flip(path, 131, 32)
    done = run(results)
    assert done.returncode == 1
    assert f"flare23: {path} is missing or damaged; run `flare23 verify --deep`, then the workflow" in done.stderr
    assert not list(results.root.glob("store/training/*/results"))


def test_cases_without_a_labeled_voxel_are_learned_from_too(tmp_path):
    results = prepare(tmp_path, cases=4, healthy=3)
    done = run(results)
    assert done.returncode == 0, done.stderr
    record = read_json(results.training(MODEL))
    assert (record["cases"], record["labels_unseen"]) == (4, ["absent"])


def test_weights_that_are_not_finite_are_never_saved():
    network = torch.nn.Linear(2, 2)
    trainer = SimpleNamespace(bare_network=network, _nan_error=lambda when: TrainingError(f"NaN {when}"))
    FlareTrainer._check_weights(trainer)
    with torch.no_grad():
        network.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match="weights are not finite"):
        FlareTrainer._check_weights(trainer)


def test_a_training_that_goes_on_gives_its_workers_other_seeds(monkeypatch):
    starts, noted = {}, []

    def note(*_, seeds, **__):
        noted.append(tuple(seeds))

    monkeypatch.setattr(sampling, "NonDetMultiThreadedAugmenter", note)
    for place in ((0, 0), (7, 0), (7, 20)):
        noted.clear()
        part = SimpleNamespace(
            workers=4, device=torch.device("cpu"), local_rank=0, current_epoch=place[0],
            epoch=SimpleNamespace(losses=[0.0] * place[1]), protocol=TrainingProtocol(seed=3),
        )  # fmt: skip
        part._fresh_seed = functools.partial(FlareTrainer._fresh_seed, part)
        for stream in (0, 1):
            sampling.endless(SimpleNamespace(), FlareTrainer._worker_seeds(part, stream), pinned=False)
        starts[place] = list(noted)
    drawn = [seed for workers in itertools.chain(*starts.values()) for seed in workers]
    assert len(drawn) == len(set(drawn)) == 3 * (4 + 2)


def rank_without_a_store():
    launch.torch.distributed.TCPStore = Mock(side_effect=RuntimeError)
    with contextlib.suppress(RuntimeError):
        launch._train_rank(0, SimpleNamespace(), 0, None)


@pytest.mark.parametrize(
    ("begin", "ignored"), [(functools.partial(become_worker, 0), STOPPING), (rank_without_a_store, [signal.SIGINT])]
)
def test_a_process_of_a_training_leaves_signals_to_it_and_ends_with_it(begin, ignored):
    child = os.fork()
    if child == 0:
        begin()
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
        ignores = all(signal.getsignal(one) == signal.SIG_IGN for one in ignored)
        os._exit(0 if ignores and number.value == signal.SIGKILL else 1)
    assert os.waitpid(child, 0)[1] == 0
