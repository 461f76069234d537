"""The picture of RESULTS.md: every ratio that has a target, with its quartiles, over the target."""
from __future__ import annotations

import re
from pathlib import Path

row = re.compile(r'^\| ([^|]+) \| [\d.,]+ \| \*\*([\d.]+)\*\* \| ([\d.]+) - ([\d.]+) \| ([\d.]+) \|$')


def targets(markdown: str) -> list[tuple[str, float, float, float, float]]:
    """(what, ratio, lower and upper quartile, target) of every row with a target."""
    found, title = [], ''
    for line in markdown.splitlines():
        if line.startswith('### '):
            title = re.sub(r' \(.*|, CPU time.*', '', line[4:])
        match = row.match(line)
        if match:
            found.append((f'{title}: {match[1]}', *(float(match[i]) for i in range(2, 6))))
    return found


def draw(markdown: str, file: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure
    rows = targets(markdown)
    figure = Figure(figsize=(10, 1 + .33 * len(rows)), layout='constrained')
    ax = figure.subplots()
    for i, (_, ratio, low, high, target) in enumerate(rows):
        colour = 'tab:green' if ratio <= target else 'tab:red'
        ax.plot([low / target, high / target], [i, i], color=colour, linewidth=4, alpha=.4)
        ax.plot(ratio / target, i, 'o', color=colour)
    ax.axvline(1, color='black', linewidth=1)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel('measured ratio over its target: left of the line, it is met\nbar: quartiles of the rounds')
    figure.savefig(file, dpi=110)
