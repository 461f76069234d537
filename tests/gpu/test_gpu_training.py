"""Training on a GPU: where everything lies, the oracle, precision, waits, memory."""
from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gpu_learner import loaders, make_pictures, resnet, silent, small
from small_learner import data, deep, learner, same, weights
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset

from minifast.callback.channelslast import ChannelsLast
from minifast.callback.core import Callback
from minifast.callback.fp16 import AutoPrecision, MixedPrecision
from minifast.callback.mixup import CutMix, MixUp
from minifast.callback.training import EMACallback, GradientAccumulation, GradientClip
from minifast.commands import environment
from minifast.data.core import DataLoaders
from minifast.hardware import fast_paths
from minifast.learner import Learner
from minifast.optimizer import SGD, Adam, Lamb, Larc, QHAdam, RAdam, RMSProp, ranger
from minifast.torch_core import default_device
from minifast.vision.augment import Normalize, RandomErasing, aug_transforms
from minifast.vision.core import imagenet_stats

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings('ignore:Synchronization debug mode is a prototype')]
ROOT = Path(__file__).resolve().parents[2]


class See(Callback):
    """Notes where the parts of a step lie, and what kind of numbers the model's layers give."""

    order = 50

    def before_fit(self):
        self.devices, self.kinds = set(), set()
        self.handles = [m.register_forward_hook(lambda m, i, o: self.kinds.add(o.dtype)) for m in self.model.modules()
                        if isinstance(m, nn.Conv2d)]

    def after_step(self):
        parts = [*self.xb, *self.yb, self.pred, self.learn.loss, *self.model.parameters(), *self.model.buffers()]
        parts += [v for p in self.model.parameters() for v in self.opt.state[p].values() if isinstance(v, torch.Tensor)]
        self.devices |= {part.device for part in parts}

    def cleanup_fit(self):
        for handle in self.handles:
            handle.remove()


def on(device, **kwargs):
    learn = learner(**kwargs)
    learn.dls.device = device
    return learn


# ---------------------------------------------------------------- where everything lies

@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9), partial(torch.optim.AdamW, fused=True)])
def test_a_learner_trains_on_the_gpu_unasked(device, opt_func):
    """Loaders of torch and no word of a device: batches, model, loss and the optimizer's state are on the GPU."""
    learn, see = learner(model=deep(), opt_func=opt_func), See()
    learn.fit(1, cbs=see)
    assert see.devices == {default_device()} == {device}
    assert {x.device.type for x in learn.get_preds()} == {'cpu'}


def test_pictures_go_to_the_gpu_unasked_and_where_they_are_sent(device, tmp_path):
    """`DataLoaders` for pictures send batches to the GPU; `cpu()`, `cuda()` and `to` send them elsewhere and back."""
    dls = loaders(make_pictures(tmp_path), batch_tfms=Normalize.from_stats(*imagenet_stats))
    assert dls.device == device and {x.device for x in dls.one_batch()} == {device}
    assert {x.device.type for x in dls.cpu().one_batch()} == {'cpu'}
    assert {x.device for x in dls.cuda().one_batch()} == {device}
    assert {x.device for b in dls.to(device.type).valid for x in b} == {device}


def test_env_names_the_gpu(cuda):
    """`minifast env` says which GPU is there, that it is used, and what is fast on it."""
    found = environment()
    assert any(torch.cuda.get_device_name() in name for name in found['devices'])
    assert found['used device'] == str(cuda) and torch.cuda.get_device_name() in found['fast paths']['half precision']


# ---------------------------------------------------------------- the oracle

@pytest.mark.parametrize('ours, torchs', [
    (partial(torch.optim.SGD, lr=.1, momentum=.9, weight_decay=.1), None),
    (partial(torch.optim.SGD, lr=.1, momentum=.9, fused=True), None),
    (partial(torch.optim.AdamW, lr=1e-2, weight_decay=.1), None),
    (partial(torch.optim.AdamW, lr=1e-2, weight_decay=.1, fused=True), None),
    (partial(Adam, wd=.1), partial(torch.optim.AdamW, lr=1e-2, betas=(.9, .99), eps=1e-5, weight_decay=.1, fused=True)),
    (partial(SGD, mom=.9), partial(torch.optim.SGD, lr=1e-2, momentum=.9, fused=True))],
    ids=['sgd', 'sgd fused', 'adamw', 'adamw fused', 'our Adam', 'our SGD'])
