"""The documentation: its site builds without a warning and asks no network, its links lead somewhere, its reference is the
code's, and every command in it and in the README is run, or checked where its page says why it cannot be.

documented.py describes how commands are treated.
"""

import ast
import csv
import dataclasses
import html.parser
import itertools
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import urllib.parse

import click
import documented
import markdown_it
import pyarrow.parquet as pq
import pytest
import yaml

from launch.spec import Spec
from redundancy import config
from redundancy.cli.help import HELP
from redundancy.methods import METHODS
from redundancy.workdir import STAGES, Workdir

PAGES = documented.pages()
IDS = [str(page.relative_to(documented.REPO)) for page in PAGES]
_TAKEN = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


@pytest.fixture(scope="module")
def reference(repo):
    """The names of docs/scripts/reference.py."""
    return runpy.run_path(str(repo / "docs" / "scripts" / "reference.py"), run_name="reference")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("documented")


@pytest.fixture(scope="module")
def seen() -> set:
    return set()


@pytest.fixture(scope="module")
def environment(child_env, repo) -> dict[str, str]:
    return {**child_env, "PYTHONPATH": f"{repo}{os.pathsep}{child_env.get('PYTHONPATH', '')}"}


# Commands.


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_has_a_treatment(page):
    for block in documented.blocks(page):
        assert block.kind in ("run", "check", "script", "python", "syntax", "elsewhere", "text"), (
            f"{block.where} is {block.kind!r}: fence commands as bash, with <!-- check: WHY --> before them where they cannot "
            "be run; other code as python; everything else as text"
        )


@pytest.mark.parametrize("page", PAGES, ids=IDS)
@pytest.mark.soak
def test_commands_run(page, shared, seen, environment, command_server, tmp_path):
    scopes: dict[str, documented.Scope] = {}
    for block in documented.blocks(page):
        if block.kind not in ("run", "python"):
            continue
        if block.section not in scopes:
            scopes[block.section] = documented.Scope(
                tmp_path / str(len(scopes)), shared, environment, seen, command_server
            )
        _run(block, scopes[block.section])


def _run(block: documented.Block, scope: documented.Scope) -> None:
    if block.kind == "python":
        printed = scope.execute(block.text)
        assert printed == block.prints or not block.prints
    elif block.kind == "run":
        for words in documented.commands(block.text):
            scope.run(words)


def test_the_tutorial_on_embeddings_keeps_as_many_as_it_says(repo, shared, seen, environment, command_server, tmp_path):
    scope = documented.Scope(tmp_path / "scope", shared, environment, seen, command_server)
    page = repo / "docs" / "tutorials.md"
    for block in documented.blocks(page):
        if "embeddings" in block.section:
            _run(block, scope)
    kept = (scope.folder / "kept.txt").read_text().splitlines()
    assert f"{len(set(kept)):,} of the 1,797 images" in page.read_text()


@pytest.mark.soak
def test_the_readme_leads_from_a_folder_of_photos_to_a_folder_of_those_kept(
    repo, shared, seen, environment, command_server, tmp_path
):
    scope = documented.Scope(tmp_path / "scope", shared, environment, seen, command_server)
    texts = [block.text for block in documented.blocks(repo / "README.md")]
    (commands,) = [documented.commands(text) for text in texts if "--format folder" in text]
    assert [words[1] for words in commands] == ["run", "export"]
    for words in commands:
        scope.run(words)
    kept = scope.folder / "kept-images"
    found = sorted(str(path.relative_to(kept)) for path in kept.rglob("*.png"))
    # The last four of 40 images are the first four once more: the nine tenths that stay are the 36 that differ.
    assert found == [f"{name}/{number:02}.png" for name in ("bright", "dark") for number in range(36)]
    for name in found:
        assert (kept / name).read_bytes() == (scope.folder / "PATH" / "train" / name).read_bytes()
    page_list = pathlib.Path(scope.places["DIR"]) / "report" / "kept-0.9000.txt"
    assert page_list.read_text().splitlines() == [f"train/{name}" for name in found]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_that_are_not_run_are_right(page, environment):
    checked = [block for block in documented.blocks(page) if block.kind in ("script", "check")]
    for block in checked:
        documented.check_script(block.text)
    for block in documented.blocks(page):
        if block.kind == "syntax":
            ast.parse(block.text)
    commands = [words for block in checked if block.kind == "check" for words in documented.commands(block.text)]
    if commands:
        documented.check_all(commands, environment)


