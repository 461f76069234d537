"""Names that third-party packages import from fastai's modules, found by running 36 of them."""
NAMES = {
    'basics': 'Callback defaults join_path_file store_attr detuplify ignore_exceptions',
    'callback.core': 'Callback TrainEvalCallback event CancelBatchException CancelStepException CancelEpochException '
                     'CancelTrainException CancelValidException CancelFitException get_random_states set_random_states',
    'callback.fp16': 'MixedPrecision',
    'callback.hook': 'total_params',
    'callback.mixup': 'reduce_loss MixUp',
    'callback.progress': 'ProgressCallback CSVLogger',
    'callback.tracker': 'SaveModelCallback TrackerCallback',
    'callback.wandb': 'WandbCallback',
    'callback.tensorboard': 'TensorBoardCallback tensorboard_log',
    'callback.schedule': 'ParamScheduler SchedCos SchedExp SchedNo SuggestionMethod _Annealer combine_scheds '
                         'sched_cos sched_lin',
    'callback.all': 'MixUp GradientClip',
    'data.all': 'DataBlock',
    'data.block': 'TransformBlock',
    'data.core': 'DataLoader DataLoaders TfmdDL show_batch show_results',
    'data.load': 'DataLoader',
    'data.transforms': 'IndexSplitter IntToFloatTensor Normalize',
    'layers': 'NoneReduce Flatten ConvLayer NormType AvgPool MaxPool AdaptiveAvgPool SEModule SimpleSelfAttention',
    'learner': 'AvgMetric Metric Learner Recorder Callback CancelFitException CancelValidException defaults '
               'load_learner _cast_tensor _maybe_item',
    'losses': 'CrossEntropyLossFlat LabelSmoothingCrossEntropy LabelSmoothingCrossEntropyFlat',
    'metrics': 'AccumMetric',
    'optimizer': 'Optimizer Lookahead _update weight_decay l2_reg average_grad average_sqr_grad step_stat sgd_step '
                 'momentum_step rms_prop_step adam_step radam_step qhadam_step larc_step lamb_step larc_layer_lr',
    'torch_basics': 'ismin_torch',
    'torch_core': 'Module TensorBase TensorImage TensorImageBase TensorMask TensorCategory TensorMultiCategory tensor '
                  'default_device flatten_check trainable_params find_bs to_detach to_float to_cpu unsqueeze '
                  'ismin_torch notmax_torch batch_to_samples show_title show_image subplots doc',
    'vision.augment': 'AffineCoordTfm RandomResizedCropGPU Flip Rotate Warp Zoom Dihedral CropPad Resize RandomCrop '
                      'RandomResizedCrop RatioResize ResizeMethod PadMode cutout_gaussian setup_aug_tfms _slice '
                      '_get_sz _pad_modes',
    'vision.core': 'PILBase PILImage PILMask TensorBBox TensorImage TensorMask TensorPoint AddMaskCodes',
    'vision.data': 'ImageDataLoaders',
    'vision.models.xresnet': 'init_cnn',
    'vision.models.unet': 'DynamicUnet',
    'vision.all': 'F nn np torch deepcopy warnings OrderedDict Callable L Pipeline RandTransform Module params '
                  'listify delegates store_attr mk_class in_channels num_features_model apply_init create_body '
                  'trunc_normal_ rank_distrib SigmoidRange LinBnDrop AdaptiveConcatPool2d Brightness Contrast Hue '
                  'Saturation imagenet_stats SchedLin AvgLoss Image string random time ProcessPoolExecutor dispatch '
                  'matplotlib',
}
