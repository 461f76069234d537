"""All of minifast for pictures: `from minifast.vision.all import *`.

Written by tools/make_namespaces.py from the rooms' `__all__` (`make namespaces`).
"""
from minifast import basics as _basics
from minifast.basics import *
from minifast.callback import all as _callback_all
from minifast.callback.all import *
from torchvision.models import (
    AlexNet, ConvNeXt, DenseNet, EfficientNet, GoogLeNet, GoogLeNetOutputs, Inception3, InceptionOutputs, MaxVit,
    MNASNet, MobileNetV2, MobileNetV3, RegNet, ResNet, ShuffleNetV2, SqueezeNet, SwinTransformer, VGG,
    VisionTransformer, alexnet, convnext_base, convnext_large, convnext_small, convnext_tiny, densenet121,
    densenet161, densenet169, densenet201, efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3,
    efficientnet_b4, efficientnet_b5, efficientnet_b6, efficientnet_b7, efficientnet_v2_l, efficientnet_v2_m,
    efficientnet_v2_s, googlenet, inception_v3, maxvit_t, mnasnet0_5, mnasnet0_75, mnasnet1_0, mnasnet1_3,
    mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small, regnet_x_16gf, regnet_x_1_6gf, regnet_x_32gf,
    regnet_x_3_2gf, regnet_x_400mf, regnet_x_800mf, regnet_x_8gf, regnet_y_128gf, regnet_y_16gf, regnet_y_1_6gf,
    regnet_y_32gf, regnet_y_3_2gf, regnet_y_400mf, regnet_y_800mf, regnet_y_8gf, resnet101, resnet152, resnet18,
    resnet34, resnet50, resnext101_32x8d, resnext101_64x4d, resnext50_32x4d, shufflenet_v2_x0_5, shufflenet_v2_x1_0,
    shufflenet_v2_x1_5, shufflenet_v2_x2_0, squeezenet1_0, squeezenet1_1, swin_b, swin_s, swin_t, swin_v2_b,
    swin_v2_s, swin_v2_t, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn, vit_b_16, vit_b_32,
    vit_h_14, vit_l_16, vit_l_32, wide_resnet101_2, wide_resnet50_2,
)
from PIL import Image
from minifast.vision import models
from minifast.distributed import barrier, gather, is_distributed, num_distrib, rank0_first, rank_distrib
from minifast.vision.core import (
    AddMaskCodes, BadImageError, BBoxLabeler, BILINEAR, cifar_stats, get_annotations, image2tensor, imagenet_stats,
    LabeledBBox, load_image, mnist_stats, NEAREST, OpenImage, OpenMask, PILBase, PILImage, PILImageBW, PILMask,
    PointScaler, TensorBBox, TensorPoint, TensorPointCreate, to_image, ToTensor,
)
from minifast.vision.augment import (
    affine_grid, affine_mat, AffineCoordTfm, apply_perspective, aug_transforms, Brightness, Contrast, CropPad,
    cutout_gaussian, DeterministicDihedral, DeterministicDraw, DeterministicFlip, Dihedral, dihedral_mat,
    DihedralItem, find_coeffs, Flip, flip_mat, FlipItem, grayscale, hsv2rgb, HSVTfm, Hue, LightingTfm, mask_tensor,
    norm_apply_denorm, OldRandomCrop, PadMode, RandomCrop, RandomErasing, RandomResizedCrop, RandomResizedCropGPU,
    RandTransform, RatioResize, Resize, ResizeMethod, rgb2hsv, Rotate, rotate_mat, Saturation, setup_aug_tfms,
    SpaceTfm, Warp, Zoom, zoom_mat,
)
from minifast.vision.data import (
    bb_pad, BBoxBlock, BBoxLblBlock, clip_remove_empty, get_grid, ImageBlock, ImageDataLoaders, MaskBlock, PointBlock,
    SegmentationDataLoaders, show_batch, show_results,
)
from minifast.vision.utils import (
    check_folder, download_images, Finding, resize_image, resize_images, resize_to, search_images_bing,
    search_images_serpapi, verify_image, verify_images,
)
from minifast.vision.learner import (
    add_head, cnn_learner, create_body, create_cnn_model, create_head, create_timm_model, create_unet_model,
    create_vision_model, cut_model, default_split, has_pool_type, model_meta, plot_top_losses, TimmBody, unet_learner,
    vision_learner, WeightsNotFoundError,
)
from minifast.vision.models.create import (
    arch_from_name, arch_name, body_of, first_layer, meta_of, model_recipe, update_first_layer,
)
from minifast.vision.models.tvm import (
    AlexNet_Weights, ConvNeXt_Base_Weights, ConvNeXt_Large_Weights, ConvNeXt_Small_Weights, ConvNeXt_Tiny_Weights,
    DenseNet121_Weights, DenseNet161_Weights, DenseNet169_Weights, DenseNet201_Weights, EfficientNet_B0_Weights,
    EfficientNet_B1_Weights, EfficientNet_B2_Weights, EfficientNet_B3_Weights, EfficientNet_B4_Weights,
    EfficientNet_B5_Weights, EfficientNet_B6_Weights, EfficientNet_B7_Weights, EfficientNet_V2_L_Weights,
    EfficientNet_V2_M_Weights, EfficientNet_V2_S_Weights, GoogLeNet_Weights, Inception_V3_Weights, MaxVit_T_Weights,
    MNASNet0_5_Weights, MNASNet0_75_Weights, MNASNet1_0_Weights, MNASNet1_3_Weights, MobileNet_V2_Weights,
    MobileNet_V3_Large_Weights, MobileNet_V3_Small_Weights, RegNet_X_16GF_Weights, RegNet_X_1_6GF_Weights,
    RegNet_X_32GF_Weights, RegNet_X_3_2GF_Weights, RegNet_X_400MF_Weights, RegNet_X_800MF_Weights,
    RegNet_X_8GF_Weights, RegNet_Y_128GF_Weights, RegNet_Y_16GF_Weights, RegNet_Y_1_6GF_Weights,
    RegNet_Y_32GF_Weights, RegNet_Y_3_2GF_Weights, RegNet_Y_400MF_Weights, RegNet_Y_800MF_Weights,
    RegNet_Y_8GF_Weights, ResNet101_Weights, ResNet152_Weights, ResNet18_Weights, ResNet34_Weights, ResNet50_Weights,
    ResNeXt101_32X8D_Weights, ResNeXt101_64X4D_Weights, ResNeXt50_32X4D_Weights, ShuffleNet_V2_X0_5_Weights,
    ShuffleNet_V2_X1_0_Weights, ShuffleNet_V2_X1_5_Weights, ShuffleNet_V2_X2_0_Weights, SqueezeNet1_0_Weights,
    SqueezeNet1_1_Weights, Swin_B_Weights, Swin_S_Weights, Swin_T_Weights, Swin_V2_B_Weights, Swin_V2_S_Weights,
    Swin_V2_T_Weights, VGG11_BN_Weights, VGG11_Weights, VGG13_BN_Weights, VGG13_Weights, VGG16_BN_Weights,
    VGG16_Weights, VGG19_BN_Weights, VGG19_Weights, ViT_B_16_Weights, ViT_B_32_Weights, ViT_H_14_Weights,
    ViT_L_16_Weights, ViT_L_32_Weights, Wide_ResNet101_2_Weights, Wide_ResNet50_2_Weights,
)
from minifast.vision.models.unet import DynamicUnet, ResizeToOrig, UnetBlock
from minifast.vision.models.weights import (
    as_weights_file, cached_file, channels_of, check_fit, fetch_weights, fill_body, guarded_reads, named_weights,
    read_weights, state_of,
)
from minifast.vision.models.xresnet import (
    init_cnn, XResNet, xresnet101, xresnet152, xresnet18, xresnet18_deep, xresnet18_deeper, xresnet34, xresnet34_deep,
    xresnet34_deeper, xresnet50, xresnet50_deep, xresnet50_deeper, xresnext101, xresnext18, xresnext34, xresnext50,
    xse_resnet101, xse_resnet152, xse_resnet18, xse_resnet34, xse_resnet50, xse_resnext101, xse_resnext18,
    xse_resnext18_deep, xse_resnext18_deeper, xse_resnext34, xse_resnext34_deep, xse_resnext34_deeper, xse_resnext50,
    xse_resnext50_deep, xse_resnext50_deeper, xsenet154,
)