@pytest.mark.parametrize(
    "command",
    [
        "redundancy run --config configs/nothing.py --workdir DIR",
        "redundancy run --config nothing --workdir DIR",
        "redundancy run --config configs/digits.py --workdir DIR --config.step=3",
        "redundancy runs --config configs/digits.py --workdir DIR",
        "redundancy export --workdir DIR --fraction 0.9 --format npz --output x",
        'pip install "redundancy[rocm]"',
        "pip install -c constraint.txt .",
        "make tests",
        "python -m benchmarks.nothing",
        "python -m redundancy.data.to_npz --no_such_flag",
        "dask worker tcp://10.0.0.2:8786 --workers 3",
        "python -m launch logs RUN --hosts=1 --config launch/configs/v5e_spot.py",
        "python -m launch run --config launch/configs/local.py -- run --config configs/digits.py --workdir here",
        "rm -rf DIR",
    ],
)
def test_a_wrong_command_is_found(command, environment):
    (words,) = documented.commands(command)
    with pytest.raises((AssertionError, click.UsageError)):
        documented.check_all([words], environment)


def test_commands_are_split():
    text = 'A=1; B="x y"\nC=2 D=3 \\\n  one --two "three # four" | five  # six\nseven && eight\n'
    assert documented.commands(text) == [["one", "--two", "three # four"], ["five"], ["seven"], ["eight"]]


# Reference.


def test_reference_pages_are_up_to_date(reference):
    assert not list(reference["stale"]()), "run: python docs/scripts/reference.py"


@pytest.mark.soak
def test_artifacts_are_those_of_a_whole_run(reference, shared, seen, environment, command_server, tmp_path):
    scope = documented.Scope(tmp_path / "scope", shared, environment, seen, command_server)
    scope.run(["redundancy", "run", "--config", "digits", "--workdir", "/tmp/digits"])
    scope.run(["redundancy", "report", "--config", "digits", "--workdir", "/tmp/digits", "--style", "paper"])
    scope.run(
        ["redundancy", "import", "--workdir", "DIR", "--embeddings", "E.npy", "--labels", "Y.npy", "--ids", "I.txt"]
    )
    roots = [shared / "digits", pathlib.Path(scope.places["DIR"])]
    found = set()
    for root in roots:
        for path in filter(pathlib.Path.is_file, sorted(root.rglob("*"))):
            name = str(path.relative_to(root))
            (artifact,) = [each for each in reference["ARTIFACTS"] if re.fullmatch(each.pattern, name)] or [None]
            assert artifact is not None, f"{name} is not in docs/scripts/reference.py"
            found.add(artifact.path)
            _check_fields(artifact, path, reference)
    # What these runs do not write: errors, skipped files, measurements on accelerators, pages of many classes, leases, looks
    # of sweeps in rounds, and scores.
    missing = {each.path for each in reference["ARTIFACTS"]} - found
    others = {
        "last_error.json, last_error-part-I-of-N.json", "skipped_images.csv", "runs/packing.json",
        "report/classes/NNNNN.js", "report/names.js", "runs/looks.json", "scores/networks/networkI/",
        "scores/networks/packing.json", "scores/NAME.parquet", "scores/manifest.json",
    }  # fmt: skip
    assert {name for name in missing if not name.startswith((".lock", ".lease"))} == others


def _check_fields(artifact, path, reference):
    documented_fields = set(artifact.fields)
    if artifact.kind == "parquet":
        schema, wanted = pq.read_schema(path), reference["schemas"]()[artifact.path]
        assert schema.names == wanted.names == list(artifact.fields)
        types = [str(each).partition("[")[0] for each in schema.types]
        assert types == [str(each).partition("[")[0] for each in wanted.types]
        return
    if artifact.kind == "json":
        lines = [{name for name in json.loads(path.read_text()) if name != reference["SUM"]}]
    elif artifact.kind == "jsonl":
        lines = [set(json.loads(line)) for line in path.read_text().splitlines()]
    elif artifact.kind == "csv":
        with open(path, newline="") as file:
            lines = [set(next(csv.reader(file)))]
    else:
        return
    for names in lines:
        assert documented_fields - artifact.optional <= names <= documented_fields, (
            f"{path}: {names ^ documented_fields}"
        )


# Pictures and words.


@pytest.mark.soak
def test_pictures_are_drawn_from_a_workdir(repo, shared, seen, environment, command_server, tmp_path):
    scope = documented.Scope(tmp_path / "scope", shared, environment, seen, command_server)
    scope.run(["redundancy", "run", "--config", "digits", "--workdir", "/tmp/digits"])
    names = runpy.run_path(str(repo / "docs" / "scripts" / "figures.py"), run_name="figures")
    names["draw"](Workdir(str(shared / "digits")), tmp_path / "drawn")
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {path.name for path in (repo / "docs" / "images" / "method").iterdir()}
    for path in (repo / "docs" / "images" / "method").iterdir():
        text = path.read_text()
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"(?:href|src)=\"http|url\(http", text)


