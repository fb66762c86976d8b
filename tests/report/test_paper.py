"""What `redundancy report --style paper` writes: figures a column wide, a table as LaTeX, and BibTeX."""

import re
import runpy
import shutil

import pytest
from synthetic import make_workdir, noise_images, unfinish

from redundancy import storage
from redundancy.report import page, paper, statistics, words
from redundancy.workdir import Workdir


def make(root, **fields):
    images, labels = noise_images(60)
    return make_workdir(root, images, labels, **fields)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    config, workdir = make(tmp_path_factory.mktemp("plain"), depth=20, steps=1234, warmup_steps=10, batch_size=32)
    return config, workdir, paper.write(config, workdir)


def read(folder, name):
    return storage.read_bytes(storage.join(folder, name)).decode()


def plain_text(latex):
    """What LaTeX prints, of the commands that the table uses."""
    text = latex.replace(r"\textbackslash{}", "\0").replace("$-$", words.MINUS)
    for command, letter in (
        ("less", "<"),
        ("greater", ">"),
        ("bar", "|"),
        ("asciitilde", "~"),
        ("asciicircum", "^"),
        ("asciigrave", "`"),
    ):
        text = text.replace(rf"\text{command}{{}}", letter)
    text = re.sub(r"\\scriptsize|(?<!\\)[{}]", "", text)
    return re.sub(r"\\([{}$&#%_])", r"\1", text).replace("\0", "\\")


def test_figure_is_a_column_wide_with_letters_of_8_points_and_embedded_truetype_fonts(plain):
    pdf = storage.read_bytes(storage.join(plain[2], "figure2.pdf"))
    assert re.search(rb"/MediaBox \[ ?0 0 237\.6 ", pdf)
    assert b"/CIDFontType2" in pdf
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"/Subtype /Image" not in pdf


def test_table_holds_the_numbers_of_the_page(plain):
    _, workdir, folder = plain
    table = read(folder, "table.tex")
    found = statistics.summarise(statistics.parse_results(storage.read_bytes(workdir.results).decode()))
    body = table[table.index(r"\midrule") : table.index(r"\bottomrule")]
    rows = [plain_text(line.removesuffix(r" \\")) for line in body.splitlines() if line.count("&") == 3]
    assert [row.split(" & ")[0] for row in rows] == [f"{100 * item.fraction:g}" for item in found]
    for row, item in zip(rows, found, strict=True):
        _, accuracy, to_full, to_random = row.split(" & ")
        assert accuracy == f"{words.accuracy(item.mean)} ({words.accuracy(item.std)})"
        for shown, difference in ((to_full, item.to_full), (to_random, item.to_random)):
            if difference is None:
                assert shown == "--"
                continue
            ends = ", ".join(words.points(end) for end in (difference.low, difference.high))
            assert shown == f"{words.points(difference.mean)} [{ends}]"
    assert re.findall(r"multicolumn\{4\}\{@\{\}l\}\{(.*)\}", body) == ["full set", "semantic clustering", "random"]


def test_caption_tells_the_protocol(plain):
    caption = plain_text(re.search(r"\\caption\{(.*)\}\\smallskip", read(plain[2], "table.tex"))[1])
    for said in ("images: test accuracy (%)", "60 training images", "3 trials", "95% interval", "ResNet-20",
                 "1,234 steps of 32 images", "360 test images"):  # fmt: skip
        assert said in caption
    assert "Interim" not in caption


@pytest.mark.parametrize(
    ("fields", "there", "missing"),
    [
        ({"trials": 1}, "and differences in points. One trial.", "interval"),
        ({"fractions": (1.0,)}, "training images. Means over 3 trials (standard deviation).", "differences|linkage"),
    ],
)
def test_caption_speaks_only_of_what_the_table_has(tmp_path, fields, there, missing):
    config, workdir = make(tmp_path, **fields)
    caption = plain_text(re.search(r"\\caption\{(.*)\}\\smallskip", read(paper.write(config, workdir), "table.tex"))[1])
    assert there in caption
    assert not re.search(missing, caption)


def test_names_from_outside_are_printed_as_they_are():
    hostile = r"50%_of #1 \input{x} $y^2$ & ~<a|b> `a` b--c" + '"\n'
    latex = paper.escaped(hostile)
    assert plain_text(latex) == hostile.replace('"', "''").replace("\n", " ")
    assert not re.search(r"(?<!\\)[%#&_]|\\input|\n", latex)
    item = statistics.Summary("score_a_b", "end", 0.9, 54, 1, 0.5, float("nan"), None, None)
    table = paper.latex_table([item], latex)
    assert latex in table
    assert r"{a\_b} \\" in table
    assert r"90 & 50.00 & -- & -- \\" in table


def test_several_layers_have_a_figure_and_headings_of_their_own(tmp_path):
    config, workdir = make(tmp_path, layers=("start", "end"))
    folder = paper.write(config, workdir)
    assert sorted(storage.list_dir(folder)) == ["citation.bib", "figure2.pdf", "figure8.pdf", "table.tex"]
    table = read(folder, "table.tex")
    assert "{semantic clustering, start}" in table
    assert "{semantic clustering, end}" in table
    assert "{random}" in table


def test_an_unfinished_sweep_has_its_complete_trials_and_says_so(plain, tmp_path):
    config, workdir = plain[0], Workdir(str(tmp_path / "work"))
    shutil.copytree(plain[1].root, workdir.root)
    unfinish(config, workdir)
    storage.remove(workdir.result("random-0.6000-trial1"))
    table = read(paper.write(config, workdir), "table.tex")
    assert "Interim: 2 of 3 trials are complete." in table
    assert "Means over 2 trials" in table


def test_the_command_writes_the_page_and_the_papers_files(plain, redundancy, tmp_path):
    config, workdir = plain[0], Workdir(str(tmp_path / "work"))
    shutil.copytree(plain[1].root, workdir.root)
    storage.remove(storage.join(workdir.report, "paper"))
    (tmp_path / "mine.py").write_text(page.config_source(config))
    flags = (f"--config={tmp_path}/mine.py", f"--workdir={workdir.root}")
    done = redundancy("report", *flags, "--style", "paper")
    assert done.returncode == 0, done.stderr
    assert f"{workdir.report}/paper/" in done.stdout
    assert {"index.html", "paper"} <= {*storage.list_dir(workdir.report)}
    assert read(storage.join(workdir.report, "paper"), "table.tex") == read(plain[2], "table.tex")
    assert "paper" in redundancy("report", *flags, "--style=thesis").stderr
    assert "--style is a flag of report" in redundancy("sweep", *flags, "--style=paper").stderr


def test_bibtex_is_made_of_the_citation_file(plain, repo):
    import redundancy

    made = runpy.run_path(str(repo / "docs" / "scripts" / "citation.py"), run_name="citation")["bibtex"]()
    assert read(plain[2], "citation.bib") == made, "run: python docs/scripts/citation.py"
    assert f"Version {redundancy.__version__}," in made
    for said in ("Birodkar, Vighnesh and Mobahi, Hossein and Bengio, Samy", r"The 10\% You Don't Need", "1901.11409"):
        assert said in made
