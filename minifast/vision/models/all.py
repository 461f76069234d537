"""All architectures in one namespace."""
from minifast.vision.models import tvm, unet, xresnet
from minifast.vision.models.tvm import *
from minifast.vision.models.unet import *
from minifast.vision.models.xresnet import *

__all__ = [*tvm.__all__, *unet.__all__, *xresnet.__all__]