def test_fit_ends_in_the_bits_of_a_plain_loop(device, reproducible, ours, torchs):
    """The oracle on a GPU: with shuffling, dropout and BatchNorm there, no bit differs from a hand-written loop."""
    items = TensorDataset(*data())
    train, valid, model = TorchLoader(items, 8, shuffle=True), TorchLoader(items, 8), deep().to(device)
    opt = (ours if torchs is None else torchs)(model.parameters())
    torch.manual_seed(7)
    for _ in range(3):
        model.train()
        for x, y in train:
            F.cross_entropy(model(x.to(device)), y.to(device)).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad():
            for x, y in valid:
                F.cross_entropy(model(x.to(device)), y.to(device))
    learn = silent(Learner(DataLoaders(train, valid), deep(), F.cross_entropy, ours, lr=1e-2, wd_bn_bias=True))
    torch.manual_seed(7)
    learn.fit(3)
    assert same(weights(learn), dict(model.state_dict()))


def test_bf16_ends_in_the_bits_of_a_plain_loop_under_autocast(device, reproducible):
    """`to_bf16` is torch's autocast around model and loss, and nothing else."""
    items = TensorDataset(*data())
    train, model = TorchLoader(items, 8), deep().to(device)
    opt = torch.optim.SGD(model.parameters(), lr=.1)
    torch.manual_seed(7)
    for _ in range(2):
        for x, y in train:
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(model(x.to(device)).float(), y.to(device))
            loss.backward()
            opt.step()
            opt.zero_grad()
    learn = silent(Learner(DataLoaders(train), deep(), F.cross_entropy, torch.optim.SGD, lr=.1)).to_bf16()
    torch.manual_seed(7)
    learn.fit(2)
    assert same(weights(learn), dict(model.state_dict()))


@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9), partial(RMSProp, mom=.9), RAdam, QHAdam, Larc, Lamb,
                                      ranger], ids=lambda f: getattr(f, 'func', f).__name__)
