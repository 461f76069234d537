"""Writes docs/export.schema.json: what the description in an export may say, from the table that checks it.

`make generated` runs it; tests/test_export.py fails while the file is out of date.
"""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minifast.limits import json_schema

FILE = Path(__file__).resolve().parent.parent / 'docs' / 'export.schema.json'


def text(value: Any, indent: str = '') -> str:
    """JSON with each object and list in one line where it fits into 120 letters."""
    line = json.dumps(value)
    if len(indent) + len(line) < 110 or not isinstance(value, (dict, list)):
        return line
    deeper = indent + '  '
    if isinstance(value, list):
        parts, (left, right) = [text(part, deeper) for part in value], '[]'
    else:
        parts, (left, right) = [f'{json.dumps(k)}: {text(v, deeper)}' for k, v in value.items()], '{}'
    return f'{left}\n{deeper}' + f',\n{deeper}'.join(parts) + f'\n{indent}{right}'


if __name__ == '__main__':
    FILE.write_text(text(json_schema()) + '\n', encoding='utf-8')
