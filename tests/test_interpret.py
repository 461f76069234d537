"""Interpretation: losses in order, confusions counted as scikit-learn counts them, pictures of the worst items."""
from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from sklearn.metrics import classification_report, confusion_matrix
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minifast.data.categorize import MultiCategory
from minifast.inference import unmeasured
from minifast.interpret import ClassificationInterpretation, Interpretation, SegmentationInterpretation, plot_top_losses
from minifast.learner import Learner
from minifast.losses import CrossEntropyLossFlat, MSELossFlat
from minifast.markers import TensorCategory, TensorImage, TensorMultiCategory
from minifast.metrics import Metric

N = 40
X = torch.rand(N, 1, 6, 6)
Y = torch.arange(N) % 4


class Named(TensorDataset):
    """A dataset that names its classes."""

    classes = ('cat', 'dog', 'owl', 'wolf')


def learner(dataset=None, loss_func=None, n_out=4) -> Learner:
    """An untrained classifier on a plain torch dataset: it confuses everything."""
    dataset = dataset or Named(X, Y)
    torch.manual_seed(3)
    loaders = [DataLoader(dataset, batch_size=16, shuffle=shuffle) for shuffle in (True, False)]
    return Learner(loaders, nn.Sequential(nn.Flatten(), nn.Linear(36, n_out)),
                   loss_func=loss_func or CrossEntropyLossFlat())


def predicted(learn: Learner) -> torch.Tensor:
    return learn.model(X).argmax(-1)


def test_confusion_matrix_counts_as_scikit_learn_does():
    """A row for each actual class, a column for each predicted one, every item counted once."""
    learn = learner()
    cm = ClassificationInterpretation.from_learner(learn).confusion_matrix()
    assert np.array_equal(cm, confusion_matrix(Y, predicted(learn))) and cm.sum() == N


def test_confusion_matrix_leaves_out_what_is_no_class():
    """Targets such as 255, which mark no class, are not counted."""
    targets = Y.clone()
    targets[:5] = 255
    learn = learner(Named(X, targets), loss_func=CrossEntropyLossFlat(ignore_index=255))
    assert ClassificationInterpretation.from_learner(learn).confusion_matrix().sum() == N - 5


def test_most_confused_is_sorted_and_leaves_out_the_diagonal():
    """Every confusion at least `min_val` times, the most frequent first, by name."""
    learn = learner()
    interp = ClassificationInterpretation.from_learner(learn)
    cm = interp.confusion_matrix()
    found = interp.most_confused(min_val=2)
    counts = [n for *_, n in found]
    assert counts == sorted(counts, reverse=True) and min(counts) >= 2
    assert sum(n for *_, n in interp.most_confused()) == N - np.trace(cm)
    actual, guessed, n = found[0]
    assert cm[Named.classes.index(actual), Named.classes.index(guessed)] == n


def test_classification_report_is_scikit_learns(capsys):
    """The printed report is, character for character, what scikit-learn prints."""
    learn = learner()
    ClassificationInterpretation.from_learner(learn).print_classification_report()
    wanted = classification_report(Y, predicted(learn), labels=range(4), target_names=Named.classes, zero_division=0)
    assert capsys.readouterr().out == wanted + '\n'


def test_classes_without_names_are_numbered():
    """Where the data keep no names, classes are numbered from what was seen."""
    interp = ClassificationInterpretation.from_learner(learner(TensorDataset(X, Y)))
    assert interp.confusion_matrix().shape == (4, 4) and interp.vocab == ['0', '1', '2', '3']


def test_answers_are_predicted_once():
    """The matrix, the report and the confusions share one pass."""
    learn = learner()
    interp = ClassificationInterpretation.from_learner(learn)
    interp.confusion_matrix()
    learn.model = None
    interp.most_confused()


