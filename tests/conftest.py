"""What every test may rely on: no display, a known seed, figures closed, and the repository's own minifast."""
from __future__ import annotations

import collections
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
# Models of tests are tiny: a second thread brings nothing, and on a busy machine threads wait for each other
os.environ.setdefault('OMP_NUM_THREADS', '1')

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """Only `make test-gpu` sees a GPU: all other tests hold tensors on the CPU against those of a learner."""
    if config.option.markexpr != 'gpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


def pytest_addoption(parser):
    """`--reverse`: a test that leans on one before it is seen."""
    parser.addoption('--reverse', action='store_true', help='run the last test first')


def pytest_collection_modifyitems(config, items):
    """The order that was asked for."""
    if config.getoption('reverse'):
        items.reverse()


@pytest.fixture(autouse=True)
def known_start():
    """Each test starts from the same generator states and switches, whatever ran before it, and leaves no open figure.
    """
    import random

    import numpy as np
    import torch
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    cudnn = torch.backends.cudnn
    switches = cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    yield
    cudnn.deterministic, cudnn.benchmark = switches[:2]
    if torch.are_deterministic_algorithms_enabled() != switches[2]:
        torch.use_deterministic_algorithms(switches[2])
    if 'matplotlib.pyplot' in sys.modules:
        sys.modules['matplotlib.pyplot'].close('all')


@pytest.fixture(scope='session')
def root() -> Path:
    """The folder that holds setup.cfg."""
    return ROOT


@pytest.fixture(autouse=True)
def default_sigint():
    """Ctrl-C means KeyboardInterrupt, also where the tests were started with it ignored (nohup, a job of a shell)."""
    import signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------- how many of how many, for `make test-faults`

_COUNTS = pytest.StashKey[tuple[int, int]]()


@pytest.fixture
def counted(request):
    """`counted(done, n)` says how many cases of how many a test stands for; a test that says nothing is one of one."""
    def count(done: int, n: int) -> None:
        request.node.stash[_COUNTS] = done, n
    return count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Hand the counts on with the report."""
    report = yield
    report.counts = item.stash.get(_COUNTS, (int(report.passed), 1))
    return report


def _tell_skips(terminalreporter):
    """How many tests were passed over, by reason: a green run says what it did not look at."""
    skipped = terminalreporter.getreports('skipped')
    reasons = collections.Counter(str(report.longrepr[2]).removeprefix('Skipped: ') for report in skipped)
    said = [f'{n} because: {reason}' for reason, n in reasons.most_common()]
    terminalreporter.section(f'{len(skipped)} skipped')
    for line in said:
        terminalreporter.line(line)


def pytest_terminal_summary(terminalreporter, config):
    """How many tests were skipped and why; a table of the faults: what was tried, how often, how often the law held."""
    _tell_skips(terminalreporter)
    table = {}
    for outcome in ('passed', 'failed'):
        for report in terminalreporter.getreports(outcome):
            if report.when == 'call' and {'faults', 'tally'} & set(report.keywords):
                name = report.nodeid.split('::')[-1].split('[')[0].removeprefix('test_').replace('_', ' ')
                done, n = report.counts
                before = table.get(name, (0, 0))
                table[name] = before[0] + (done if report.passed else 0), before[1] + n
    if table and 'tally' in config.option.markexpr:
        terminalreporter.section('faults')
        for name, (done, n) in table.items():
            terminalreporter.line(f'{done:>7,} of {n:>7,}  {name}')
