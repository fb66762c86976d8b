"""The blocks of code in the README and in docs/, and how the tests treat each; no block is skipped.

A block of shell commands (indented, or fenced as bash) is *run*, as it stands, on small variants (see `Scope`). A comment
before a block, `<!-- check: WHY -->`, says that it is checked alone: every command's flags, files and config, without doing
anything; `<!-- script: WHY -->` that it is a file whose syntax is checked. A block fenced as python is run where the commands
before it were; with `check` its syntax is checked. One fenced as text is no command; right after one of python it is what
that prints.
"""

import ast
import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib

import markdown_it
import numpy as np
from PIL import Image

from tests.command_server import Server

REPO = pathlib.Path(__file__).resolve().parents[1]
# Of other programs: their names alone are known, and only where a block is not run.
_FOREIGN = {"gcloud", "sudo", "wc", "tmux", ".", "/opt/venv/bin/redundancy", "cd", "git", "export"}
# Whose Python blocks have a test of their own: tests/test_interop.py, tests/interface/test_python_page.py.
_ELSEWHERE = {"docs/interop.md", "docs/python.md"}
_PLACEHOLDERS = {"CONFIG": "digits", "HOST:PORT": "host:1234", "N": "4", "I": "0", "I/N": "0/4"}


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
      page: its file, below the repository.
      line: where it begins.
      section: the heading of level 2 that it stands under.
      kind: "run", "check", "script", "python", "syntax", "elsewhere" or "text"; another word where its treatment is not
        known.
      text: its content.
      prints: what it prints; "" if the page does not say.
    """

    page: str
    line: int
    section: str
    kind: str
    text: str
    prints: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: pathlib.Path) -> list[Block]:
    """All blocks of code of a page."""
    found, section, marker = [], "", None
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(page.read_text())
    for token, following in itertools.pairwise([*tokens, None]):
        if token.type == "heading_open" and token.tag == "h2":
            section = tokens[tokens.index(token) + 1].content
        if token.type in ("fence", "code_block"):
            language = token.info.strip() if token.type == "fence" else "bash"
            kind = language or "no language"
            if language == "bash":
                kind = marker or "run"
            if language == "python" and str(page.relative_to(REPO)) in _ELSEWHERE:
                kind = "elsewhere"
            elif language == "python" and marker:
                kind = "syntax" if marker == "check" else f"python, marked {marker}"
            prints = following.content if kind == "python" and following and following.info == "text" else ""
            found.append(Block(str(page.relative_to(REPO)), token.map[0] + 1, section, kind, token.content, prints))
        if token.type in ("fence", "code_block", "paragraph_open", "heading_open", "table_open"):
            marker = None
        if token.type == "html_block" and (comment := re.fullmatch(r"<!-- (\w+): .+ -->\s*", token.content)):
            marker = comment[1]
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block: comments, continued lines, variables and pipes taken away."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ("|", "||", "&&", ";", "&"):
                if words or not re.match(r"[A-Z_]+=", word):  # X=1 before a command, or alone
                    words.append(word)
            elif words:
                found.append(words)
                words = []
    return found


class Scope:
    """A folder in which the commands of one section run in their order, each a process of its own.

    What makes them small: the configs `digits` and `folder:` are run as their variant `:smoke`; `digits` and `folder:PATH` in
    one finished workdir for all pages, for any --workdir, unless fields are overridden; PATH, E.npy, Y.npy and I.txt are
    files made here; /tmp/digits, and what no command of the section wrote, is the digits' workdir, too, and
    /tmp/digits-longer a copy of it. Commands of the launcher are planned.
    """

    def __init__(self, folder: pathlib.Path, shared: pathlib.Path, env: dict[str, str], seen: set, server: Server):
        self.folder, self.shared, self.env, self.seen, self.server = folder, shared, env, seen, server
        self.places: dict[str, str] = {
            "/tmp/digits": str(shared / "digits"),
            "/tmp/digits-longer": str(shared / "longer"),
        }
        folder.mkdir(parents=True)
        (folder / "launch").symlink_to(REPO / "launch")
        shutil.copy(REPO / "constraints.txt", folder)
        inputs = shared / "inputs"
        if not inputs.exists():
            _make_inputs(inputs)
        for name in os.listdir(inputs):
            (folder / name).symlink_to(inputs / name)

    def _family(self, words: list[str]) -> str | None:
        """The shared workdir of a command, by its config; None where it has one of its own."""
        if any(word.startswith("--config.") for word in words):
            return None
        config = next((words[at + 1] for at, word in enumerate(words[:-1]) if word == "--config"), "")
        if ":smoke" in config:
            return None
        return "images" if config == "folder:PATH" else {"digits": "digits"}.get(config.split(":")[0])

    def small(self, words: list[str]) -> list[str]:
        """The command as it is run."""
        words = list(words)
        family = self._family(words)
        for at, word in enumerate(words):
            if words[at - 1] == "--config" and re.fullmatch(r"digits(:quick)?|folder:\w+", word):
                words[at] = f"{word.removesuffix(':quick')}:smoke"
            if word == "--workdir":
                name = words[at + 1]
                if family or (words[1] in ("export", "status") and name not in self.places):
                    self.places[name] = str(self.shared / (family or "digits"))
                self.places.setdefault(name, str(self.folder / name.lstrip("/")))
        return [self.places.get(word, word) for word in words]

    def _finish(self, text: str) -> None:
        """Makes the digits' workdir, where the text names it and it is not there."""
        digits, longer = self.shared / "digits", self.shared / "longer"
        if (str(digits) in text or str(longer) in text) and not (digits / "report").exists():
            self.run(["redundancy", "run", "--config", "digits", "--workdir", "/tmp/digits"])
        if str(longer) in text and not longer.exists():
            shutil.copytree(digits, longer)

    def run(self, words: list[str]) -> None:
        """Runs a command; fails where it fails."""
        if words[:3] == ["python", "-m", "launch"]:
            return check(words, self.env)
        small = self.small(words)
        if words[1] != "run":
            self._finish(" ".join(small))
        if small[0] == "redundancy" and small[1] != "browse" and "--watch" not in words:  # which do not end
            argv = small
        elif small[:2] == ["python", "-m"] and small[2].startswith("redundancy."):
            argv = [sys.executable, *small[1:]]
        else:
            raise AssertionError(
                f"a command that cannot be run here: {words}; put <!-- check: WHY --> before the block"
            )
        key = tuple(argv) if str(self.shared) in "".join(argv) and "export" not in argv else (*argv, self.folder)
        if key in self.seen:
            return
        if argv is small:
            done, _ = self.server.run(argv[1:], env=self.env, cwd=self.folder, seconds=240)
        else:
            done = subprocess.run(
                argv, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=240, check=False
            )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
        self.seen.add(key)

    def execute(self, text: str) -> str:
        """Runs a block of Python, and returns what it prints."""
        for name, path in sorted(self.places.items(), key=lambda item: -len(item[0])):
            text = re.sub(rf'(?<=")\b{name}(?=/)' if name[0] != "/" else rf"{name}(?=/)", path, text)
        self._finish(text)
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed):
            exec(compile(ast.parse(text), "documentation", "exec"), {})
        return printed.getvalue()