def test_top_losses_are_sorted_and_point_at_their_items():
    """The largest first, or the smallest; the indices are the dataset's."""
    learn = learner()
    interp = Interpretation.from_learner(learn)
    each = nn.functional.cross_entropy(learn.model(X), Y, reduction='none').detach()
    losses, idxs = interp.top_losses()
    torch.testing.assert_close(losses, each.sort(descending=True).values)
    torch.testing.assert_close(each[idxs], losses)
    smallest, _ = interp.top_losses(3, largest=False)
    torch.testing.assert_close(smallest, each.sort().values[:3])
    assert len(interp.top_losses(1000)[0]) == N


def test_interpretation_of_the_training_split_is_in_the_datasets_order():
    """A shuffled loader makes no difference to whose loss is whose."""
    learn = learner()
    train, valid = (Interpretation.from_learner(learn, ds_idx=i).losses for i in (0, 1))
    torch.testing.assert_close(train, valid)


@pytest.mark.parametrize('cls', [Interpretation, ClassificationInterpretation])
def test_an_interpretation_is_of_the_loader_and_the_activation_that_are_told(cls):
    """`dl`, `losses`, `act`, made by hand or by `from_learner`."""
    learn = learner()
    some = DataLoader(Named(X[:8], Y[:8]), batch_size=4)
    whole = cls.from_learner(learn)
    learnt = cls.from_learner(learn, dl=some, act=torch.sigmoid)
    assert torch.equal(learnt.losses, whole.losses[:8]) and learnt.dl is some
    for interp in (learnt, cls(learn, dl=some, losses=whole.losses[:8], act=torch.sigmoid)):
        x, preds, _, _, losses = interp[[1, 5]]
        assert torch.equal(x, X[[1, 5]]) and torch.equal(losses, whole.losses[[1, 5]])
        torch.testing.assert_close(preds, learn.model(X[[1, 5]]).sigmoid().detach())
        assert interp.top_losses(1)[1] == whole.losses[:8].argmax()
    if cls is ClassificationInterpretation:
        seen = []

        def backwards(preds):
            seen.append(len(preds))
            return -preds
        made = cls(learn, dl=some, losses=whole.losses[:8], act=backwards)
        assert torch.equal(made.answers()[1], Y[:8]) and sum(seen) == 8


def test_getitem_gives_inputs_predictions_targets_answers_and_losses():
    """Items by index, in that order; a single index and a tensor of indices too."""
    learn = learner()
    interp = Interpretation.from_learner(learn)
    inputs, preds, targets, decoded, losses = interp[[5, 2]]
    assert torch.equal(inputs, X[[5, 2]]) and targets.tolist() == [1, 2] and preds.shape == (2, 4)
    assert torch.equal(decoded, preds.argmax(-1)) and torch.equal(losses, interp.losses[[5, 2]])
    assert torch.equal(interp[7][0], X[[7]]) and torch.equal(interp[torch.tensor([1])][0], X[[1]])


def test_plot_top_losses_of_a_plain_dataset_titles_each_picture():
    """Prediction, target, loss and probability stand above each picture, the worst first."""
    interp = ClassificationInterpretation.from_learner(learner())
    interp.plot_top_losses(4)
    titles = [ax.get_title() for ax in plt.gcf().axes]
    losses, idxs = interp.top_losses(4)
    assert len(titles) == 4
    assert titles[0].split('/')[1].strip() == Named.classes[Y[idxs[0]]] and f'{losses[0]:.2f}' in titles[0]
    interp.plot_top_losses(range(2, 4))
    assert f'{losses[2]:.2f}' in plt.gcf().axes[0].get_title()


@pytest.mark.parametrize('y', [torch.zeros(4, dtype=torch.long), TensorMultiCategory(torch.zeros(4, 2))],
                         ids=['one label', 'several'])
@pytest.mark.parametrize('asked, nrows, ncols', [({'nrows': 1}, 1, 4), ({}, 2, 2), ({'ncols': 1}, 4, 1),
                                                 ({'nrows': 4, 'ncols': 1}, 4, 1)])