__all__ = [
    'add_head', 'AddMaskCodes', 'affine_grid', 'affine_mat', 'AffineCoordTfm', 'AlexNet', 'alexnet',
    'AlexNet_Weights', 'apply_perspective', 'arch_from_name', 'arch_name', 'as_weights_file', 'aug_transforms',
    'BadImageError', 'barrier', 'bb_pad', 'BBoxBlock', 'BBoxLabeler', 'BBoxLblBlock', 'BILINEAR', 'body_of',
    'Brightness', 'cached_file', 'channels_of', 'check_fit', 'check_folder', 'cifar_stats', 'clip_remove_empty',
    'cnn_learner', 'Contrast', 'ConvNeXt', 'convnext_base', 'ConvNeXt_Base_Weights', 'convnext_large',
    'ConvNeXt_Large_Weights', 'convnext_small', 'ConvNeXt_Small_Weights', 'convnext_tiny', 'ConvNeXt_Tiny_Weights',
    'create_body', 'create_cnn_model', 'create_head', 'create_timm_model', 'create_unet_model', 'create_vision_model',
    'CropPad', 'cut_model', 'cutout_gaussian', 'default_split', 'DenseNet', 'densenet121', 'DenseNet121_Weights',
    'densenet161', 'DenseNet161_Weights', 'densenet169', 'DenseNet169_Weights', 'densenet201', 'DenseNet201_Weights',
    'DeterministicDihedral', 'DeterministicDraw', 'DeterministicFlip', 'Dihedral', 'dihedral_mat', 'DihedralItem',
    'download_images', 'DynamicUnet', 'EfficientNet', 'efficientnet_b0', 'EfficientNet_B0_Weights', 'efficientnet_b1',
    'EfficientNet_B1_Weights', 'efficientnet_b2', 'EfficientNet_B2_Weights', 'efficientnet_b3',
    'EfficientNet_B3_Weights', 'efficientnet_b4', 'EfficientNet_B4_Weights', 'efficientnet_b5',
    'EfficientNet_B5_Weights', 'efficientnet_b6', 'EfficientNet_B6_Weights', 'efficientnet_b7',
    'EfficientNet_B7_Weights', 'efficientnet_v2_l', 'EfficientNet_V2_L_Weights', 'efficientnet_v2_m',
    'EfficientNet_V2_M_Weights', 'efficientnet_v2_s', 'EfficientNet_V2_S_Weights', 'fetch_weights', 'fill_body',
    'find_coeffs', 'Finding', 'first_layer', 'Flip', 'flip_mat', 'FlipItem', 'gather', 'get_annotations', 'get_grid',
    'GoogLeNet', 'googlenet', 'GoogLeNet_Weights', 'GoogLeNetOutputs', 'grayscale', 'guarded_reads', 'has_pool_type',
    'hsv2rgb', 'HSVTfm', 'Hue', 'Image', 'image2tensor', 'ImageBlock', 'ImageDataLoaders', 'imagenet_stats',
    'Inception3', 'inception_v3', 'Inception_V3_Weights', 'InceptionOutputs', 'init_cnn', 'is_distributed',
    'LabeledBBox', 'LightingTfm', 'load_image', 'mask_tensor', 'MaskBlock', 'MaxVit', 'maxvit_t', 'MaxVit_T_Weights',
    'meta_of', 'MNASNet', 'mnasnet0_5', 'MNASNet0_5_Weights', 'mnasnet0_75', 'MNASNet0_75_Weights', 'mnasnet1_0',
    'MNASNet1_0_Weights', 'mnasnet1_3', 'MNASNet1_3_Weights', 'mnist_stats', 'mobilenet_v2', 'MobileNet_V2_Weights',
    'mobilenet_v3_large', 'MobileNet_V3_Large_Weights', 'mobilenet_v3_small', 'MobileNet_V3_Small_Weights',
    'MobileNetV2', 'MobileNetV3', 'model_meta', 'model_recipe', 'models', 'named_weights', 'NEAREST',
    'norm_apply_denorm', 'num_distrib', 'OldRandomCrop', 'OpenImage', 'OpenMask', 'PadMode', 'PILBase', 'PILImage',
    'PILImageBW', 'PILMask', 'plot_top_losses', 'PointBlock', 'PointScaler', 'RandomCrop', 'RandomErasing',
    'RandomResizedCrop', 'RandomResizedCropGPU', 'RandTransform', 'rank0_first', 'rank_distrib', 'RatioResize',
    'read_weights', 'RegNet', 'regnet_x_16gf', 'RegNet_X_16GF_Weights', 'regnet_x_1_6gf', 'RegNet_X_1_6GF_Weights',
    'regnet_x_32gf', 'RegNet_X_32GF_Weights', 'regnet_x_3_2gf', 'RegNet_X_3_2GF_Weights', 'regnet_x_400mf',
    'RegNet_X_400MF_Weights', 'regnet_x_800mf', 'RegNet_X_800MF_Weights', 'regnet_x_8gf', 'RegNet_X_8GF_Weights',
    'regnet_y_128gf', 'RegNet_Y_128GF_Weights', 'regnet_y_16gf', 'RegNet_Y_16GF_Weights', 'regnet_y_1_6gf',
    'RegNet_Y_1_6GF_Weights', 'regnet_y_32gf', 'RegNet_Y_32GF_Weights', 'regnet_y_3_2gf', 'RegNet_Y_3_2GF_Weights',
    'regnet_y_400mf', 'RegNet_Y_400MF_Weights', 'regnet_y_800mf', 'RegNet_Y_800MF_Weights', 'regnet_y_8gf',
    'RegNet_Y_8GF_Weights', 'Resize', 'resize_image', 'resize_images', 'resize_to', 'ResizeMethod', 'ResizeToOrig',
    'ResNet', 'resnet101', 'ResNet101_Weights', 'resnet152', 'ResNet152_Weights', 'resnet18', 'ResNet18_Weights',
    'resnet34', 'ResNet34_Weights', 'resnet50', 'ResNet50_Weights', 'resnext101_32x8d', 'ResNeXt101_32X8D_Weights',
    'resnext101_64x4d', 'ResNeXt101_64X4D_Weights', 'resnext50_32x4d', 'ResNeXt50_32X4D_Weights', 'rgb2hsv', 'Rotate',
    'rotate_mat', 'Saturation', 'search_images_bing', 'search_images_serpapi', 'SegmentationDataLoaders',
    'setup_aug_tfms', 'show_batch', 'show_results', 'shufflenet_v2_x0_5', 'ShuffleNet_V2_X0_5_Weights',
    'shufflenet_v2_x1_0', 'ShuffleNet_V2_X1_0_Weights', 'shufflenet_v2_x1_5', 'ShuffleNet_V2_X1_5_Weights',
    'shufflenet_v2_x2_0', 'ShuffleNet_V2_X2_0_Weights', 'ShuffleNetV2', 'SpaceTfm', 'SqueezeNet', 'squeezenet1_0',
    'SqueezeNet1_0_Weights', 'squeezenet1_1', 'SqueezeNet1_1_Weights', 'state_of', 'swin_b', 'Swin_B_Weights',
    'swin_s', 'Swin_S_Weights', 'swin_t', 'Swin_T_Weights', 'swin_v2_b', 'Swin_V2_B_Weights', 'swin_v2_s',
    'Swin_V2_S_Weights', 'swin_v2_t', 'Swin_V2_T_Weights', 'SwinTransformer', 'TensorBBox', 'TensorPoint',
    'TensorPointCreate', 'TimmBody', 'to_image', 'ToTensor', 'unet_learner', 'UnetBlock', 'update_first_layer',
    'verify_image', 'verify_images', 'VGG', 'vgg11', 'vgg11_bn', 'VGG11_BN_Weights', 'VGG11_Weights', 'vgg13',
    'vgg13_bn', 'VGG13_BN_Weights', 'VGG13_Weights', 'vgg16', 'vgg16_bn', 'VGG16_BN_Weights', 'VGG16_Weights',
    'vgg19', 'vgg19_bn', 'VGG19_BN_Weights', 'VGG19_Weights', 'vision_learner', 'VisionTransformer', 'vit_b_16',
    'ViT_B_16_Weights', 'vit_b_32', 'ViT_B_32_Weights', 'vit_h_14', 'ViT_H_14_Weights', 'vit_l_16',
    'ViT_L_16_Weights', 'vit_l_32', 'ViT_L_32_Weights', 'Warp', 'WeightsNotFoundError', 'wide_resnet101_2',
    'Wide_ResNet101_2_Weights', 'wide_resnet50_2', 'Wide_ResNet50_2_Weights', 'XResNet', 'xresnet101', 'xresnet152',
    'xresnet18', 'xresnet18_deep', 'xresnet18_deeper', 'xresnet34', 'xresnet34_deep', 'xresnet34_deeper', 'xresnet50',
    'xresnet50_deep', 'xresnet50_deeper', 'xresnext101', 'xresnext18', 'xresnext34', 'xresnext50', 'xse_resnet101',
    'xse_resnet152', 'xse_resnet18', 'xse_resnet34', 'xse_resnet50', 'xse_resnext101', 'xse_resnext18',
    'xse_resnext18_deep', 'xse_resnext18_deeper', 'xse_resnext34', 'xse_resnext34_deep', 'xse_resnext34_deeper',
    'xse_resnext50', 'xse_resnext50_deep', 'xse_resnext50_deeper', 'xsenet154', 'Zoom', 'zoom_mat',
]
__all__ += _basics.__all__
__all__ += _callback_all.__all__