def _make_inputs(folder: pathlib.Path) -> None:
    """300 embeddings of four classes with labels and ids, and 96 small images of two classes in a folder.

    Of the 40 images of a class that are trained on, the last four are the first four once more.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.save(folder / "E.npy", rng.normal(size=(300, 12)).astype(np.float32))
    np.save(folder / "Y.npy", rng.integers(0, 4, size=300))
    (folder / "I.txt").write_text("".join(f"image {row}\n" for row in range(300)))
    for split, count in (("train", 40), ("test", 8)):
        for label, level in (("bright", 170), ("dark", 80)):
            (folder / "PATH" / split / label).mkdir(parents=True)
            pixels = rng.integers(level - 60, level + 60, size=(count, 36, 40, 3)).astype(np.uint8)
            for number in range(count):
                image = Image.fromarray(pixels[number % 36])
                image.save(folder / "PATH" / split / label / f"{number:02}.png")


# Checks of commands that are not run.


# Forks for each command, so that what it needs is imported once.
_CHECK = """
import json, os, sys
from redundancy.cli import main
for argv in json.load(sys.stdin):
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = main.check(["redundancy", *argv])
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code or 0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(" ".join(argv))
"""


def check_all(commands: list[list[str]], env: dict[str, str]) -> None:
    """Checks several commands, see `check`."""
    given = [_given(words) for words in commands]
    ours = [words[1:] for words in given if words[0].rpartition("/")[2] == "redundancy"]
    if ours:
        done = subprocess.run(
            [sys.executable, "-c", _CHECK],
            cwd=REPO,
            env=env,
            input=json.dumps(ours),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    for words in commands:
        if _given(words)[0].rpartition("/")[2] != "redundancy":
            check(words, env)


def _given(words: list[str]) -> list[str]:
    """A command with values in place of those that the documentation leaves open."""
    words = [_PLACEHOLDERS.get(word, word) for word in words]
    words = [re.sub(r"=(HOST:PORT|I/N|[NI])$", lambda found: f"={_PLACEHOLDERS[found[1]]}", word) for word in words]
    words = [re.sub(r"gs://[A-Z_]+", lambda found: found[0].lower(), word) for word in words]
    return [word.replace("PATH", "/path") if word.startswith("folder:") else word for word in words]


def check(words: list[str], env: dict[str, str]) -> None:
    """Fails where a command's program, files, flags or config are wrong."""
    words = _given(words)
    program = words[0]
    if program.endswith("/redundancy"):
        program = "redundancy"
    if program == "redundancy":
        code = "import sys; from redundancy.cli import main; sys.exit(main.check(['redundancy', *sys.argv[1:]]))"
        _need_success([sys.executable, "-c", code, *words[1:]], env)
    elif words[:3] == ["python", "-m", "launch"]:
        _check_launch(words[3:], env)
    elif words[:2] == ["python", "-m"]:
        _check_module(words[2], words[3:])
    elif program == "pip":
        _check_pip(words[1:])
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= {*targets}, f"no target of the Makefile: {words}"
    elif program == "dask":
        _check_dask(words[1:])
    else:
        assert program in _FOREIGN, f"an unknown program: {words}"