def test_top_losses_stand_in_as_many_rows_and_columns_as_asked_for(y, asked, nrows, ncols, capsys):
    """Of whatever kind the labels are."""
    samples = [(TensorImage(torch.rand(3, 4, 4)), 'a')] * 4
    plt.close('all')
    plot_top_losses(TensorImage(torch.zeros(4, 3, 4, 4)), y if y.ndim > 1 else TensorCategory(y), samples,
                    [('a',)] * 4, torch.rand(4, 2), torch.rand(4), **asked)
    places = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in plt.gcf().axes]
    assert places == [(row, column) for row in range(nrows) for column in range(ncols)]


def test_plot_top_losses_of_several_labels_prints_a_table(capsys, monkeypatch):
    """Pictures with their numbers, and a row each: targets, predictions, probabilities, loss. It needs no pandas."""
    monkeypatch.setitem(sys.modules, 'pandas', None)
    shown = []

    class Picture:
        def show(self, ctx, title, **kwargs):
            shown.append((ctx, title, kwargs))
    samples = [(Picture(), MultiCategory(['a', 'b'])), (Picture(), MultiCategory(['c']))]
    outs = [('a',), (MultiCategory([]),)]
    raws = torch.tensor([[.12345, .9], [.5, .25]])
    plot_top_losses(TensorImage(torch.zeros(2, 3, 4, 4)), TensorMultiCategory(torch.zeros(2, 2)), samples, outs, raws,
                    torch.tensor([2.5, 1.25]), nrows=2, ncols=1, figsize=(3, 4), alpha=.5)
    assert [(title, kwargs) for _, title, kwargs in shown] == [('Image 0', {'alpha': .5}), ('Image 1', {'alpha': .5})]
    figure = plt.gcf()
    assert [ctx for ctx, *_ in shown] == figure.axes[:2] and tuple(figure.get_size_inches()) == (3, 4)
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 1)
    assert capsys.readouterr().out.splitlines() == [
        '   target  predicted  probabilities  loss', '0  a;b     a          0.1235 0.9000  2.5000',
        '1  c       (none)     0.5000 0.2500  1.2500']


def test_plot_top_losses_of_what_shows_itself_writes_the_loss_under_the_prediction():
    """Points, numbers, pictures: the target on its picture, and beside it the prediction on the same with its loss."""
    shown = []

    class Shown:
        def __init__(self, name):
            self.name = name

        def show(self, ctx, **kwargs):
            shown.append((ctx, self.name, kwargs))
    samples, outs = [(Shown(f'picture {i}'), Shown(f'target {i}')) for i in (0, 1)], [(Shown('a'),), (Shown('b'),)]
    plot_top_losses(TensorImage(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 2), samples, outs, torch.zeros(2, 2),
                    torch.tensor([2.5, 1.25]), nrows=2, ncols=1, alpha=.5)
    axs = plt.gcf().axes
    assert [(axs.index(ctx), name) for ctx, name, _ in shown] == [
        (0, 'picture 0'), (0, 'target 0'), (2, 'picture 1'), (2, 'target 1'),
        (1, 'picture 0'), (1, 'a'), (3, 'picture 1'), (3, 'b')]
    assert [ax.get_title() for ax in axs[1::2]] == ['loss = 2.5000', 'loss = 1.2500']
    assert all(kwargs == {'alpha': .5} for *_, kwargs in shown)


def test_plot_confusion_matrix_writes_every_count():
    """All counts, or fractions that add up to one in each row, under the classes' names."""
    interp = ClassificationInterpretation.from_learner(learner())
    interp.plot_confusion_matrix(figsize=(5, 5), dpi=60)
    ax = plt.gcf().axes[0]
    assert [int(t.get_text()) for t in ax.texts] == interp.confusion_matrix().ravel().tolist()
    for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [t.get_text() for t in ticks] == list(Named.classes)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('Predicted', 'Actual') and ax.get_title() == 'Confusion matrix'
    interp.plot_confusion_matrix(plot_txt=False)
    assert not plt.gcf().axes[0].texts
    interp.plot_confusion_matrix(normalize=True, norm_dec=3)
    rows = np.array([float(t.get_text()) for t in plt.gcf().axes[0].texts]).reshape(4, 4)
    np.testing.assert_allclose(rows.sum(1), 1, atol=2e-3)
    assert plt.gcf().axes[0].get_title() == 'Normalized confusion matrix'
    interp.plot_confusion_matrix(normalize=True, title='mine')
    assert plt.gcf().axes[0].get_title() == 'mine'


