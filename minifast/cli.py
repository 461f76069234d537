"""The commands: `minifast train | predict | check | runs | compare | demo | env | plugins`, or `python -m minifast`.

Exit codes: 0 it worked, 1 the check found something or a picture could not be predicted (or the program is at fault,
with a traceback), 2 the user can mend it (one sentence says what and how), 130 stopped by Ctrl-C. Results go to stdout,
bars and mistakes to stderr.
"""
from __future__ import annotations

import argparse
import math
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from minifast import __version__
from minifast.arguments import near_match
from minifast.terminal import say

__all__ = ['build_parser', 'main']


class _Parser(argparse.ArgumentParser):
    """argparse, with one sentence instead of the usage block before an error, and without shortened options."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            near = near_match(unknown[0], re.findall(r'--[\w-]+', self.format_usage()))
            self.error(f'there is no option {unknown[0]!r}{near}' if unknown[0].startswith('-') else
                       f'{unknown[0]!r} is one word too many')
        return found, unknown

    def error(self, message: str) -> NoReturn:
        say(f'{self.prog}: {message} (see {self.prog} --help)', sys.stderr)
        self.exit(2)


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of an option where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


# ---------------------------------------------------------------- arguments

def _learning_rate(text: str) -> float | str:
    """`auto`, or a positive finite number."""
    if text == 'auto':
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no learning rate: give a positive number such as 1e-3, or auto')
    return value


def _whole_number(least: int) -> Any:
    """A converter for whole numbers of at least `least`."""
    def convert(text: str) -> int:
        if not text.lstrip('+').isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is no whole number of at least {least}')
        return int(text)
    return convert


def _share(text: str) -> float:
    """A share between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no share: give a number between 0 and 1 such as 0.2')
    return value


def _add_runs(commands: Any) -> None:
    """The commands about runs."""
    runs = commands.add_parser('runs', help='list the runs in a folder',
                               description='A line a run that fit(..., run=DIR/NAME) has written, the oldest first.')
    runs.add_argument('folder', metavar='DIR', type=Path, help='the folder that holds the runs')
    runs.add_argument('--by', metavar='METRIC', help='the metric whose best value is shown (default: the first one)')
    runs.add_argument('--json', action='store_true', help='as JSON')
    runs.set_defaults(run='runs')

    compare = commands.add_parser('compare', help='what differs between runs, and what they measured',
                                  description='The settings in which runs differ, and their metrics side by side.')
    compare.add_argument('folders', metavar='RUN', type=Path, nargs='+', help='folders of runs, or one that holds them')
    compare.add_argument('--html', metavar='FILE', type=Path, help='write a page with the curves, without scripts')
    compare.add_argument('--json', action='store_true', help='as JSON')
    compare.set_defaults(run='compare')