def test_a_step_on_the_gpu_is_that_on_the_cpu(device, opt_func):
    """Twenty steps of each optimizer with the same gradients: what fused kernels give differs by rounding (1e-5)."""
    def after_steps(where):
        g = torch.Generator().manual_seed(1)
        params = [nn.Parameter(torch.randn(size, generator=g).to(where)) for size in ((40, 30), (30,), (8, 3, 3, 3))]
        opt = opt_func([params[:2], params[2:]], lr=1e-2, wd=.1)
        for _ in range(20):
            for p in params:
                p.grad = torch.randn(p.shape, generator=g).to(where)
            opt.step()
        return [p.detach().cpu() for p in params]
    torch.testing.assert_close(after_steps(device), after_steps('cpu'), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', [{'fused': True}, {'foreach': True}, {'foreach': False}], ids=str)
def test_our_adam_on_the_gpu_is_each_of_torchs(device, kind):
    """Fused, multi-tensor and one by one: the same training within 1e-5."""
    def trained(opt_func):
        learn = on(device, opt_func=opt_func, wd_bn_bias=True)
        learn.fit(2, lr=1e-2)
        return weights(learn)
    torchs = partial(torch.optim.AdamW, betas=(.9, .99), eps=1e-5, weight_decay=.01, **kind)
    torch.testing.assert_close(trained(Adam), trained(torchs), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- precision

def _precisions(device):
    auto = torch.bfloat16 if fast_paths(device.type).bf16 else torch.float32
    return {'auto': auto, 'fp32': torch.float32, 'bf16': torch.bfloat16,
            'fp16': torch.float16 if device.type == 'cuda' else torch.float32}


@pytest.mark.parametrize('precision', ['auto', 'fp32', 'bf16', 'fp16'])
def test_fine_tune_in_each_precision(device, tmp_path, precision):
    """A resnet18 is fine-tuned; its layers give the kind of numbers asked for, its weights are float32 and finite."""
    dls = loaders(make_pictures(tmp_path), batch_tfms=aug_transforms())
    learn, see = resnet(dls, precision=precision if precision in ('auto', 'fp32') else 'fp32'), See()
    learn = {'bf16': learn.to_bf16, 'fp16': learn.to_fp16}.get(precision, lambda: learn)()
    learn.fine_tune(2, cbs=see)
    trained, measured = _precisions(device)[precision], learn.recorder.values[-1]
    assert trained in see.kinds and see.devices == {device}
    assert {p.dtype for p in learn.model.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in learn.model.parameters()) and all(map(math.isfinite, measured))
    last = learn.model[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    assert last == (precision == 'auto')
    preds, _ = learn.get_preds()
    assert preds.dtype == torch.float32 and preds.device.type == 'cpu' and preds.isfinite().all()


def test_fp16_scales_the_loss_and_recovers_from_overflow(cuda):
    """A scale that overflows skips steps until it fits; the weights move and stay finite."""
    learn = on(cuda, cbs=MixedPrecision(init_scale=2. ** 40))
    before, scales = [p.detach().clone() for p in learn.model.to(cuda).parameters()], []

    class Scales(Callback):
        run_valid = False

        def after_batch(self):
            scales.append(self.learn.scaler.get_scale())
    learn.fit(8, lr=.1, cbs=Scales)
    assert scales[-1] < scales[0] < 2. ** 40 and not same(before, list(learn.model.parameters()))
    assert all(p.isfinite().all() for p in learn.model.parameters())


def test_fp16_leaves_out_the_step_whose_gradient_overflows(cuda):
    """Infinite gradients in one batch: no weight moves in it, the scale is halved, and the next step is made."""
    moved, scales = [], []

    class Overflow(Callback):
        order, run_valid = 5, False

        def after_backward(self):
            if self.iter == 1:
                next(self.model.parameters()).grad.fill_(float('inf'))

        def before_batch(self):
            self.before = [p.detach().clone() for p in self.model.parameters()]

        def after_batch(self):
            moved.append(not same(self.before, list(self.model.parameters())))
            scales.append(self.learn.scaler.get_scale())
    on(cuda, cbs=MixedPrecision(init_scale=64.)).fit(1, lr=.1, cbs=Overflow)
    assert moved == [True, False, True, True] and scales == [64., 32., 32., 32.]


def test_fp16_clips_unscaled_gradients(cuda):
    """Clipping sees the gradients without the scale: training with both is close to float32 with clipping."""
    one, two = on(cuda, cbs=[MixedPrecision, GradientClip(.1)]), on(cuda, cbs=GradientClip(.1))
    one.fit(1, lr=.1), two.fit(1, lr=.1)
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-2, atol=1e-3)


def test_scaler_goes_on_from_its_state(cuda):
    """`state_dict` carries the scale into another training."""
    class Take(Callback):
        order = 99

        def after_fit(self):
            self.state = self.learn.mixed_precision.state_dict()

    class Give(Callback):
        order = 99

        def before_fit(self):
            self.learn.mixed_precision.load_state_dict(take.state)
            self.scale = self.learn.scaler.get_scale()
    take, give = Take(), Give()
    on(cuda, cbs=MixedPrecision(init_scale=64., growth_interval=2)).fit(2, cbs=take)
    on(cuda, cbs=MixedPrecision()).fit(1, cbs=give)
    assert give.scale == take.state['scaler']['scale'] == 64. * 2 ** 4


def test_a_compiled_model_trains(device):
    """`torch.compile` around the model: the same training within 1e-4, and files know nothing of the wrapper."""
    plain, compiled = on(device), on(device)
    compiled.model = torch.compile(compiled.model, backend='inductor' if device.type == 'cuda' else 'aot_eager')
    plain.fit(1, lr=.1), compiled.fit(1, lr=.1)
    got = {name.removeprefix('_orig_mod.'): w for name, w in weights(compiled).items()}
    torch.testing.assert_close(got, weights(plain), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- no step waits for the device

class NoWait(Callback):
    """From the third batch of a training on, makes whatever waits for the device an error."""

    order, run_valid = -100, False

    def __init__(self):
        self.steps = 0

    def before_batch(self):
        if self.iter == 2 and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode('error')

    def after_batch(self):
        self.steps += self.iter >= 2

    def after_train(self):
        self.cleanup_fit()

    def cleanup_fit(self):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode('default')


CALLBACKS = {'none': list, 'mixup': lambda: [MixUp()], 'cutmix': lambda: [CutMix()], 'ema': lambda: [EMACallback()],
             'clip': lambda: [GradientClip()], 'accumulation': lambda: [GradientAccumulation(8)],
             'bf16': lambda: [MixedPrecision('bf16')], 'auto': lambda: [AutoPrecision()],
             'channels last': lambda: [ChannelsLast()]}


@pytest.mark.parametrize('cbs', CALLBACKS.values(), ids=CALLBACKS)
def test_no_step_waits_for_the_device(device, tmp_path, cbs):
    """Loader, augmentation, forward, loss, backward, scheduled step and recorder: nothing asks for a number."""
    tfms = [*aug_transforms(max_warp=.2, xtra_tfms=RandomErasing(p=1.)), Normalize.from_stats(*imagenet_stats)]
    learn, watch = small(loaders(make_pictures(tmp_path), bs=2, batch_tfms=tfms)), NoWait()
    learn.fit_one_cycle(2, 1e-2, cbs=[*cbs(), watch])
    assert watch.steps == 2 * 7  # of 9 batches an epoch


@pytest.mark.parametrize('opt_func', [Adam, partial(SGD, mom=.9), partial(RMSProp, mom=.9), RAdam, QHAdam, Larc, Lamb,
                                      ranger], ids=lambda f: getattr(f, 'func', f).__name__)
def test_no_optimizer_waits_for_the_device(device, tmp_path, opt_func):
    """Nor does the step of any optimizer of ours."""
    learn, watch = small(loaders(make_pictures(tmp_path), bs=2), opt_func=opt_func), NoWait()
    learn.fit(2, 1e-2, wd=.1, cbs=watch)
    assert watch.steps == 2 * 7


@pytest.mark.parametrize('workers', [0, 2])
def test_no_step_waits_for_the_device_in_a_resnet(device, tmp_path, workers):
    """A resnet18 as `vision_learner` makes it, with worker processes too."""
    dls = loaders(make_pictures(tmp_path), bs=2, num_workers=workers, batch_tfms=aug_transforms())
    learn, watch = resnet(dls), NoWait()
    learn.fit_one_cycle(1, 1e-3, cbs=watch)
    assert watch.steps == 7


def test_a_step_that_waits_is_seen(cuda):
    """What the tests above rely on: a callback that asks for a number is caught."""
    class Ask(Callback):
        def after_loss(self):
            self.learn.loss.item()
    with pytest.raises(RuntimeError, match='synchronizing'):
        on(cuda).fit(1, cbs=[Ask(), NoWait()])
    assert torch.cuda.get_sync_debug_mode() == 0


# ---------------------------------------------------------------- memory

def test_a_learner_that_is_dropped_gives_its_memory_back(allocated, tmp_path):
    """Behind `del learn` as much is allocated on the GPU as before it was made; also after an error in a step."""
    def train(fails):
        def fail(cb):
            if cb.learn.train_iter == 2:
                raise ZeroDivisionError
        learn = resnet(loaders(make_pictures(tmp_path)))
        try:
            learn.fit_one_cycle(1, cbs=Callback(after_backward=fail) if fails else None)
        except ZeroDivisionError:
            assert fails
        learn.get_preds(), learn.validate()
    train(False)  # cuBLAS and cuDNN keep a workspace from their first use on
    before = allocated()
    for fails in (False, True):
        train(fails)
        assert allocated() == before


def test_steps_take_no_more_memory_as_they_go(allocated):
    """From step 20 to step 200 of an epoch only the recorder's losses are kept, 512 bytes each; then nothing."""
    seen = {}

    class Look(Callback):
        order, run_valid = 99, False

        def after_batch(self):
            if self.train_iter in (20, 200):
                seen[self.train_iter] = torch.cuda.memory_allocated()
    items = TensorDataset(torch.randn(1608, 3, 6, 6), torch.randint(0, 4, (1608,)))
    learn = silent(Learner(DataLoaders(TorchLoader(items, 8)), deep(), F.cross_entropy))
    learn.fit(1)
    before = allocated()
    learn.fit(1, cbs=Look())
    assert seen[200] - seen[20] <= 180 * 512 and allocated() == before


# ---------------------------------------------------------------- generators

def test_looking_before_the_gpu_is_used_leaves_no_trace_in_its_generator(cuda):
    """A block that seeds, left before anything was on the GPU: what is drawn there later is that of the seed before."""
    code = ('import torch; from minifast.seeds import fork_rng, no_random, seeded, set_seed; set_seed(42)\n'
            'with fork_rng(): torch.manual_seed(7)\n'
            'with seeded(3): torch.rand(2)\n'
            'with no_random(): torch.rand(2, device="cuda" if {inside} else "cpu")\n'
            'print(torch.rand(3, device="cuda").tolist())')
    torch.manual_seed(42)
    expected = str(torch.rand(3, device=cuda).tolist())
    for inside in (False, True):
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code.format(inside=inside)], cwd=ROOT, text=True,
                              capture_output=True)
        assert done.stdout.strip() == expected, done.stderr


def test_validation_and_prediction_leave_the_gpus_generator_alone(device):
    """Monte Carlo dropout in `get_preds` and `validate` draws on the GPU; the training that follows knows nothing."""
    class Dropping(Callback):
        def before_batch(self):
            self.model.train()
    learn = on(device, model=deep())
    learn.fit(1)
    torch.manual_seed(3)
    learn.get_preds(cbs=Dropping), learn.validate(cbs=Dropping)
    drawn = torch.rand(4, device=device)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4, device=device))
