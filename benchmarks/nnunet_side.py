"""nnU-Net's own predictor on the weights of one of our bundles: what the inference benchmarks compare with.

The predictor is set up with `manual_initialization`, as nnU-Net's look-up of a trainer by name imports packages that
inference does not need. nnU-Net also imports SimpleITK, which it only uses to read and write files. Where that is not
installed, an empty module of its name (see `gpu.py`) is enough for the rest, and `reader_writer` takes nibabel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import SimpleITK
import torch
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from flare23_lib.config.settings import TrainingSettings
from flare23_lib.inference.bundle import Bundle
from flare23_lib.inference.model import Model
from flare23_lib.nnunet.plans import CONFIGURATION, dataset_json, plans

DEFAULT_RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
"""What nnU-Net's planner writes into plans: cubic for images, linear for logits, nearest along z where voxels are
strongly anisotropic. Our plans name its torch resampling instead, trilinear along all three axes."""


def plans_of(model: Model, default_resampling: bool) -> dict:
    """Return nnU-Net's plans for a bundle."""
    intensity = model.intensity
    made = plans(
        TrainingSettings.from_json(
            {
                "network": model.network.to_json(),
                "patch_size": list(model.patch_size),
                "spacing": list(model.spacing),
                "intensity": {key: getattr(intensity, key) for key in ("low", "high", "mean", "std")},
                "label_values": list(model.values[1:]),
                "orientation": model.orientation,
                "ignore_label": False,
                "training": {"batch_size": 2},
            }
        )
    )
    if default_resampling:
        made["configurations"][CONFIGURATION] |= DEFAULT_RESAMPLING
    return made


def reader_writer() -> BaseReaderWriter:
    """Return nnU-Net's own reader and writer of files; the one of nibabel where SimpleITK is an empty module."""
    return SimpleITKIO() if hasattr(SimpleITK, "ReadImage") else NibabelIO()


class NNUNet:
    """nnU-Net's predictor with a bundle's weights.

    Args:
        bundle: the model.
        device: "cpu" or "cuda"; on a GPU nnU-Net computes in float16, elsewhere in float32.
        step: of the windows.
        mirroring: mirror along the model's axes.
        default_resampling: resample as nnU-Net's planner has it, not as our plans do.
    """

    def __init__(
        self, bundle: Bundle, device: str, step: float, mirroring: bool = False, default_resampling: bool = False
    ) -> None:
        model = bundle.model
        self._dataset = dataset_json(model.names[1:], False, [])
        self._plans = PlansManager(plans_of(model, default_resampling))
        self._configuration = self._plans.get_configuration(CONFIGURATION)
        self._predictor = nnUNetPredictor(
            tile_step_size=step, use_mirroring=mirroring, device=torch.device(device), allow_tqdm=False,
            perform_everything_on_device=device != "cpu",
        )  # fmt: skip
        self._predictor.manual_initialization(
            bundle.build_network(), self._plans, self._configuration, [dict(bundle.state_dict)], self._dataset,
            "", model.mirror_axes,
        )  # fmt: skip

    def segment(self, array: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, dict[str, float]]:
        """Return label indices (z, y, x) of a CT (z, y, x; spacing in mm), and seconds per phase."""
        clock = [time.perf_counter()]
        preprocessor = self._configuration.preprocessor_class(verbose=False)
        properties = {"spacing": list(spacing)}
        data, _, properties = preprocessor.run_case_npy(
            array[None].astype(np.float32), None, properties, self._plans, self._configuration, self._dataset
        )
        clock.append(time.perf_counter())
        logits = self._predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
        clock.append(time.perf_counter())
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self._plans, self._configuration, self._plans.get_label_manager(self._dataset), properties,
            num_threads_torch=torch.get_num_threads(),
        )  # fmt: skip
        clock.append(time.perf_counter())
        return labels, dict(zip(("resample", "windows", "labels"), np.diff(clock).tolist(), strict=True))
