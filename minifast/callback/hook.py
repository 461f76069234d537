"""Looking into a model while it runs: hooks, sizes of activations, parameter counts, statistics by layer."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fastcore.basics import PrettyString
from fastcore.foundation import L
from torch import Size, Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from minifast.arguments import as_size, tells_near_match
from minifast.callback.core import Callback
from minifast.layers import flatten_model, in_channels
from minifast.show import get_grid, new_axis
from minifast.torch_core import apply, find_bs, find_device, leaves_of, one_param, to_detach, to_device

__all__ = ['ActivationStats', 'Hook', 'HookCallback', 'Hooks', 'dummy_eval', 'has_params', 'hook_output',
           'hook_outputs', 'layer_info', 'model_sizes', 'module_summary', 'num_features_model', 'total_params']

HookFunc = Callable[[nn.Module, Any, Any], Any]


# ---------------------------------------------------------------- hooks

def _tensors(o: Any) -> list[Tensor]:
    return [leaf for leaf in leaves_of(o) if isinstance(leaf, Tensor)]


class Hook:
    """Calls `hook_func(module, input, output)` whenever `m` has run and keeps in `stored` what it returns.

    With `is_forward=False` it is called in the backward pass, with `()` and the tuple of gradients of the output. A
    hook is a context manager that removes itself.

    Args:
        m: the module to watch.
        hook_func: what to keep.
        is_forward: watch the output; False: its gradient.
        detach: hand over tensors without their graph.
        cpu: hand over tensors on the CPU.
        gather: hand over the tensors of all processes.
    """

    @tells_near_match
    def __init__(self, m: nn.Module, hook_func: HookFunc, is_forward: bool = True, detach: bool = True,
                 cpu: bool = False, gather: bool = False) -> None:
        self.hook_func, self.detach, self.cpu, self.gather = hook_func, detach, cpu, gather
        # gradients are watched at the output tensors: torch's own module hooks break on in-place layers behind m
        self.hook = m.register_forward_hook(self.hook_fn if is_forward else self._watch_gradients)
        self.stored, self.removed = None, False

    def hook_fn(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keep what `hook_func` makes of the `input` and `output` of `module`."""
        if self.detach:
            input, output = (to_detach(o, cpu=self.cpu, gather=self.gather) for o in (input, output))
        self.stored = self.hook_func(module, input, output)

    def _watch_gradients(self, module: nn.Module, input: Any, output: Any) -> None:
        watched = [t for t in _tensors(output) if t.requires_grad]
        def run(grads: Sequence[Tensor]) -> None:
            if not self.removed:
                self.hook_fn(module, (), tuple(grads))
        if watched:
            register_multi_grad_hook(watched, run)

    def remove(self) -> None:
        """Stop watching; `stored` stays."""
        if not self.removed:
            self.hook.remove()
            self.removed = True

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()


def _keep_output(m: nn.Module, i: Any, o: Any) -> Any:
    return o if isinstance(o, (Tensor, list, tuple, L)) else list(o)


def hook_output(module: nn.Module, detach: bool = True, cpu: bool = False, grad: bool = False) -> Hook:
    """A hook that keeps the output of `module` in `stored`; with `grad`, the tuple of gradients of its output. `detach`
    and `cpu` as for `Hook`.

    Example:
        >>> xb, yb = dls.one_batch()
        >>> with hook_output(learn.model[0]) as hook:
        ...     predictions = learn.model(xb)
        >>> hook.stored.shape
    """
    return Hook(module, _keep_output, detach=detach, cpu=cpu, is_forward=not grad)


class Hooks:
    """One `Hook` for each of several modules; removes them all.

    Args:
        ms: the modules.
        hook_func, is_forward, detach, cpu: as for `Hook`.
    """

    @tells_near_match
    def __init__(self, ms: Iterable[nn.Module], hook_func: HookFunc, is_forward: bool = True, detach: bool = True,
                 cpu: bool = False) -> None:
        self.hooks = [Hook(m, hook_func, is_forward, detach, cpu) for m in ms]

    def __getitem__(self, i: int) -> Hook:
        return self.hooks[i]

    def __len__(self) -> int:
        return len(self.hooks)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.hooks)

    @property
    def stored(self) -> L:
        """What each hook has kept."""
        return L([hook.stored for hook in self.hooks], use_list=True)

    def remove(self) -> None:
        """Remove all hooks."""
        for hook in self.hooks:
            hook.remove()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()


