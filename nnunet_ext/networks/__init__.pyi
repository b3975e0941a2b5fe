from .cascade import CascadedNetwork
from .coarse_to_fine import CoarseToFineNetwork, SliceNetwork
from .dual import DualNetwork, residual_counterpart
from .multi_level import AtrousNetwork, MultiLevelNetwork
from .patch_discriminator import PatchDiscriminator
from .resnet18 import ResNet18
from .vgg19_unet import VGG19UNet

__all__ = [
    "AtrousNetwork",
    "CascadedNetwork",
    "CoarseToFineNetwork",
    "DualNetwork",
    "MultiLevelNetwork",
    "PatchDiscriminator",
    "ResNet18",
    "SliceNetwork",
    "VGG19UNet",
    "residual_counterpart",
]
