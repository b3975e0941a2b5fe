"""U-Net with VGG-19: the encoder is that of torchvision, the decoder its mirror image."""

import pytest
import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from nnunet_ext.networks.cascade import CascadedNetwork
from nnunet_ext.networks.vgg19_unet import VGG19Encoder, VGG19UNet, colours_of

NARROW = (4, 4, 8, 8, 8)


@pytest.fixture(scope="module")
def imagenet():
    """The convolutions of torchvision's VGG-19 with random weights, and their state dict."""
    torch.manual_seed(0)
    layers = make_layers(cfgs["E"])
    return layers, {f"features.{name}": value for name, value in layers.state_dict().items()}


def block_outputs(layers, x):
    """What torchvision's sequence has before each of its poolings."""
    outputs = []
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            outputs.append(x)
        x = layer(x)
    return outputs


@torch.no_grad()
def test_the_encoder_is_that_of_torchvision(imagenet):
    layers, weights = imagenet
    encoder = VGG19Encoder(colours_of(3))
    encoder.load_imagenet(weights)
    x = torch.randn(1, 3, 32, 48)
    for got, expected in zip(encoder(x), block_outputs(layers, x), strict=True):
        assert torch.allclose(got, expected, atol=1e-6)
    assert sum(p.numel() for p in encoder.parameters()) == sum(p.numel() for p in layers.parameters())


@pytest.mark.parametrize(
    ("images", "maps", "seen"),
    [
        (1, 0, (0, 0, 0)),  # the slice three times
        (2, 0, (0, 1, 0)),  # T1-DUAL: in, out, in
        (1, 1, (0, 0, 1)),  # the slice twice and the map
        (2, 1, (0, 1, 2)),  # T1-DUAL and the map
        (3, 0, (0, 1, 2)),
    ],
)
@torch.no_grad()
def test_channels_become_colours_as_in_the_paper(imagenet, images, maps, seen):
    layers, weights = imagenet
    encoder = VGG19Encoder(colours_of(images, maps))
    encoder.load_imagenet(weights)
    x = torch.randn(1, images + maps, 32, 32)
    rgb = torch.stack([x[:, i] for i in seen], 1)
    assert torch.allclose(encoder(x)[0], block_outputs(layers, rgb)[0], atol=1e-6)


@torch.no_grad()
def test_several_maps_share_blue(imagenet):
    layers, weights = imagenet
    encoder = VGG19Encoder(colours_of(1, 5))
    encoder.load_imagenet(weights)
    x = torch.randn(1, 6, 32, 32)
    rgb = torch.stack([x[:, 0], x[:, 0], x[:, 1:].mean(1)], 1)
    assert torch.allclose(encoder(x)[0], block_outputs(layers, rgb)[0], atol=1e-6)


@torch.no_grad()
def test_several_images_share_the_colours(imagenet):
    layers, weights = imagenet
    encoder = VGG19Encoder(colours_of(4))
    encoder.load_imagenet(weights)
    x = torch.randn(1, 4, 32, 32)
    rgb = torch.stack([(x[:, 0] + x[:, 3]) / 2, x[:, 1], x[:, 2]], 1)
    assert torch.allclose(encoder(x)[0], block_outputs(layers, rgb)[0], atol=1e-6)
    encoder = VGG19Encoder(colours_of(3, 2))
    encoder.load_imagenet(weights)
    x = torch.randn(1, 5, 32, 32)
    rgb = torch.stack([(x[:, 0] + x[:, 2]) / 2, x[:, 1], (x[:, 3] + x[:, 4]) / 2], 1)
    assert torch.allclose(encoder(x)[0], block_outputs(layers, rgb)[0], atol=1e-6)


def test_weights_of_another_network_are_refused(imagenet):
    _, weights = imagenet
    encoder = VGG19Encoder(colours_of(3))
    with pytest.raises(ValueError, match=r"features\.34 should have a weight and a bias"):
        encoder.load_imagenet({n: w for n, w in weights.items() if "34" not in n})
    with_norm = {
        f"features.{name}": value for name, value in make_layers(cfgs["E"], batch_norm=True).state_dict().items()
    }
    with pytest.raises(ValueError, match=r"features\.2 should have"):
        encoder.load_imagenet(with_norm)
    with pytest.raises(ValueError, match=r"features\.0 should have .* of \[4, 3, 3, 3\] and \[4\]"):
        VGG19Encoder(colours_of(3), NARROW).load_imagenet(weights)


def test_the_decoder_mirrors_the_encoder():
    network = VGG19UNet(colours_of(1), 2, NARROW)

    def widths(stage):
        return [layer.out_channels for layer in stage if isinstance(layer, nn.Conv2d)]

    down = [widths(block) for block in network.encoder.blocks]
    assert [len(block) for block in down] == [2, 2, 4, 4, 4]
    assert [widths(stage) for stage in network.stages] == down[-2::-1]
    assert network.head.kernel_size == (1, 1)


@pytest.mark.parametrize("shape", [(16, 16), (32, 48), (40, 57)])
def test_any_size_gives_logits_of_that_size_and_every_weight_learns(shape):
    torch.manual_seed(0)
    network = VGG19UNet(colours_of(1, 1), 3, NARROW)
    output = network(torch.randn(2, 2, *shape))
    assert output.shape == (2, 3, *shape)
    output.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.encoder.blocks[0][0].weight.grad.abs().max() > 0


def test_a_cascade_of_them_compiles_without_graph_breaks():
    torch.manual_seed(0)
    network = CascadedNetwork(VGG19UNet(colours_of(1), 2, NARROW), VGG19UNet(colours_of(1, 2), 2, NARROW))
    x = torch.randn(1, 1, 24, 40)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), network(x), atol=1e-5)


def test_blocks_of_unlike_widths_fit_and_biases_start_at_zero():
    network = VGG19UNet([(0, 1), (1, 1), (2, 1)], 2, (2, 3, 4, 5, 6))
    assert network(torch.randn(1, 3, 32, 48)).shape == (1, 2, 32, 48)
    for layer in network.modules():
        if getattr(layer, "bias", None) is not None:
            assert not layer.bias.any()
