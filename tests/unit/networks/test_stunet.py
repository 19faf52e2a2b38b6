import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from flare23_lib.errors import ConfigError
from flare23_lib.networks import NETWORKS, Architecture, STUNetArchitecture
from flare23_lib.networks.stunet import STUNet, Upsample


def on_meta(name, num_classes):
    with torch.device("meta"):
        return STUNet(1, num_classes, **Architecture.named(name).to_json())


def small(pools=((2, 2, 2), (2, 2, 2)), **kwargs):
    torch.manual_seed(0)
    return STUNet(1, 3, depth=[1] * (len(pools) + 1), widths=[2, 4, 8][: len(pools) + 1], **kwargs).eval()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("stunet_small", 14_596_941),
        ("stunet_base", 58_262_669),
        ("stunet_large", 440_302_605),
        ("stunet_huge", 1_457_326_221),
    ],
)
def test_a_network_has_as_many_parameters_as_the_official_one(name, parameters):
    assert sum(p.numel() for p in on_meta(name, 105).parameters()) == parameters


def upsample_first(layer, x):
    """The official order; ours gives the same with fewer multiplications."""
    return layer.conv(F.interpolate(x, scale_factor=layer.scale, mode="nearest"))


def tera_macs(network):
    """Convolution multiply-accumulates of a 128x128x128 patch: half of what torch counts."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, 1, 128, 128, 128, device="meta"))
    return counter.get_total_flops() / 2e12


@pytest.mark.parametrize(
    ("name", "official", "ours"),
    [
        ("stunet_small", 0.129, 0.126),
        ("stunet_base", 0.506, 0.497),
        ("stunet_large", 3.804, 3.770),
        ("stunet_huge", 12.593, 12.522),
    ],
)
def test_a_network_is_as_much_work_as_the_official_one_or_less(name, official, ours, monkeypatch):
    network = on_meta(name, 105)
    assert round(tera_macs(network), 3) == ours
    # The official network has logits at all stages, and convolves after it upsamples.
    network.decoder.deep_supervision = True
    monkeypatch.setattr(Upsample, "forward", upsample_first)
    assert round(tera_macs(network), 3) == official


def test_parameters_have_the_official_names():
    block = ("conv1", "norm1", "conv2", "norm2")
    layers = [
        f"{part}.{stage}.0.{layer}"
        for part, stages in (("conv_blocks_context", 6), ("conv_blocks_localization", 5))
        for stage in range(stages)
        for layer in (*block, "conv3")
    ]
    layers += [
        f"{part}.{stage}.1.{layer}"
        for part, stages in (("conv_blocks_context", 6), ("conv_blocks_localization", 5))
        for stage in range(stages)
        for layer in block
    ]
    layers += [f"upsample_layers.{stage}.conv" for stage in range(5)]
    layers += [f"seg_outputs.{stage}" for stage in range(5)]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(on_meta("stunet_large", 15).state_dict()) == expected


def test_layers_have_the_official_shapes():
    weights = on_meta("stunet_base", 15).state_dict()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert shapes["conv_blocks_context.1.0.conv3.weight"] == (64, 32, 1, 1, 1)
    assert shapes["upsample_layers.0.conv.weight"] == (512, 512, 1, 1, 1)
    assert shapes["conv_blocks_localization.4.0.conv1.weight"] == (32, 64, 3, 3, 3)
    assert shapes["seg_outputs.0.weight"] == (15, 512, 1, 1, 1)
    assert shapes["seg_outputs.4.weight"] == (15, 32, 1, 1, 1)


def test_the_output_has_the_shape_of_the_input():
    assert small()(torch.zeros(2, 1, 8, 12, 4)).shape == (2, 3, 8, 12, 4)


def test_pooling_may_differ_between_axes():
    network = small(strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]], deep_supervision=True)
    shapes = [tuple(output.shape[2:]) for output in network(torch.zeros(1, 1, 4, 8, 12))]
    assert shapes == [(4, 8, 12), (4, 4, 6)]
    assert STUNetArchitecture.of([1, 1, 1], [2, 4, 8], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]).downsampling == (2, 4, 4)


def test_kernels_may_differ_between_stages():
    network = small(kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]])
    assert network.conv_blocks_context[0][0].conv1.kernel_size == (1, 3, 3)
    assert network.conv_blocks_localization[1][0].conv2.kernel_size == (1, 3, 3)
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_convolution_before_upsampling_equals_convolution_after():
    torch.manual_seed(0)
    layer = Upsample(4, 2, (1, 2, 3))
    x = torch.randn(1, 4, 3, 4, 5)
    after = layer.conv(F.interpolate(x, scale_factor=(1, 2, 3), mode="nearest"))
    assert torch.allclose(layer(x), after, atol=1e-6)


@torch.no_grad()
def test_deep_supervision_gives_the_highest_resolution_first():
    network = small()
    x = torch.randn(1, 1, 8, 8, 8)
    plain = network(x)
    network.decoder.deep_supervision = True
    outputs = network(x)
    assert isinstance(outputs, list)
    assert [output.shape[-1] for output in outputs] == [8, 4]
    assert torch.equal(outputs[0], plain)


def test_every_parameter_learns_with_deep_supervision():
    network = small(deep_supervision=True)
    sum(output.square().mean() for output in network(torch.randn(1, 1, 8, 8, 8))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_block_adds_its_input():
    network = small()
    block = network.conv_blocks_context[0][0]
    x = torch.randn(1, 1, 4, 4, 4)
    with torch.no_grad():
        block.norm2.weight.zero_()
        block.norm2.bias.zero_()
        assert torch.allclose(block(x), F.leaky_relu(block.conv3(x), 0.01))


def test_the_network_builds_from_plans_as_nnunet_does_it():
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    kwargs = Architecture.named("stunet_tiny").to_json()
    network = get_network_from_plans(
        "flare23_lib.networks.stunet.STUNet", kwargs, [], 1, 15, allow_init=True, deep_supervision=True
    )
    assert network.decoder.deep_supervision
    assert not network.seg_outputs[0].bias.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_table_builds(name):
    architecture = Architecture.named(name)
    patch = [2 * factor for factor in architecture.downsampling]
    logits = architecture.empty(2)(torch.empty(1, 1, *patch, device="meta"))
    assert logits.shape == (1, 2, *patch)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"depth": [1] * 4, "widths": [8] * 4, "strides": [[1, 1, 1]]}, "1 entries"),
        ({"depth": [1] * 4, "widths": [8] * 4, "strides": [[2, 2, 2]] * 4}, "first stage"),
        ({"depth": [1] * 4, "widths": [8] * 4, "strides": [[2, 2]] * 3}, "z, y, x"),
        ({"depth": [1] * 4, "widths": [8] * 4, "strides": 2}, "z, y, x"),
        ({"depth": [1, 1], "widths": [8, 16, 32]}, "stages"),
        ({"depth": [0, 0], "widths": [8, 16]}, "depth"),
        ({"depth": [1, 1], "widths": [8, 16.5]}, "widths"),
        ({"depth": [1], "widths": [8]}, "two stages"),
        ({"depth": [1, 1], "widths": [8, 16], "kernel_sizes": [[2, 3, 3], [3, 3, 3]]}, "odd"),
    ],
)
def test_values_that_make_no_network_are_refused(spec, words):
    with pytest.raises(ConfigError, match=words):
        STUNet(1, 2, **spec)
