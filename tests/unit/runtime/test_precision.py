"""Precision: 16 bit where the device computes in it, and never an emulation."""

import os
import subprocess
import sys

import pytest
import torch
from engines import write_work
from places import RECIPE

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import write_cases
from flare23_lib.errors import ConfigError
from flare23_lib.inference.segmentations import ModelUse, predict_validation
from flare23_lib.io.tables import read_csv
from flare23_lib.runtime import precision

CPU = torch.device("cpu")
GPU = torch.device("cuda")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture
def machine(monkeypatch):
    """A function that sets what the CPU reports, and whether oneDNN and the GPU take bfloat16."""

    def make(*instructions, onednn=True, gpu=True):
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu)

    return make


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_takes_bfloat16_on_a_cpu_with_instructions_for_it(machine, instruction):
    machine("avx2", instruction)
    assert precision.inference_precision("auto", CPU) == precision.training_precision("auto", CPU) == "bfloat16"


@pytest.mark.parametrize(
    ("instructions", "onednn"), [(["avx2"], True), (["avx512_f"], True), (["avx512_bf16"], False)]
)
def test_auto_takes_float32_on_a_cpu_that_would_emulate(machine, instructions, onednn):
    machine(*instructions, onednn=onednn)
    assert precision.inference_precision("auto", CPU) == precision.training_precision("auto", CPU) == "float32"


@pytest.mark.parametrize(("older", "taken"), [(True, "bfloat16"), (False, "float32"), (None, "float32")])
def test_auto_knows_the_cpu_by_what_an_older_pytorch_reports(machine, monkeypatch, older, taken):
    machine()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: older, raising=False)
    if older is None:
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert precision.inference_precision("auto", CPU) == precision.training_precision("auto", CPU) == taken


@pytest.mark.parametrize(("isa", "taken"), [("AVX2", "float32"), ("AVX512_CORE_VNNI", "float32"),
                                            ("AVX512_CORE_BF16", "bfloat16"), ("default", "bfloat16")])  # fmt: skip
def test_auto_minds_the_limit_that_the_user_sets_for_onednn(machine, monkeypatch, isa, taken):
    machine("avx512_bf16")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert precision.inference_precision("auto", CPU) == taken


def test_auto_on_a_gpu_is_nnunets_own_in_training_and_bfloat16_in_inference(machine):
    machine()
    assert precision.training_precision("auto", GPU) == "mixed"
    assert precision.inference_precision("auto", GPU) == "bfloat16"
    machine(gpu=False)
    assert precision.training_precision("auto", GPU) == "mixed"
    assert precision.inference_precision("auto", GPU) == "float16"


def test_what_is_named_is_taken_where_the_device_computes_in_it(machine):
    machine("avx512_bf16")
    assert [precision.training_precision(name, CPU) for name in ("mixed", "float32", "bfloat16")] == [
        "mixed", "float32", "bfloat16",
    ]  # fmt: skip
    assert precision.inference_precision("float16", GPU) == "float16"


@pytest.mark.parametrize("function", [precision.inference_precision, precision.training_precision])
@pytest.mark.parametrize(("device", "what"), [(CPU, "CPU"), (GPU, "GPU")])
def test_bfloat16_by_name_is_refused_where_it_would_be_emulated(machine, function, device, what):
    machine("avx2", gpu=False)
    with pytest.raises(
        ConfigError,
        match=rf"^precision bfloat16: this {what} only emulates it; use auto \(--precision auto\)",
    ):
        function("bfloat16", device)


def test_float16_by_name_is_refused_on_a_cpu(machine):
    machine("avx512_bf16")
    with pytest.raises(
        ConfigError,
        match=r"^precision float16: this CPU only emulates it; use auto \(--precision auto\)",
    ):
        precision.inference_precision("float16", CPU)


def test_a_run_on_this_machine_is_refused_before_its_first_job(machine):
    machine("avx2")
    Config.load([RECIPE], {"device": "cpu"}).check_precision()
    named = {"device": "cpu", "models": {"student": {"training": {"precision": "bfloat16"}}}}
    with pytest.raises(
        ConfigError, match=r"^models\.student\.training\.precision bfloat16: this CPU only emulates it"
    ):
        Config.load([RECIPE], named).check_precision()
    machine("avx2", "avx512_bf16")
    Config.load([RECIPE], named).check_precision()


def test_an_avx2_machine_that_is_emulated_has_no_bfloat16():
    code = (
        "import torch; from flare23_lib.runtime.precision import *; print(computes_in_bfloat16(torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | AVX2, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_cohort_that_is_finished_on_a_machine_of_another_kind_is_not_computed_twice(tmp_path, monkeypatch, caplog):
    results = Results(tmp_path / "results")
    cases = write_work(results, "student", 4)
    inference = Config.load([RECIPE]).inference_settings("student")

    def predict(cases):
        write_cases(results.cases, cases)
        record = results.shard("predictions", "student", Shard())
        predict_validation(results, ModelUse("student", inference, "cpu"), Shard(), record)
        return {row["case"]: results.metadata(row["file"])["precision"] for row in read_csv(record)}

    with monkeypatch.context() as without:
        without.setattr(precision, "computes_in_bfloat16", lambda device: False)
        assert predict(cases[:2]) == {"case0": "float32", "case1": "float32"}
    here = precision.inference_precision("auto", CPU)
    with caplog.at_level("INFO"):
        assert predict(cases) == {"case0": "float32", "case1": "float32", "case2": here, "case3": here}
    assert "4 cases, 2 of them to be segmented" in caplog.text