def _need_success(argv: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{shlex.join(argv[3:])}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"


def _check_launch(words: list[str], env: dict[str, str]) -> None:
    """A run or preflight of the launcher is planned, which reports mistakes; other verbs have their flags looked up."""
    cut = words.index("--") if "--" in words else len(words)
    if words[0] in ("plan", "run", "preflight"):
        own = [word for word in words[1:cut] if word != "--delete-on-exit"]
        with tempfile.TemporaryDirectory() as folder:  # a gcloud that knows nothing, so that nobody's account is asked
            gcloud = pathlib.Path(folder) / "gcloud"
            gcloud.write_text("#!/bin/sh\nexit 1\n")
            gcloud.chmod(0o755)
            env = {**env, "PATH": f"{folder}{os.pathsep}{env['PATH']}"}
            _need_success([sys.executable, "-m", "launch", "plan", *own, *words[cut:]], env)
        return
    code = (
        "import json, sys; from launch import __main__ as launch; print(json.dumps(launch.VERBS)); "
        "launch.parse(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", code, *words]
    done = subprocess.run(argv, cwd=REPO, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}\n{done.stderr[-2000:]}"
    assert words[0] in json.loads(done.stdout)


def _check_module(name: str, words: list[str]) -> None:
    """The module is there, and its source names the flags."""
    path = REPO / (name.replace(".", "/") + ".py")
    assert path.exists(), f"there is no module {name}"
    source = path.read_text()
    for word in words:
        if word.startswith("--"):
            flag = word.split("=")[0]
            assert flag in source or flag[2:] in source, f"{name} has no {flag}"


def _check_pip(words: list[str]) -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[0] in ("install", "wheel"), words
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("-c", "-r"):
            assert (REPO / following).exists(), following
        if found := re.fullmatch(r"(?:redundancy|\.)\[(.*)\]", word):
            assert {*found[1].split(",")} <= {*extras}, f"pyproject.toml has no extra of {found[1]}"


def _check_dask(words: list[str]) -> None:
    from distributed.cli import dask_scheduler, dask_worker

    command = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[words[0]]
    command.make_context(words[0], words[1:])


def check_script(text: str) -> None:
    """Fails where a shell script does not parse."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@functools.cache
def pages() -> list[pathlib.Path]:
    """The pages whose commands are held to what they say."""
    return [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
