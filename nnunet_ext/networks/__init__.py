"""Pure PyTorch networks with plain keyword arguments; knows nothing of the trainers.

Example:
    >>> import torch
    >>> from nnunet_ext.networks import PatchDiscriminator
    >>> discriminator = PatchDiscriminator(in_channels=3, spacing=(1.5, 1.5))
    >>> discriminator(torch.zeros(1, 3, 32, 32)).shape[:2]  # a decision in every place of a coarse map
    torch.Size([1, 1])
"""

import lazy_loader

# The names stand in __init__.pyi. Each is imported when it is used: timm and torchvision are slow to import.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
