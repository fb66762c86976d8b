"""The README lists what there is. Its commands are run by test_docs.py."""

import re

from redundancy.cli.help import HELP
from redundancy.config import shipped
from redundancy.workdir import STAGES


def test_every_config_and_command_is_listed(repo):
    text = (repo / "README.md").read_text()
    for name in shipped():
        assert re.search(rf"^\| .*`{name}(:PATH)?`.* \|", text, re.MULTILINE)
    for name in (*STAGES, "run", *HELP):
        assert f"| `{name}` |" in text


def test_every_page_is_linked(repo):
    text = (repo / "README.md").read_text()
    for page in (repo / "docs").rglob("*.md"):
        assert f"({page.relative_to(repo)})" in text