def _tokens(page: pathlib.Path, inner: bool = True):
    """The tokens of a page, each followed by those in it."""
    for token in markdown_it.MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        yield token
        yield from (inner and token.children) or ()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_fields_and_files_in_the_text_exist(page, repo):
    for code in (token.content for token in _tokens(page) if token.type == "code_inline"):
        if (found := re.match(r"redundancy ([a-z]+)\b", code)) and "/" not in code:
            assert found[1] in (*STAGES, "run", *HELP), code
        for field in re.findall(r"(?<!redundancy\.)\bconfig\.([a-z]\w+)", code):
            of_launch = {each.name for each in dataclasses.fields(Spec)} if page.name == "launch.md" else set()
            assert field in config.FIELDS or field in of_launch or field in ("json", "py"), code
        if re.fullmatch(r"(?:tests|docs|configs|benchmarks|redundancy|launch)/[\w./-]+", code):
            assert (repo / code).exists(), code


def test_every_method_is_described(repo):
    text = (repo / "docs/methods.md").read_text()
    described = {
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert {name.removesuffix("_easy") for name in METHODS} <= described


def test_the_rooms_of_the_architecture_are_those_of_the_code(repo):
    text = (repo / "docs/architecture.md").read_text()
    rooms = {path.name for path in (repo / "redundancy").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) == rooms
    named = [code for code in re.findall(r"`([a-z]+/[\w./]+)`", text) if "NAME" not in code and "SECTION" not in code]
    assert [code for code in named if not any((repo / root / code).exists() for root in ("", "redundancy"))] == []


# The site.


class _Page(html.parser.HTMLParser):
    """Ids, links, and what a browser would load, of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = {name: value or "" for name, value in attrs}
        self.ids |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        for name in named:
            if (tag, name) in _TAKEN and named.get("rel") != "canonical":
                self.loads.append(named[name])


@pytest.fixture(scope="module")
def site(repo, tmp_path_factory) -> pathlib.Path:
    """The built site; warnings are errors. Built from a copy, so that nothing is left in the checkout."""
    pytest.importorskip("zensical")
    root = tmp_path_factory.mktemp("site")
    shutil.copy(repo / "mkdocs.yml", root)
    shutil.copytree(repo / "docs", root / "docs")
    argv = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    return root / "site"


@pytest.fixture(scope="module")
def built(site) -> dict[pathlib.Path, _Page]:
    return {path: _Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_is_in_the_navigation(repo):
    def files(entries):
        for entry in entries:
            for value in entry.values():
                yield from files(value) if isinstance(value, list) else [value]

    listed = list(files(yaml.safe_load((repo / "mkdocs.yml").read_text())["nav"]))
    there = {str(page.relative_to(repo / "docs")) for page in (repo / "docs").rglob("*.md")}
    assert set(listed) == there
    assert len(listed) == len(there)


def test_the_site_asks_no_network(site, built):
    assert len(built) > 10
    for path, page in built.items():
        for url in page.loads:
            assert not re.match(r"(?:https?:)?//", url), f"{path.name} loads {url}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//", path.read_text()), path.name
    assert not list(site.rglob("*.py"))


def test_links_of_the_site_lead_somewhere(site, built):
    for path, page in built.items():
        if path.name == "404.html":  # its links are from the root
            continue
        for url in page.links + page.loads:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme or not url:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name}: {url}"
            assert target.is_relative_to(site.resolve()), f"{path.name}: {url} is outside of the site"
            if parts.fragment and target in built:
                assert urllib.parse.unquote(parts.fragment) in built[target].ids, f"{path.name}: {url}"


def _slugs(page: pathlib.Path) -> set[str]:
    """Anchors of a page in the repository's web view."""
    found: set[str] = set()
    for token, content in itertools.pairwise(_tokens(page, inner=False)):
        if token.type == "heading_open":
            plain = "".join(child.content for child in content.children)
            found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_of_the_repository_lead_somewhere(page, repo):
    docs = repo / "docs"
    for url in (token.attrs[name] for token in _tokens(page) for name in ("href", "src") if name in token.attrs):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme:
            continue
        target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
        assert target.exists(), f"{page.name}: {url}"
        assert not page.is_relative_to(docs) or target.is_relative_to(docs), f"{page.name}: {url} is not in the site"
        if parts.fragment:
            assert parts.fragment in _slugs(target), f"{page.name}: {url}"


def test_the_site_in_a_browser_loads_only_its_own_files(site):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "method.html", "reference/configs.html"):
            tab.goto((site / name).as_uri(), wait_until="networkidle")
        broken = tab.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert not broken


def test_the_tables_of_results_are_those_of_the_files(repo):
    names = runpy.run_path(str(repo / "docs" / "scripts" / "results.py"), run_name="results")
    page = (repo / "docs" / "results.md").read_text()
    assert names["draw"]() == (repo / "docs" / "images" / "results.svg").read_text()
    for folder in names["SETS"].values():
        assert names["table"](names["summaries"](folder)) in page
