"""What `import *` gives: every name that scripts and notebooks rely on, nothing stale, and no slow import."""
from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPACES = {'torch_basics': 'minifast.losses', 'data.all': 'minifast.data.block',
          'callback.all': 'minifast.callback.mixup', 'basics': 'minifast.learner', 'vision.all': 'minifast.vision.data'}
"""The namespaces, each with one of its rooms."""

RELIED_ON = """
torch nn Path np pd F partial plt defaults Tensor random matplotlib array re SimpleNamespace os math models warnings
ndarray deepcopy string json scipy pickle shutil defaultdict OrderedDict Callable Counter mimetypes Any warn
IN_COLAB io Tuple itemgetter itertools Optional requests time Iterable copy zip_longest tarfile inspect reduce
functools ProcessPoolExecutor
"""
"""Not ours, but expected after `from minifast.vision.all import *` (counted over 337 public files). Left out: `Param`,
which fastcore itself has given up."""

USED = """
Resize get_image_files Learner ImageDataLoaders error_rate DataBlock Callback vision_learner ImageBlock RandomSplitter
PILImage L accuracy aug_transforms CategoryBlock resnet18 load_learner untar_data URLs resnet34 Normalize parent_label
cnn_learner unet_learner imagenet_stats RandomResizedCrop DataLoaders CrossEntropyLossFlat
ClassificationInterpretation store_attr set_seed resnet50 verify_images tensor Adam TensorImage SaveModelCallback
download_images IntToFloatTensor DataLoader ColReader TransformBlock accuracy_multi Datasets show_image Recorder
Flatten patch ToTensor GrandparentSplitter Module delegates TfmdDL resize_images ranger Pipeline
LabelSmoothingCrossEntropy PILImageBW default_device MaskBlock SGD FuncSplitter IndexSplitter MSELossFlat Metric
get_grid MultiCategoryBlock TensorBase PILMask ResizeMethod Categorize FlipItem first params Transform
CancelFitException GradientAccumulation ifnone to_detach CancelBatchException NormType OptimWrapper TrackerCallback
SegmentationDataLoaders WandbCallback RegexLabeller progress_bar ConvLayer Rotate create_head create_body get_files
EarlyStoppingCallback RegressionBlock slide valley TfmdLists Interpretation PadMode RandTransform Zoom RandomCrop Flip
RandomResizedCropGPU Warp CropPad setup_aug_tfms AffineCoordTfm Dihedral RandomErasing CSVLogger CancelValidException
CancelStepException CancelTrainException CancelEpochException MixedPrecision hook_outputs num_features_model
total_params ActivationStats hook_output MixUp SchedCos ParamScheduler combine_scheds SchedNo SchedLin SchedExp
minimum steep TensorBoardCallback GradientClip show_batch ColSplitter get_c broadcast_vec Category CategoryMap
ItemGetter noop SigmoidRange Mish LinBnDrop NoneReduce BatchNorm SequentialEx SimpleSelfAttention in_channels
sequential AdaptiveConcatPool2d Embedding MergeLayer PixelShuffle_ICNR ResBlock AvgPool SEModule trunc_normal_
AvgMetric BCEWithLogitsLossFlat BaseLoss LabelSmoothingCrossEntropyFlat top_k_accuracy AccumMetric Dice DiceMulti
LossMetrics F1ScoreMulti F1Score Precision Recall FBetaMulti PrecisionMulti RecallMulti mae mse RocAuc Lookahead RAdam
Optimizer Lamb RMSProp TensorCategory TensorMask flatten_check to_np apply_init trainable_params rank_distrib
show_title subplots TensorImageBase TensorMultiCategory display_df image2tensor AddMaskCodes TensorPoint TensorBBox
PointBlock BBoxBlock BBoxLblBlock default_split model_meta has_pool_type ResizeToOrig xresnet50 xresnet18 xresnet34
xresnet101 range_of fastuple listify merge GetAttr num_cpus tuplify using_attr parallel call_parse is_listy Config
save_pickle ItemTransform resnet152 vgg16_bn resnet101 alexnet AdaptiveAvgPool AvgLoss Brightness BypassNewMeta
CohenKappa CollBase Contrast CutMix DiceLoss DisplayedTransform FetchPredsCallback Float FocalLoss Hue Inf
InplaceTransform InstanceNorm Int JaccardCoeff L1LossFlat LRFinder Larc MaxPool MultiCategorize MultiCategory
OneHotEncode PILBase ProgressCallback QHAdam RatioResize Saturation SchedPoly Self ShortEpochCallback SuggestionMethod
TerminateOnNaNCallback TitledFloat TitledStr TrainEvalCallback UnetBlock ValueMetric adam_step attrdict average_grad
average_sqr_grad bool_arg children_and_parameters cifar_stats coll_repr create_timm_model cutout_gaussian detuplify
event find_bs flatten_model foreground_acc get_class get_empty_df get_random_states getattrs groupby ignore_exceptions
init_cnn init_default init_linear ismin_torch join_path_file l2_reg lamb_step larc_layer_lr larc_step load_image
load_pickle master_bar mk_class momentum_step noops num_distrib properties qhadam_step radam_step reduce_loss
resize_to rms_prop_step rmse sched_cos sched_lin set_random_states sgd_step show_results show_titled_image
skm_to_fastai step_stat test_eq to_concat to_cpu to_device to_float to_image true urlread weight_decay xresnet152
"""
"""Names that public scripts, notebooks and plugins use from fastai.vision.all."""

