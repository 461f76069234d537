"""Runs the scripts of this folder under one library and keeps what they found.

Only the import lines change: `from fastai.vision.all import *` becomes `from minifast.vision.all import *`.

    python tests/compat/runner.py fastai            # writes tests/data/compat_results.json and compat_pixels.npz
    python tests/compat/runner.py minifast data_    # prints the differences from the stored results
"""
from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import drawn  # noqa: E402

SCRIPTS = sorted(file.stem for file in (HERE / 'scripts').glob('*.py'))
RESULTS = HERE.parent / 'data' / 'compat_results.json'
PIXELS = HERE.parent / 'data' / 'compat_pixels.npz'
SEEDS = (42, 1, 2, 3, 4)


def source(script: str, library: str) -> str:
    """The text of a script with its import lines switched to `library`."""
    text = (HERE / 'scripts' / f'{script}.py').read_text(encoding='utf-8')
    return re.sub(r'^(\s*(?:from|import) )fastai\b', rf'\1{library}', text, flags=re.MULTILINE)


def run_script(script: str, library: str, seed: int = 42) -> dict[str, Any]:
    """The `result` of a script as plain data; arrays of pixels stay numpy arrays."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as temporary:
        # scripts change into their folder as a notebook has one; a fixed name keeps it out of the results
        drawn.folder, drawn.seed = Path(temporary) / 'work', seed
        drawn.folder.mkdir()
        os.chdir(drawn.folder)
        namespace: dict[str, Any] = {'__name__': '__main__'}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source(script, library), f'{script}.py', 'exec'), namespace)
        finally:
            os.chdir(before)
            plt.close('all')
    return {key: plain(value) for key, value in namespace['result'].items()}


def plain(value: Any) -> Any:
    """Numbers, texts, lists and dicts of them; tensors of more than 64 elements as numpy arrays."""
    if hasattr(value, 'detach'):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return np.asarray(value) if value.size > 64 else plain(value.tolist())
    if isinstance(value, (bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (str, Path)):
        return str(value)
    return [plain(item) for item in value]


def differences(found: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """What is not equal: `score_*` is left to the test of seeds, `near_*` and arrays may differ a little."""
    lines = [f'{key}: only on one side' for key in sorted(found.keys() ^ stored.keys())]
    for key in sorted(found.keys() & stored.keys()):
        ours, theirs = found[key], stored[key]
        if key.startswith('score_'):
            continue
        if isinstance(ours, np.ndarray) or key.startswith('near_'):
            ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
            if ours.shape != theirs.shape:
                lines.append(f'{key}: shape {ours.shape}, fastai {theirs.shape}')
            elif abs(ours - theirs).mean() > 1 / 255:
                lines.append(f'{key}: mean difference {abs(ours - theirs).mean():.4f}')
        elif ours != theirs:
            lines.append(f'{key}: {ours!r}, fastai {theirs!r}')
    return lines


def load_stored() -> dict[str, dict[str, Any]]:
    """The results under fastai: script -> key -> value, pixels included, scores as {seed: value}."""
    stored = json.loads(RESULTS.read_text(encoding='utf-8'))['results']
    with np.load(PIXELS) as pixels:
        for name in pixels.files:
            script, key = name.split('/')
            stored[script][key] = pixels[name]
    return stored


def record(scripts: list[str]) -> None:
    """Run scripts under fastai and store their results, scores for every seed."""
    import fastai
    import torch
    old = json.loads(RESULTS.read_text(encoding='utf-8'))['results'] if RESULTS.exists() else {}
    pixels = dict(np.load(PIXELS)) if PIXELS.exists() else {}
    for script in scripts:
        pixels = {name: array for name, array in pixels.items() if name.split('/')[0] != script}
        found = run_script(script, 'fastai')
        for key in [key for key, value in found.items() if isinstance(value, np.ndarray)]:
            # thousandths are enough for a comparison within 1/255, and half floats keep the file small
            pixels[f'{script}/{key}'] = found.pop(key).astype(np.float16)
        scores = {key: [value] for key, value in found.items() if key.startswith('score_')}
        for seed in SEEDS[1:] if scores else ():
            again = run_script(script, 'fastai', seed)
            for key in scores:
                scores[key].append(again[key])
        old[script] = {**found, **scores}
        print(script, scores)
    about = (f'Written by `python tests/compat/runner.py fastai` with fastai {fastai.__version__}, torch '
             f'{torch.__version__}; score_* hold one value for each of the seeds {list(SEEDS)}.')
    RESULTS.write_text(json.dumps({'about': about, 'results': dict(sorted(old.items()))}, indent=1) + '\n',
                       encoding='utf-8')
    np.savez_compressed(PIXELS, **dict(sorted(pixels.items())))


def main() -> None:
    """Record under fastai, compare under any other library."""
    library, *patterns = sys.argv[1:]
    scripts = [script for script in SCRIPTS if not patterns or any(p in script for p in patterns)]
    if library == 'fastai':
        record(scripts)
        return
    stored = load_stored()
    import traceback
    for script in scripts:
        try:
            found = run_script(script, library)
        except Exception:
            print(f'{script}: FAILED\n{traceback.format_exc()}')
            continue
        scores = {key: (value, stored[script].get(key)) for key, value in found.items() if key.startswith('score_')}
        print(f'{script}:', differences(found, stored[script]) or 'equal', scores or '')


if __name__ == '__main__':
    main()
