"""XResNets: residual networks with a three-layer stem and pooled shortcuts.

Source: He et al., Bag of Tricks for Image Classification with Convolutional Neural Networks, arXiv 1812.01187.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from minifast.layers import AdaptiveAvgPool, ConvLayer, Flatten, MaxPool, ResBlock, SEBlock, SEResNeXtBlock

__all__ = [
    'XResNet', 'init_cnn', 'xresnet101', 'xresnet152', 'xresnet18', 'xresnet18_deep', 'xresnet18_deeper', 'xresnet34',
    'xresnet34_deep', 'xresnet34_deeper', 'xresnet50', 'xresnet50_deep', 'xresnet50_deeper', 'xresnext101',
    'xresnext18', 'xresnext34', 'xresnext50', 'xse_resnet101', 'xse_resnet152', 'xse_resnet18', 'xse_resnet34',
    'xse_resnet50', 'xse_resnext101', 'xse_resnext18', 'xse_resnext18_deep', 'xse_resnext18_deeper', 'xse_resnext34',
    'xse_resnext34_deep', 'xse_resnext34_deeper', 'xse_resnext50', 'xse_resnext50_deep', 'xse_resnext50_deeper',
    'xsenet154',
]

_pretrained_url = 'https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth'
"""The only published weights: xresnet50, ImageNet."""


def init_cnn(m: nn.Module) -> None:
    """Kaiming-normal weights for all convolutions and linear layers of `m`, zeros for all biases, norms included."""
    if getattr(m, 'bias', None) is not None:
        nn.init.constant_(m.bias, 0)
    if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        nn.init.kaiming_normal_(m.weight)
    for layer in m.children():
        init_cnn(layer)


class XResNet(nn.Sequential):
    """[B,c_in,...] -> [B,n_out]: three convolutions, a max pool, stages of residual blocks, pooling, a linear layer.

    Args:
        block: makes a residual block, as `ResBlock` does.
        expansion: 1 for blocks of two convolutions, 4 for bottlenecks.
        layers: how many blocks each stage has.
        p: dropout before the linear layer.
        c_in: input channels.
        n_out: output features.
        stem_szs: channels of the three first convolutions.
        widen: factor on the channels of the stages.
        sa: self attention at the end of the first stage (for four stages).
        act_cls: makes the activations.
        ndim: 1, 2 or 3 dimensions.
        ks: kernel size, odd.
        stride: of the stem, the pooling and the stages after the first.
        kwargs: for every block.

    Raises:
        ValueError: `ks` is even.

    Example:
        >>> xresnet18(n_out=10)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, block: Callable[..., nn.Module], expansion: int, layers: Sequence[int], p: float = 0.0,
                 c_in: int = 3, n_out: int = 1000, stem_szs: Sequence[int] = (32, 32, 64), widen: float = 1.0,
                 sa: bool = False, act_cls: Callable[..., Any] = nn.ReLU, ndim: int = 2, ks: int = 3, stride: int = 2,
                 **kwargs: Any) -> None:
        if ks % 2 == 0:
            raise ValueError(f'ks={ks}: an XResNet needs an odd kernel size')
        sizes = [c_in, *stem_szs]
        stem = [ConvLayer(sizes[i], sizes[i + 1], ks=ks, stride=stride if i == 0 else 1, act_cls=act_cls, ndim=ndim)
                for i in range(3)]
        widths = [64 // expansion] + [int(o * widen) for o in [64, 128, 256, 512] + [256] * (len(layers) - 4)]
        block_args = dict(act_cls=act_cls, ndim=ndim, ks=ks, **kwargs)
        stages = [self._stage(block, expansion, widths[i], widths[i + 1], n_blocks, 1 if i == 0 else stride,
                              sa and i == len(layers) - 4, block_args) for i, n_blocks in enumerate(layers)]
        super().__init__(*stem, MaxPool(ks=ks, stride=stride, padding=ks // 2, ndim=ndim), *stages,
                         AdaptiveAvgPool(sz=1, ndim=ndim), Flatten(), nn.Dropout(p),
                         nn.Linear(widths[-1] * expansion, n_out))
        self.block, self.expansion, self.act_cls, self.ndim, self.ks = block, expansion, act_cls, ndim, ks
        init_cnn(self)

    @staticmethod
    def _stage(block: Callable, expansion: int, ni: int, nf: int, n_blocks: int, stride: int, sa: bool,
               block_args: dict) -> nn.Sequential:
        return nn.Sequential(*[block(expansion, ni if i == 0 else nf, nf, stride=stride if i == 0 else 1,
                                     sa=sa and i == n_blocks - 1, **block_args) for i in range(n_blocks)])


def _plain(name: str, expansion: int, layers: Sequence[int]) -> Callable[..., XResNet]:
    """A function that makes XResNets of plain residual blocks."""
    def make(pretrained: bool = False, **kwargs: Any) -> XResNet:
        model = XResNet(ResBlock, expansion, layers, **kwargs)
        if pretrained:
            _load_published(name, model)
        return model
    return _named(make, name, f'An `XResNet` of stages {list(layers)}; `kwargs` are those of `XResNet`, `pretrained` '
                              'loads the published weights, which xresnet50 alone has.')


def _se(name: str, block: Callable[..., nn.Module], expansion: int, layers: Sequence[int],
        **block_args: Any) -> Callable[..., XResNet]:
    """A function that makes XResNets of squeeze-and-excitation or grouped blocks."""
    def make(n_out: int = 1000, pretrained: bool = False, **kwargs: Any) -> XResNet:
        if pretrained:
            raise ValueError(f'there are no published weights for {name}: use pretrained=False or weights=FILE')
        return XResNet(block, expansion, layers, n_out=n_out, **block_args, **kwargs)
    return _named(make, name, f'An `XResNet` of {block.__name__}s, stages {list(layers)}, {block_args}; `n_out` and '
                              '`kwargs` are those of `XResNet`, `pretrained` is refused: no weights are published.')


def _named(make: Callable, name: str, doc: str) -> Callable:
    make.__name__ = make.__qualname__ = name
    make.__doc__ = doc
    return make


def _load_published(name: str, model: XResNet) -> None:
    """Load the published weights of xresnet50; its last layer is left out where the number of outputs differs.

    Raises:
        ValueError: there are none for this architecture.
    """
    if name != 'xresnet50':
        raise ValueError(f'there are no published weights for {name}, only for xresnet50: use pretrained=False '
                         'or weights=FILE')
    from minifast.vision.models.weights import cached_file, check_fit, fetch_weights, state_of
    published, own = state_of(fetch_weights(_pretrained_url)), model.state_dict()
    check_fit(model, published, str(cached_file(_pretrained_url)))
    model.load_state_dict({k: v for k, v in published.items() if k in own and own[k].shape == v.shape}, strict=False)


_b18, _b34, _b101, _b152 = [2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 23, 3], [3, 8, 36, 3]
_eight = [1, 1, 1, 1, 1, 1]

xresnet18 = _plain('xresnet18', 1, _b18)
xresnet34 = _plain('xresnet34', 1, _b34)
xresnet50 = _plain('xresnet50', 4, _b34)
xresnet101 = _plain('xresnet101', 4, _b101)
xresnet152 = _plain('xresnet152', 4, _b152)
xresnet18_deep = _plain('xresnet18_deep', 1, _b18 + [1, 1])
xresnet34_deep = _plain('xresnet34_deep', 1, _b34 + [1, 1])
xresnet50_deep = _plain('xresnet50_deep', 4, _b34 + [1, 1])
xresnet18_deeper = _plain('xresnet18_deeper', 1, [2, 2] + _eight)
xresnet34_deeper = _plain('xresnet34_deeper', 1, _b34 + [1, 1, 1, 1])
xresnet50_deeper = _plain('xresnet50_deeper', 4, _b34 + [1, 1, 1, 1])

_se_args = dict(groups=1, reduction=16)
_se_next_args = dict(groups=32, reduction=16)
_next_args = dict(groups=32, reduction=0)

xse_resnet18 = _se('xse_resnet18', SEBlock, 1, _b18, **_se_args)
xse_resnext18 = _se('xse_resnext18', SEResNeXtBlock, 1, _b18, **_se_next_args)
xresnext18 = _se('xresnext18', SEResNeXtBlock, 1, _b18, **_next_args)
xse_resnet34 = _se('xse_resnet34', SEBlock, 1, _b34, **_se_args)
xse_resnext34 = _se('xse_resnext34', SEResNeXtBlock, 1, _b34, **_se_next_args)
xresnext34 = _se('xresnext34', SEResNeXtBlock, 1, _b34, **_next_args)
xse_resnet50 = _se('xse_resnet50', SEBlock, 4, _b34, **_se_args)
xse_resnext50 = _se('xse_resnext50', SEResNeXtBlock, 4, _b34, **_se_next_args)
xresnext50 = _se('xresnext50', SEResNeXtBlock, 4, _b34, **_next_args)
xse_resnet101 = _se('xse_resnet101', SEBlock, 4, _b101, **_se_args)
xse_resnext101 = _se('xse_resnext101', SEResNeXtBlock, 4, _b101, **_se_next_args)
xresnext101 = _se('xresnext101', SEResNeXtBlock, 4, _b101, **_next_args)
xse_resnet152 = _se('xse_resnet152', SEBlock, 4, _b152, **_se_args)
xsenet154 = _se('xsenet154', SEBlock, 4, _b152, groups=64, reduction=16, p=0.2)
xse_resnext18_deep = _se('xse_resnext18_deep', SEResNeXtBlock, 1, _b18 + [1, 1], **_se_next_args)
xse_resnext34_deep = _se('xse_resnext34_deep', SEResNeXtBlock, 1, _b34 + [1, 1], **_se_next_args)
xse_resnext50_deep = _se('xse_resnext50_deep', SEResNeXtBlock, 4, _b34 + [1, 1], **_se_next_args)
xse_resnext18_deeper = _se('xse_resnext18_deeper', SEResNeXtBlock, 1, [2, 2] + _eight, **_se_next_args)
xse_resnext34_deeper = _se('xse_resnext34_deeper', SEResNeXtBlock, 1, [3, 4, 4, 2, 2, 1, 1, 1], **_se_next_args)
xse_resnext50_deeper = _se('xse_resnext50_deeper', SEResNeXtBlock, 4, [3, 4, 4, 2, 2, 1, 1, 1], **_se_next_args)
