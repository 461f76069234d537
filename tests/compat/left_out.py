"""What is left out of fastai's surface, each with the reason."""
from __future__ import annotations

_GAN = 'no room for GANs: two optimizers are a callback of a few lines (tests/compat/scripts/train_gan.py)'
_NOT_THERE = 'fastai 2.8.12 does not have it either'
_INTERNAL = 'an inner function of fastai, used by one source'

LEFT_OUT = {
    # names
    **dict.fromkeys(('AdaptiveGANSwitcher', 'AdaptiveLoss', 'GANLearner', 'accuracy_thresh_expand', 'gan_critic'), _GAN),
    # attributes
    'GANLearner.from_learners': _GAN, 'Learner.gan_trainer': _GAN,
    'DataLoaders.append': _NOT_THERE, 'Path.read': _NOT_THERE,
    # keyword arguments
    'AdaptiveGANSwitcher(critic_thresh=)': _GAN,
    **{f'GANLearner.from_learners({name}=)': _GAN for name in ('cbs', 'opt_func', 'show_img', 'switcher', 'weights_gen')},
    **dict.fromkeys(('SGD(momentum=)', 'cnn_learner(config=)', 'verify_images(delete=)', 'verify_images(max_size=)',
                     'DataLoader.one_batch(batches_ahead=)', 'DataLoaders.show_batch(rows=)', 'Learner.fit(epochs=)',
                     'Learner.fit_one_cycle(max_lr=)', 'Learner.load(weights_only=)', 'Learner.show_results(rows=)',
                     'Recorder.plot_lr_find(lr_min=)', 'Recorder.plot_lr_find(lr_steep=)'), _NOT_THERE),
    # names with one source
    **dict.fromkeys(('basic_critic', 'basic_generator', 'generate_noise'), _GAN),
    **dict.fromkeys(('_FakeLoader', '_fa_rebuild_qtensor', '_fa_rebuild_tensor', '_get_sz_change_idxs'),
                    _INTERNAL),
    'ImageClassifierCleaner': 'in minifast.vision.widgets, as in fastai, and not in vision.all',
    # re-exports
    **dict.fromkeys(('_default_meta', '_loop'), _INTERNAL),
    **dict.fromkeys(('ConvLearner', '_format_config', '_format_metadata', 'dataset', 'setup_book'),
                    'of another package, or of fastai 1'),
    'Param': 'of fastcore.script, for command lines',
}
"""Line of the surface report -> why it is missing."""


def reason_for(line: str) -> str | None:
    """The reason why a line of the surface report is missing, None where there is none."""
    return LEFT_OUT.get(line.split(' ')[0])


# ---------------------------------------------------------------- names of fastai.vision.all

_FASTCORE = 'a helper of fastcore, which no vision script that was counted uses: import it from there'
_TEXT = 'for text'
_HALF = 'mixed precision by hand: torch.autocast does it (docs/differences.md, "Left out")'
_ARRAYS = 'arrays that show themselves: show_image shows any array'

FASTAI_NAMES = {
    # modules whose names are all left out
    **{f'fastcore.{room}': _FASTCORE for room in (
        'aio apisurface basics docments foundation imports meta parallel script test xtras').split()},
    'fastai.callback.rnn': _TEXT, 'fastai.callback.fp16': _HALF,
    'builtins': 'constants of fastcore and fasttransform that their star imports let through',
    'modules': 'a module of another package',
    'pandas': 'for tables', 'pandas.api.types': 'for tables', 'inspect': 'of the standard library',
    'fasttransform.transform': 'the inside of fasttransform',
    # single names
    'default_set_meta': 'the inside of fasttransform', 'CorpusBLEUMetric': _TEXT, 'Chunks': _TEXT,
    **dict.fromkeys(('ArrayBase', 'ArrayImage', 'ArrayImageBW', 'ArrayImageBase', 'ArrayMask'), _ARRAYS),
    **dict.fromkeys(('script_bwd', 'script_fwd', 'script_save_ctx', 'script_use_ctx', 'MishJitAutoFn'),
                    'around torch.jit.script, which torch gives up; Mish is here'),
    **dict.fromkeys(('nb_urls', 'prefetch_data'), "for building fastai's own documentation"),
    **dict.fromkeys(('one_is_instance', 'pv', 'base_doc'), _INTERNAL),
    **dict.fromkeys(('decodes', 'encodes'), 'left over from a decorator'),
    'module': 'a class with a forward says the same', 'setup_cuda': 'torch chooses its device, default_device ours',
}
"""Name, or module that fastai has names from, -> why `minifast.vision.all` leaves them out."""