def _add_train(commands: Any) -> None:
    """The parser of `minifast train`."""
    train = commands.add_parser(
        'train', formatter_class=_Defaults, help='train on a folder of pictures and save the model',
        description='FOLDER holds one folder of pictures a class, or the folders train and valid that do. Trains the '
                    'head of a pretrained model for one epoch, then all of it, and writes DIR/model.pth and '
                    'DIR/history.csv. Nothing else is written, and nothing unless the training ends well, but for the '
                    'checkpoints of --resume.')
    train.add_argument('folder', metavar='FOLDER', type=Path, help='the pictures')
    train.add_argument('--arch', default='resnet18', help='model: a name of torchvision or timm')
    train.add_argument('--epochs', type=_whole_number(1), default=3, metavar='N', help='epochs of the whole model')
    train.add_argument('--size', type=_whole_number(16), default=224, metavar='PX', help='side of the pictures seen')
    train.add_argument('--bs', type=_whole_number(2), default=64, metavar='N', help='pictures a batch, of each process')
    train.add_argument('--cut', type=int, metavar='N',
                       help='the first child of the model that belongs to its head (default: as known for --arch)')
    train.add_argument('--lr', type=_learning_rate, metavar='LR',
                       help='highest learning rate, or auto: from a trial run of at most a quarter of the training '
                            '(default: 2e-3, with --weights none 3e-3)')
    train.add_argument('--weights', default='imagenet', metavar='W',
                       help='start from imagenet, none (from scratch), or a FILE of weights')
    train.add_argument('--valid-pct', type=_share, metavar='P',
                       help='share kept for validation where there is no folder valid (default: 0.2)')
    train.add_argument('--skip-bad', action='store_true', help='leave out pictures that cannot be read, and name them')
    train.add_argument('--no-flip', action='store_true', help='never mirror pictures (digits, letters, signs)')
    train.add_argument('--workers', type=_whole_number(0), metavar='N', help='loader workers (default: by the cores)')
    train.add_argument('--nproc', type=_whole_number(1), default=1, metavar='N',
                       help='processes of this machine that train the one model together')
    train.add_argument('--seed', type=_whole_number(0), default=42, metavar='N', help='repeats a run exactly')
    train.add_argument('--out', type=Path, default=Path('minifast-model'), metavar='DIR', help='where the model goes')
    train.add_argument('--resume', action='store_true',
                       help='write checkpoints to DIR/checkpoints, and go on from the newest one where there is one')
    train.add_argument('--cb', action='append', default=[], metavar='PLUGIN',
                       help='a callback that minifast plugins lists, made without arguments; may be given repeatedly')
    train.set_defaults(run='train')


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `args.run` names the function of the chosen command."""
    parser = _Parser(prog='minifast', description='Train a picture classifier on a folder of pictures, and use it.',
                     epilog='Exit codes: 0 done, 1 something was found or left out, 2 a mistake you can mend, '
                            '130 Ctrl-C.')
    parser.add_argument('--version', action='version', version=f'minifast {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True, parser_class=_Parser)

    _add_train(commands)
    predict = commands.add_parser(
        'predict', formatter_class=_Defaults, help='classify pictures with a saved model',
        description='Prints a line a picture: file, class, probability. What cannot be read is left out and named on '
                    'stderr; the exit code is then 1.')
    predict.add_argument('model', metavar='MODEL', type=Path,
                         help='a file that minifast train or learn.export wrote, or the folder that train has named')
    predict.add_argument('files', metavar='FILE', type=Path, nargs='+', help='pictures, or folders of pictures')
    predict.add_argument('--json', action='store_true', help='a JSON list with all probabilities instead of the table')
    predict.add_argument('--bs', type=_whole_number(1), default=64, metavar='N', help='pictures a batch')
    predict.set_defaults(run='predict')

    check = commands.add_parser(
        'check', help='look a folder of pictures over before training',
        description='Tells classes, numbers and sizes, and looks for broken pictures, empty classes and all else that '
                    'train refuses or suffers from; exit code 1 where there is such a thing.')
    check.add_argument('folder', metavar='FOLDER', type=Path, help='the pictures')
    check.add_argument('--json', action='store_true', help='a JSON object instead (its fields: docs/command_line.md)')
    check.set_defaults(run='check')

    _add_runs(commands)

    demo = commands.add_parser('demo', formatter_class=_Defaults,
                               help='see transfer learning work on handwritten digits',
                               description='Trains on 5 pictures a class, with ten seeds: from scratch, and from a '
                                           'body that has seen other digits before.')
    demo.add_argument('--out', type=Path, default=Path('demo'), metavar='DIR', help='where pictures and model go')
    demo.set_defaults(run='demo')

    env = commands.add_parser('env', help='versions, devices and fast paths, for bug reports')
    env.add_argument('--json', action='store_true', help='as JSON')
    env.set_defaults(run='show_environment')

    plugins = commands.add_parser(
        'plugins', help='callbacks that other packages bring',
        description='A line a callback that an installed package registers; exit code 1 where one does not work.')
    plugins.add_argument('--check', action='store_true', help='train a tiny model with each, made without arguments')
    plugins.set_defaults(run='plugins')
    return parser


def _run(args: argparse.Namespace) -> int:
    """Run the chosen command; torch is imported only now, so that help and wrong arguments answer at once."""
    from minifast import commands
    try:
        if args.run == 'demo':
            from minifast.demo import run_demo
            commands.check_writable(args.out)
            run_demo(args.out)
            return 0
        if args.run == 'plugins':
            from minifast.plugins import show_plugins
            return show_plugins(args.check)
        if args.run in ('runs', 'compare'):
            from minifast import comparing
            return getattr(comparing, args.run)(args)
        return getattr(commands, args.run)(args)
    except commands.UserMistake as mistake:
        if not commands.leave_to_launcher(mistake):
            say(f'minifast {args.command}: {mistake}', sys.stderr)
        return 2
    except Exception as error:
        if not commands.leave_to_launcher(error):
            raise
        return 1


def _show_fault(error: Exception) -> None:
    """The traceback of a fault of the program; what a file says in the message is shown, not obeyed."""
    for part in traceback.TracebackException.from_exception(error).format():
        lines = part.rstrip('\n').split('\n') if part.startswith('  File ') else [part.strip('\n')]
        for line in lines:
            say(line, sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words after `minifast`; default those of the process.
    """
    args = build_parser().parse_args(argv)
    args.words = sys.argv[1:] if argv is None else argv
    try:
        return _run(args)
    except KeyboardInterrupt:
        if not os.environ.get('TORCHELASTIC_ERROR_FILE'):  # else the launcher says so, for all processes
            print(f'\nminifast {args.command}: stopped by Ctrl-C, no model was written', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output (head, less) has left, and has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        _show_fault(error)
        return 1
