"""All texts that a reader of the portal may see, collected from code and templates. Run it for those without Korean:

python -m tests.unit.portal.texts
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from babel.messages.extract import extract_from_dir

import slurm_gpuaas
from slurm_gpuaas.portal.words import LOCALE, read_catalogue

PACKAGE = Path(slurm_gpuaas.__file__).parent
KEYWORDS = {"told": None, "t": None, "say": None, "noted": None}
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2.ext:babel_extract")]


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """File and text."""
    return tuple(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    for file, _line, message, _comments, _context in extract_from_dir(
        PACKAGE,
        METHODS,
        keywords=KEYWORDS,
        options_map={"**/templates/**.html": {"trimmed": "false", "silent": "false"}},
    ):
        yield str(file), message if isinstance(message, str) else message[0]


if __name__ == "__main__":
    known = read_catalogue(LOCALE / "ko")
    for text, file in {text: file for file, text in texts() if text not in known}.items():
        print(f"#: {file}\nmsgid {text!r}")
