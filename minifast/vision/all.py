"""All of minifast for pictures: `from minifast.vision.all import *`."""
from minifast.basics import *
from minifast.callback.all import *
from torchvision.models import (
    AlexNet as AlexNet, ConvNeXt as ConvNeXt, DenseNet as DenseNet, EfficientNet as EfficientNet,
    GoogLeNet as GoogLeNet, GoogLeNetOutputs as GoogLeNetOutputs, Inception3 as Inception3,
    InceptionOutputs as InceptionOutputs, MaxVit as MaxVit, MNASNet as MNASNet, MobileNetV2 as MobileNetV2,
    MobileNetV3 as MobileNetV3, RegNet as RegNet, ResNet as ResNet, ShuffleNetV2 as ShuffleNetV2,
    SqueezeNet as SqueezeNet, SwinTransformer as SwinTransformer, VGG as VGG, VisionTransformer as VisionTransformer,
)
from PIL import Image as Image
from minifast.vision import models as models
from minifast.distributed import *
from minifast.vision.core import *
from minifast.vision.augment import *
from minifast.vision.data import *
from minifast.vision.utils import *
from minifast.vision.learner import *
from minifast.vision.models.create import *
from minifast.vision.models.tvm import *
from minifast.vision.models.unet import *
from minifast.vision.models.weights import *
from minifast.vision.models.xresnet import *