def hook_outputs(modules: Iterable[nn.Module], detach: bool = True, cpu: bool = False, grad: bool = False) -> Hooks:
    """Hooks that keep the outputs of `modules` in `stored`; `detach`, `cpu` and `grad` as for `hook_output`.

    Example:
        >>> xb, yb = dls.one_batch()
        >>> with hook_outputs(learn.model) as hooks:
        ...     predictions = learn.model(xb)
        >>> [hook.stored.shape[0] for hook in hooks]
    """
    return Hooks(modules, _keep_output, detach=detach, cpu=cpu, is_forward=not grad)


# ---------------------------------------------------------------- sizes and counts

@contextmanager
def _evaluating(m: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; each module's mode is put back."""
    modes = [(module, module.training) for module in m.modules()]
    m.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def dummy_eval(m: nn.Module, size: tuple[int, int] = (64, 64)) -> Any:
    """The output of `m` for a made-up picture of `size` (height, width); changes neither modes nor random states."""
    like = one_param(m)
    # a generator of its own: making up a picture must not shift the model's random stream
    x_BCHW = torch.rand(1, in_channels(m), *as_size(size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with _evaluating(m):
        return m(x_BCHW.to(like.device, like.dtype))


def model_sizes(m: nn.Module, size: tuple[int, int] = (64, 64)) -> list[Size]:
    """The output shape of each child of `m` for a picture of `size`."""
    with hook_outputs(m) as hooks:
        dummy_eval(m, size=size)
        return [hook.stored.shape for hook in hooks]


def num_features_model(m: nn.Module) -> int:
    """The channels that `m` gives, found by running it on pictures of growing size until one is large enough.

    Raises:
        RuntimeError: `m` fails on every size up to 2048.
    """
    size = 32
    while True:
        try:
            return model_sizes(m, (size, size))[-1][1]
        except (RuntimeError, ValueError, AssertionError):
            size *= 2
            if size > 2048:
                raise


def has_params(m: nn.Module) -> bool:
    """Whether `m` has parameters."""
    return next(m.parameters(), None) is not None


def total_params(m: nn.Module) -> tuple[int, bool]:
    """How many numbers the parameters of `m` hold, and whether the first of them is trained."""
    ps = list(m.parameters())
    return sum(p.numel() for p in ps), bool(ps) and ps[0].requires_grad


def _layer_row(m: nn.Module, i: Any, o: Any) -> tuple:
    n_params, trainable = total_params(m) if hasattr(m, 'weight') else ('', '')
    first_in, first_out = next(iter(_tensors(i)), None), next(iter(_tensors(o)), None)
    same = first_in is not None and first_out is not None and first_in.shape == first_out.shape
    return type(m).__name__, n_params, trainable, apply(lambda t: getattr(t, 'shape', None), o), same


def layer_info(learn: Any, *xb: Any) -> L:
    """One row a leaf layer: (class, parameters or '', trained or '', output shape of one item, shape as its input's).

    Args:
        learn: whose model is run.
        xb: inputs of a batch; their first item is used. A layer that does not run has None for a row.
    """
    device = find_device(list(learn.model.parameters()))
    batch = to_device(apply(lambda t: t[:1], xb), device) if device is not None else apply(lambda t: t[:1], xb)
    with Hooks(flatten_model(learn.model), _layer_row) as hooks, _evaluating(learn.model):
        learn.model(*batch)
        return hooks.stored


def _shape_text(shape: Any, bs: int) -> str:
    if isinstance(shape, Size):
        return ' x '.join([str(bs), *(str(n) for n in shape[1:])])
    if isinstance(shape, dict):
        return _shape_text(next(iter(shape.values())), bs)
    if isinstance(shape, tuple):
        return _shape_text(shape[0], bs)
    return str([_shape_text(s, bs) for s in shape])


def module_summary(learn: Any, *xb: Any) -> str:
    """A table of the layers of `learn.model` with output shapes and parameters, for the inputs `xb` of a batch."""
    rows, bs, width = [row for row in layer_info(learn, *xb) if row is not None], find_bs(xb), 76
    lines = [f'{type(learn.model).__name__} (Input shape: {_shape_text(apply(lambda t: t.shape, xb), bs)})',
             '=' * width, f'{"Layer (type)":<20} {"Output Shape":<20} {"Param #":<10} {"Trainable":<10}', '=' * width]
    total = trained = 0
    last = None
    for kind, n_params, trainable, shape, same in rows:
        if shape is None:
            continue
        if last is None or not (same or shape == last):
            lines += ['_' * width] * (last is not None) + [f'{"":<20} {_shape_text(shape, bs)[:19]:<20}']
        lines.append(f'{kind:<20} {"":<20} {n_params:<10} {str(trainable):<10}')
        total += n_params or 0
        trained += n_params if trainable else 0
        last = shape
    lines += ['_' * width, '', f'Total params: {total:,}', f'Total trainable params: {trained:,}',
              f'Total non-trainable params: {total - trained:,}', '', '']
    return PrettyString('\n'.join(lines))


# ---------------------------------------------------------------- hooks during training

class HookCallback(Callback):
    """Hooks on `modules` for the time of a fit; a subclass says in `hook(m, i, o)` what to keep of each.

    What was kept is in `self.hooks.stored`.

    Args:
        modules: which to watch; default: all leaves of the model with parameters.
        every: watch every so many training batches only.
        remove_end: remove the hooks when the fit ends.
        is_forward, detach, cpu: as for `Hook`.
        include_paramless: by default also the leaves without parameters.
        hook: instead of the method.

    Example:
        >>> means = HookCallback(hook=lambda m, i, o: o.mean())
        >>> learn.fit(1, cbs=means)
        >>> means.hooks.stored
    """

    identifies_run = False

    @tells_near_match
    def __init__(self, modules: Sequence[nn.Module] | None = None, every: int | None = None, remove_end: bool = True,
                 is_forward: bool = True, detach: bool = True, cpu: bool = True, include_paramless: bool = False,
                 hook: HookFunc | None = None) -> None:
        self.modules, self.every, self.remove_end, self.is_forward = modules, every, remove_end, is_forward
        self.detach, self.cpu, self.include_paramless, self.hooks = detach, cpu, include_paramless, None
        self._modules_given = modules is not None
        if hook is not None:
            self.hook = hook

    def hook(self, m: nn.Module, i: Any, o: Any) -> Any:
        """What to keep of one run of the module `m` with the inputs `i` and the output `o`; see `Hook`."""

    def before_fit(self) -> None:
        if not self._modules_given:  # asked anew for each fit: the model may be another one
            self.modules = [m for m in flatten_model(self.model) if self.include_paramless or has_params(m)]
        self._remove()
        if self.every is None:
            self._register()

    @property
    def _is_due(self) -> bool:
        return self.learn.training and (self.every is None or self.learn.train_iter % self.every == 0)

    def before_batch(self) -> None:
        self._watched = self._is_due
        if self.every is not None and self._watched:
            self._register()

    def after_batch(self) -> None:
        if self.every is not None:
            self._remove()

    def cleanup_fit(self) -> None:
        if self.remove_end:
            self._remove()

    def _register(self) -> None:
        self.hooks = Hooks(self.modules, self.hook, self.is_forward, self.detach, self.cpu)

    def _remove(self) -> None:
        if self.hooks is not None:
            self.hooks.remove()


class ActivationStats(HookCallback):
    """Mean, standard deviation and share of near-zero activations of each layer, one entry a training batch.

    The numbers are worked out on the device; a watched batch waits for it once.

    Args:
        with_hist: also count the activations between 0 and 10 in 40 bins.
        kwargs: for `HookCallback`.

    Attributes:
        stats: by batch, by layer: a dict with `mean`, `std`, `near_zero` and, with `with_hist`, `hist` [40].

    Example:
        >>> stats = ActivationStats(with_hist=True)
        >>> learn.fit(1, cbs=stats)
        >>> stats.plot_layer_stats(0)
        >>> stats.color_dim(0)
    """

    order = -20

    def __init__(self, with_hist: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.with_hist = with_hist
        self.cpu = False  # three numbers travel to the host, not the activations
        self.stats = self._of_last_fit = L()

    def before_fit(self) -> None:
        super().before_fit()
        self._of_last_fit, self.stats = self.stats, L()

    def cleanup_fit(self) -> None:
        super().cleanup_fit()
        self.stats = self.stats or self._of_last_fit  # a validation or prediction adds nothing and erases nothing
        self._of_last_fit = L()

    def hook(self, m: nn.Module, i: Any, o: Any) -> Any:
        """Of the output `o` of `m` for `i`: a tensor [3] and the histogram or None; a list of them for a tuple."""
        if not self.learn.training:
            return None
        if isinstance(o, tuple):
            return [self.hook(m, i, part) for part in _tensors(o)]
        o = o.float()
        std = o.std() if o.numel() > 1 else o.new_zeros(())
        return torch.stack([o.mean(), std, (o <= 0.05).float().mean()]), o.histc(40, 0, 10) if self.with_hist else None

    def after_batch(self) -> None:
        if self._watched:
            stored = [s for s in self.hooks.stored if s is not None]
            flat = [s for layer in stored for s in (layer if isinstance(layer, list) else [layer])]
            if flat:
                numbers = iter(torch.stack([s for s, _ in flat]).tolist())  # sync: once a watched batch
                self.stats.append(L([self._entry(layer, numbers) for layer in stored], use_list=True))
        super().after_batch()

    def _entry(self, layer: Any, numbers: Iterator[list[float]]) -> Any:
        if isinstance(layer, list):
            return [self._entry(part, numbers) for part in layer]
        entry = dict(zip(('mean', 'std', 'near_zero'), next(numbers)))
        return entry if layer[1] is None else {**entry, 'hist': layer[1].cpu()}  # sync: once a watched batch

    def layer_stats(self, idx: int) -> L:
        """Of layer `idx`, by batch: means, standard deviations, shares near zero."""
        by_batch = self.stats.itemgot(idx)
        return L(by_batch.itemgot(name) for name in ('mean', 'std', 'near_zero'))

    def hist(self, idx: int) -> Tensor:
        """Of layer `idx`: log(1 + counts), shape [40 bins, batches].

        Raises:
            ValueError: made without `with_hist=True`.
        """
        if not self.with_hist:
            raise ValueError('no histograms were counted: use ActivationStats(with_hist=True)')
        return torch.stack(list(self.stats.itemgot(idx).itemgot('hist'))).t().float().log1p()

    def color_dim(self, idx: int, figsize: tuple[float, float] = (10, 5), ax: Any = None) -> Any:
        """Draw the histograms of layer `idx` over the batches, counts as colours, on `ax` or a new one of `figsize`
        inches; returns the axis."""
        ax = new_axis(figsize) if ax is None else ax
        ax.imshow(self.hist(idx).numpy(), origin='lower', aspect='auto')  # sync: drawn for a person
        ax.axis('off')
        return ax

    def plot_hist(self, figsize: tuple[float, float] | None = None) -> Any:
        """`color_dim` of every layer, in a grid of `figsize` inches (default: 2.5 high a row); returns the axes."""
        n = len(self.stats[0])
        axes = get_grid(n, ncols=2, figsize=figsize or (12, 2.5 * math.ceil(n / 2)))
        for i, ax in enumerate(axes):
            self.color_dim(i, ax=ax)
        return axes

    def plot_layer_stats(self, idx: int) -> Any:
        """Draw the three statistics of layer `idx` by batch; returns the axes."""
        axes = get_grid(3, nrows=1, figsize=(12, 3))
        for values, ax, title in zip(self.layer_stats(idx), axes, ('mean', 'std', '% near zero')):
            ax.plot(values)
            ax.set_title(title)
        return axes
