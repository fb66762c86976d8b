"""Writes the BibTeX entries of `redundancy report --style paper` from CITATION.cff: of the paper, and of this software.

python docs/scripts/citation.py
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

_REPO = pathlib.Path(__file__).resolve().parents[2]
FILE = _REPO / "redundancy" / "report" / "assets" / "citation.bib"


def _author(person: Mapping[str, str]) -> str:
    return f"{{{person['name']}}}" if "name" in person else f"{person['family-names']}, {person['given-names']}"


def _entry(kind: str, key: str, cited: Mapping[str, Any], **fields: Any) -> str:
    fields = {"author": " and ".join(map(_author, cited["authors"])), "title": f"{{{cited['title']}}}", **fields}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}\n"]).replace("%", r"\%")


def bibtex() -> str:
    """The entries."""
    software = yaml.safe_load((_REPO / "CITATION.cff").read_text())
    paper = software["preferred-citation"]
    of_paper = {name: paper[name] for name in ("journal", "year", "url")}
    note = f"Version {software['version']}, {software['license']}"
    entries = [
        _entry(paper["type"], "birodkar2019semantic", paper, **of_paper),
        _entry("misc", "redundancy", software, howpublished="Software", note=note),
    ]
    return "\n".join(entries)


if __name__ == "__main__":
    FILE.write_text(bibtex())
