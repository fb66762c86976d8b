"""The README lists what there is. Its commands are run by test_docs.py."""

from redundancy.cli.help import HELP
from redundancy.workdir import STAGES


def test_every_config_and_command_is_listed(repo):
    text = (repo / "README.md").read_text()
    for path in (repo / "configs").glob("*.py"):
        assert f"configs/{path.name}" in text
    for name in (*STAGES, "run", *HELP):
        assert f"| `{name}` |" in text


def test_every_page_is_linked(repo):
    text = (repo / "README.md").read_text()
    for page in (repo / "docs").rglob("*.md"):
        assert f"({page.relative_to(repo)})" in text