def test_a_confusion_matrix_of_many_classes_is_as_large_as_its_numbers_need():
    """No two numbers touch, of 12 classes with millions of pictures each; a figsize that is asked for is obeyed."""
    interp = ClassificationInterpretation.__new__(ClassificationInterpretation)
    interp.vocab, interp.confusion_matrix = [str(i) for i in range(12)], lambda: np.full((12, 12), 1234567)
    interp.plot_confusion_matrix(plot_txt=True)
    figure = plt.gcf()
    figure.canvas.draw()
    texts = figure.axes[0].texts
    width = np.diff(figure.axes[0].transData.transform([(0, 0), (1, 0)])[:, 0])[0]
    assert len(texts) == 144 and max(text.get_window_extent().width for text in texts) < width
    interp.plot_confusion_matrix(figsize=(3, 2))
    assert tuple(plt.gcf().get_size_inches()) == (3, 2)


def test_of_the_items_that_are_shown_no_metrics_are_worked_out():
    """Of nine items some cannot be; what measures the training is there again behind it, also after an error."""
    class Counts(Metric):
        name, value, reset = 'counts', 0, lambda self: None

        def accumulate(self, learn):
            counted.append(len(learn.y))
    counted, learn = [], learner()
    learn.metrics = Counts()
    interp = ClassificationInterpretation.from_learner(learn)
    metrics, n = learn.metrics, len(counted)
    interp.plot_top_losses(4)
    assert len(counted) == n and learn.metrics[0] is metrics[0]
    learn.show_results(max_n=2)
    assert len(counted) == n and learn.metrics[0] is metrics[0]
    with pytest.raises(RuntimeError, match='stop'), unmeasured(learn):
        raise RuntimeError('stop')
    assert learn.metrics[0] is metrics[0] and (learn.validate(), len(counted) > n)[1]


@pytest.mark.parametrize('normalize', [False, True])
def test_numbers_of_a_confusion_matrix_can_be_read_on_their_colours(normalize):
    """White where the cell is dark, in more than half of the highest, black elsewhere."""
    interp = ClassificationInterpretation.from_learner(learner())
    interp.plot_confusion_matrix(normalize)
    ax = plt.gcf().axes[0]
    shades = ax.images[0].get_array().ravel()
    assert [to_rgba(t.get_color()) for t in ax.texts] == [to_rgba('w' if x > shades.max() / 2 else 'k') for x in shades]
    assert len({t.get_color() for t in ax.texts}) == 2


def test_plot_top_losses_of_unknown_types_says_how_to_add_them():
    """What cannot be drawn is a TypeError with the way out."""
    with pytest.raises(TypeError, match='@dispatch'):
        plot_top_losses(torch.zeros(2, 3), torch.zeros(2), [], [], torch.zeros(2), torch.zeros(2))


def test_interpretation_of_regression_has_losses_too():
    """Any loss will do that gives one number an item."""
    learn = learner(TensorDataset(X, Y.float()), loss_func=MSELossFlat(), n_out=1)
    interp = Interpretation.from_learner(learn)
    torch.testing.assert_close(interp.losses, (learn.model(X)[:, 0] - Y).square().detach())


@pytest.mark.parametrize('cls', [Interpretation, ClassificationInterpretation, SegmentationInterpretation])
def test_an_interpretation_made_of_a_learner_alone_says_how(cls):
    """The constructor takes losses that are there already; `from_learner` is what was meant."""
    with pytest.raises(TypeError, match=f'{cls.__name__}.from_learner\\(learn\\)'):
        cls(object())
