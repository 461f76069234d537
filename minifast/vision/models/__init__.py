"""Architectures: torchvision's (`models.resnet18`), XResNets (`models.xresnet.xresnet18`), U-Nets (`models.unet`)."""
from minifast.vision.models import tvm, unet, xresnet
from minifast.vision.models.tvm import *  # noqa: F403  as in `all`: this package is also the namespace of its rooms

__all__ = ['tvm', 'unet', 'xresnet', *tvm.__all__]