HEAVY = {'matplotlib', 'pandas', 'torchmetrics', 'sklearn', 'scipy', 'IPython', 'timm', 'tensorboard', 'wandb',
         'mlflow', 'cv2', 'simplejpeg', 'requests', 'torch._dynamo', 'torch.distributed.fsdp', 'ipywidgets'}


def given(space: str) -> dict:
    """What a star import of `minifast.<space>` gives, by name."""
    names: dict = {}
    exec(f'from minifast.{space} import *', names)
    del names['__builtins__']
    return names


@pytest.mark.parametrize('space', SPACES)
def test_namespace_gives_its_rooms_lists_and_no_stray_name(space):
    """Each public name of a room arrives as it is there, and nothing that a room only uses itself comes along."""
    names, room = given(space), importlib.import_module(SPACES[space])
    assert all(names[name] is getattr(room, name) for name in room.__all__)
    listed, namespace = set(), importlib.import_module(f'minifast.{space}')
    for module in [m for m in list(sys.modules.values()) if isinstance(m, ModuleType)
                   and m.__name__.startswith('minifast.')]:
        listed |= set(getattr(module, '__all__', ()))
    stray = {name: thing for name, thing in names.items() if name not in listed}
    assert not {name for name in names if name.startswith('_')} and 'annotations' not in names
    assert all((getattr(thing, '__module__', None) or thing.__name__).startswith(('torch', 'PIL', 'minifast.vision.mo'))
               for thing in stray.values()), stray
    assert Path(namespace.__file__).read_text(encoding='utf-8').count('\n') < 50


def starred(module: str) -> set[str]:
    """The rooms that a namespace takes all names of, itself or through another namespace."""
    tree = ast.parse(Path(importlib.import_module(module).__file__).read_text(encoding='utf-8'))
    found = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.names[0].name == '*'}
    return found.union(*map(starred, found & {f'minifast.{space}' for space in SPACES}))


def test_no_two_rooms_list_one_name_for_different_things():
    """Else the order of a namespace's lines would decide which of them scripts get."""
    things: dict[str, dict] = {}
    for room in map(importlib.import_module, starred('minifast.vision.all') - {'minifast.imports'}):
        for name in getattr(room, '__all__', ()):
            things.setdefault(name, {})[id(getattr(room, name))] = room.__name__
    assert len(things) > 700
    twice = {name for name, found in things.items() if len(found) > 1}
    assert twice == {'show_results'}  # as in fastai, that of pictures takes the place of the learner's


def test_vision_all_gives_what_scripts_rely_on():
    """A script whose only star import is ours finds every name it found before."""
    names = given('vision.all')
    assert not [name for name in f'{RELIED_ON} {USED}'.split() if name not in names]


def test_smaller_namespaces_are_parts_of_the_larger():
    """imports < torch_basics < data.all < basics < vision.all."""
    public = {space: set(given(space)) for space in ['imports', *SPACES]}
    for small, large in [('imports', 'torch_basics'), ('torch_basics', 'data.all'), ('data.all', 'basics'),
                         ('basics', 'vision.all'), ('callback.all', 'vision.all')]:
        assert public[small] <= public[large], sorted(public[small] - public[large])


def modules_after(statement: str) -> set[str]:
    """The names in `sys.modules` of a fresh process that ran `statement`."""
    code = f'{statement}\nimport sys\nprint("\\n".join(sys.modules))'
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_nothing_heavy_beyond_torch_and_torchvision():
    """Plotting, tables, metrics libraries and trackers are imported at first use, not at import."""
    loaded = modules_after('from minifast.vision.all import *') - modules_after('import torch, torchvision')
    assert not loaded & HEAVY, sorted(loaded & HEAVY)


def test_import_minifast_alone_is_free():
    """`import minifast` (as `minifast --version` and packaging tools do) does not load torch."""
    assert 'torch' not in modules_after('import minifast')


def test_lazy_module_behaves_as_the_module_it_stands_for():
    """A lazy module reads, writes and lists the real module's attributes."""
    import pandas

    from minifast.imports import pd, plt
    assert pd.DataFrame is pandas.DataFrame and 'read_csv' in dir(pd)
    assert isinstance(pd.Series([1]), pd.Series)
    figure, axes = plt.subplots(1, 2)
    assert len(axes) == 2 and plt.gcf() is figure
    before = pandas.options.display.max_rows
    pd.options.display.max_rows = 7
    assert pandas.options.display.max_rows == 7
    pandas.options.display.max_rows = before
