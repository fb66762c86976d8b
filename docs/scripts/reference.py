"""Writes docs/reference/ from the code: the fields of a config, the files of a workdir, and the commands' own help.

python docs/scripts/reference.py            writes the pages
python docs/scripts/reference.py --check    writes nothing; exit code 1 where a page is not what the code says

Columns and their types are those of files that the package's own writers write, not a second list of them. What a column
means is told here; tests/test_docs.py holds all of it against a whole run's files.
"""

import ast
import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from redundancy import config
from redundancy.cli import help as help_lib
from redundancy.embedding import ids, write
from redundancy.experiment import results
from redundancy.linkage.complete import Merges
from redundancy.report import compare
from redundancy.selection import merges, subset
from redundancy.workdir import table

REPO = pathlib.Path(__file__).resolve().parents[2]
FOLDER = REPO / "docs" / "reference"
SUM = "sha256_of_rest"  # the checksum of its own content, in every JSON file
_GENERATED = "<!-- Written by docs/scripts/reference.py; do not edit. -->\n\n"
_TYPES = {"double": "float64", "float": "float32", "bool": "bool", "string": "text", "large_string": "text"}


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A kind of file in a workdir.

    Attributes:
      path: below the workdir; capitals stand for what differs.
      pattern: regular expression of such paths.
      stage: that writes it.
      doc: what it is.
      fields: of a JSON file, lines of JSON, or table: name -> meaning. Those of a Parquet file in their order.
      kind: "json", "jsonl", "csv", "parquet", or "" for one whose inside is not told.
      optional: fields that some such files lack.
    """

    path: str
    pattern: str
    stage: str
    doc: str
    kind: str = ""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    optional: frozenset[str] = frozenset()


_FINGERPRINT = "which data set positions and labels are of: name, version, splits, sizes, files, checksum of the labels"
_RESULT = {
    "test_accuracy": "share of the test images classified right",
    "test_correct": "how many",
    "test_size": "of how many",
    "test_loss": "mean cross-entropy over the test images",
    "images": "training images",
    "steps": "steps of the training",
    "training": "SHA-256 over config, schedule, seed and kept positions: which training this is the result of",
    "seconds": "since the training began or, in a pack, since its pack began; over all interruptions",
    "time": "when the training ended, seconds since 1970",
}
_METRICS = {
    "step": "steps done",
    "time": "seconds since 1970",
    "loss": "mean training loss since the line before, without the L2 penalty",
    "accuracy": "training accuracy since the line before",
    "learning_rate": "of the last step",
    "images_per_second": "of the trial",
    "images_per_second_per_device": "the same for each device",
    "model_flops_share": "share of the device's peak that the model's FLOPs make, where the peak is known",
}
_RUN_FIELDS = {
    "method": "full, or one of [Methods](../methods.md)",
    "layer": "that the subset was made from",
    "fraction": "kept share of the full set",
    "trial": "number of the trial",
    "steps": "of the training",
    "subset": "name of the subset; null for the full set",
}

ARTIFACTS = (
    Artifact(
        "config.json",
        r"config\.json",
        "any",
        "whose the workdir is",
        "json",
        {
            "config": "every field, as in [Configs](configs.md)",
            "versions": "of Python and of the packages that results depend on",
            "dataset": "fingerprint of the data set, from the first stage that opens it",
        },
        frozenset({"dataset"}),
    ),
    Artifact("skipped_images.csv", r"skipped_images\.csv", "train", "files left out by `bad_images='skip'`", "csv", {
        "file": "its path", "reason": "why",
    }),
    Artifact("pretrain/checkpoints/STEP/", r"pretrain/checkpoints/\d+/.*", "train", "the network that embeds, by Orbax"),
    Artifact("pretrain/metrics.jsonl", r"pretrain/metrics\.jsonl", "train", "a line of JSON every `log_every` steps",
             "jsonl", _METRICS, frozenset({"model_flops_share"})),
    Artifact("pretrain/tensorboard/", r"pretrain/tensorboard/.*", "train", "the same numbers for TensorBoard"),
    Artifact("pretrain/result.json", r"pretrain/result\.json", "train", "its test accuracy", "json", _RESULT),
    Artifact("pretrain/manifest.json", r"pretrain/manifest\.json", "train", "written last: `train` is finished", "json", {
        "step": "of the checkpoint that embeds",
        "network": "SHA-256 of its arrays",
        "fingerprint": _FINGERPRINT,
        "test_accuracy": "as in result.json",
    }),
    Artifact(
        "embeddings/LAYER/part-IIIII-of-NNNNN.parquet",
        r"embeddings/\w+/part-\d{5}-of-\d{5}\.parquet",
        "embed, import",
        "rows sorted by (label, position); a row group for each label, so that a class can be read alone",
        "parquet",
        {
            "position": "of the image in the stored training split, from 0",
            "label": "its class",
            "embedding": "the layer's output, averaged over the image's area; *d* is 64 for ResNet-32, 2,048 for ResNet-101",
        },
    ),
    Artifact(
        "embeddings/LAYER/manifest.json",
        r"embeddings/\w+/manifest\.json",
        "embed, import",
        "written last: the layer is whole",
        "json",
        {
            "layer": "start, middle or end",
            "dimension": "*d*",
            "num_examples": "embeddings",
            "num_stored": "images of the stored split; more than num_examples where some are held out",
            "class_names": "by label",
            "class_counts": "images of each label",
            "checkpoint": "the network that made them, or what `import --checkpoint` said",
            "network": "SHA-256 of that network's arrays; not where imported",
            "fingerprint": _FINGERPRINT,
            "parts": "file, rows, and SHA-256 of each part and of its footer",
            "checked": "checksum of the parts whose vectors were looked through: finite, none zero",
            "content": "checksum of what was imported",
        },
        frozenset({"network", "content", "checked"}),
    ),
    Artifact("embeddings/LAYER/ids.parquet", r"embeddings/\w+/ids\.parquet", "import", "the ids that came with them",
             "parquet", {"position": "as above", "id": "text"}),
    Artifact("embeddings/LAYER/ids.json", r"embeddings/\w+/ids\.json", "import", "that there are ids", "json",
             {"sha256": "of the ids"}),
    Artifact("scores/networks/networkI/", r"scores/networks/network\d+/.*", "score", "the training of one network, as in "
             "pretrain/; and what it scores at `score_at` and at the end, early.parquet and end.parquet"),
    Artifact("scores/networks/packing.json", r"scores/networks/packing\.json", "score", "as runs/packing.json"),
    Artifact("scores/NAME.parquet", r"scores/[a-z0-9_]+\.parquet", "score, scores import", "position (int64), label (int32), "
             "score (float64), and score_0, score_1, ... of each network. The schema's metadata, key `score`, tells which end "
             "is kept (`keep`: high, low, or listed), the networks or the imported file, and the fingerprint"),
    Artifact("scores/manifest.json", r"scores/manifest\.json", "score, scores import", "which scores are whole", "json", {
        "scores": "file, SHA-256 and `keep` of each",
    }),
    Artifact(
        "merges/LAYER/part-IIIII-of-NNNNN.parquet",
        r"merges/\w+/part-\d{5}-of-\d{5}\.parquet",
        "link",
        "the merges of each class, lowest first, as far as the smallest fraction needs; clusters are numbered as SciPy's "
        "`linkage` does: 0…n-1 the images of the class by position, n+i the cluster of merge i",
        "parquet",
        {
            "label": "the class",
            "left": "one cluster that merges",
            "right": "the other",
            "height": "the greatest dissimilarity, 1 − cos, of an image of one to an image of the other",
            "size": "images of the merged cluster",
        },
    ),
    Artifact("merges/LAYER/manifest.json", r"merges/\w+/manifest\.json", "link", "written last", "json", {
        "layer": "start, middle or end",
        "fingerprint": _FINGERPRINT,
        "embeddings": "SHA-256 of the embeddings' manifest",
        "fractions": "that were asked for",
        "classes": "images and merges of each label",
        "parts": "file and SHA-256 of each part",
    }),
    Artifact(
        "subsets/METHOD-FRACTION.parquet",
        r"subsets/[a-z0-9_]+(-(start|middle))?-\d\.\d{4}(-trial\d+)?\.parquet",
        "select",
        "one row for each training image, kept or not; subsets that are drawn, such as random ones, end in `-trialT`, those of another layer than end "
        "have it in the name. The schema's metadata, key `subset`, tells method, layer, fraction, size, seed, trial, rule "
        "and fingerprint",
        "parquet",
        {
            "position": "of the image in the stored training split, ascending",
            "label": "its class",
            "group": "its redundant group, numbered over all classes; -1 in subsets of methods without groups",
            "kept": "whether it is kept; one of each group is",
            "dissimilarity": "1 − cos to the kept image of its group, 0 for that image itself; null without groups",
        },
    ),
    Artifact("subsets/manifest.json", r"subsets/manifest\.json", "select", "written last", "json", {
        "fingerprint": _FINGERPRINT,
        "inputs": "SHA-256 of the manifests of the embeddings and merges, and of the scores",
        "rule": "which image of a group is kept",
        "seed": "of subsets that are drawn",
        "balance": "from where images are kept, of methods that heed it",
        "ccs_score": "of the method ccs",
        "ccs_cutoff": "of the method ccs",
        "score_trials": "of subsets by scores of networks",
        "score_at": "of subsets by scores of networks",
        "score_window": "of subsets by scores of networks",
        "files": "file, SHA-256, method, layer, fraction, trial and size of each subset",
    }, frozenset({"balance", "ccs_score", "ccs_cutoff", "score_trials", "score_at", "score_window"})),
    Artifact("runs/RUN/run.json", r"runs/[^/]+/run\.json", "sweep", "what the run trains on", "json", {
        **{field.name: _RUN_FIELDS[field.name] for field in dataclasses.fields(table.Run)},
        "subset_sha256": "SHA-256 of the subset's file",
    }),
    Artifact("runs/RUN/checkpoints/STEP/", r"runs/[^/]+/checkpoints/\d+/.*", "sweep", "by Orbax; the newest are kept"),
    Artifact("runs/RUN/metrics.jsonl", r"runs/[^/]+/metrics\.jsonl", "sweep", "as in pretrain/", "jsonl", _METRICS,
             frozenset({"model_flops_share"})),
    Artifact("runs/RUN/tensorboard/", r"runs/[^/]+/tensorboard/.*", "sweep", "as in pretrain/"),
    Artifact("runs/RUN/result.json", r"runs/[^/]+/result\.json", "sweep", "as in pretrain/; written last: the run is done",
             "json", _RESULT),
    Artifact("runs/looks.json", r"runs/looks\.json", "sweep", "of `sweep --until`: what it goes on until, the looks that are planned, "
             "and those that were taken, each with the trials of the next round"),
    Artifact("runs/packing.json", r"runs/packing\.json", "sweep", "which packing of trials was measured to be fastest; "
             "on accelerators alone"),
    Artifact("runs/manifest.json", r"runs/manifest\.json", "sweep", "written last", "json", {
        "runs": "names, in the order of the table",
        "subsets": "SHA-256 of the subsets trained on",
        "results_sha256": "SHA-256 of results.csv",
    }),
    Artifact("results.csv", r"results\.csv", "sweep", "a row for each run; derived from the runs' result.json", "csv", {
        "run": "name of its folder in runs/",
        "method": "full, semantic or random",
        "layer": "that the subset was made from; end where the method has none",
        "fraction": "kept share of the full set",
        "size": "training images",
        "trial": "runs of one trial share initialisation and order of batches",
        "seed": "config.seed",
        "steps": "of the training",
        "test_accuracy": "share of the test images classified right",
        "test_correct": "how many",
        "test_size": "of how many",
        "test_loss": "mean cross-entropy",
    }),
    Artifact("report/index.html", r"report/index\.html", "report", "the page, see [The report](../report.md)"),
    Artifact("report/classes/NNNNN.js", r"report/classes/\d{5}\.js", "report", "groups of a class, where they do not fit "
             "into the page"),
    Artifact("report/names.js", r"report/names\.js", "report", "names of the images of those classes, for the page's search"),
    Artifact("report/kept-FRACTION.txt, report/dropped-FRACTION.txt", r"report/(kept|dropped)-\d\.\d{4}\.txt", "report",
             "the names of the kept and of the dropped images at the fraction that the page shows, one a line, where images "
             "have names"),
    Artifact("report/results.csv", r"report/results\.csv", "report", "a copy of results.csv, beside the page that links to it"),
    Artifact("report/figures/", r"report/figures/.*", "report", "each figure as SVG, PDF and PNG"),
    Artifact("report/paper/", r"report/paper/.*", "report", "with `--style paper`: see [For a paper](../report.md#for-a-paper)"),
    Artifact("report/manifest.json", r"report/manifest\.json", "report", "written last", "json", {
        "inputs": "checksums of what the page was made from",
        "shown": "the config's fields that decide what the page shows; and how many finished runs it leaves out",
        "files": "SHA-256 of each file of the report",
    }),
    Artifact(
        "last_error.json, last_error-part-I-of-N.json",
        r"last_error(-part-\d+-of-\d+)?\.json",
        "any",
        "how the last command that failed here ended; removed by its next success",
        "json",
        {
            "command": "that failed",
            "stage": "in which",
            "time": "when",
            "host": "where",
            "code": "the exit code",
            "message": "the error, without what looks like a password or token",
        },
    ),
    Artifact(".lock, .lock-part-I-of-N", r"\.lock(-part-\d+-of-\d+)?", "any", "on a local disk: held while a command works "
             "in the workdir"),
    Artifact(".lease.json, .lease-part-I-of-N.json", r"\.lease(-part-\d+-of-\d+)?\.json", "any", "the same on gs://; "
             "renewed while the command works"),
)  # fmt: skip


def schemas() -> dict[str, pa.Schema]:
    """Schemas of the Parquet files, by the artifact's path, as the writers write them."""
    one, two = np.zeros(1, np.int64), np.ones((1, 2), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write.write_part(folder, 0, 1, one, one, two, {"layer": "end"})
        ids.write(folder, one, pa.array(["a"], pa.large_string()), "")
        linked = merges.table(one.astype(np.int32), Merges(one, one, one.astype(float), one))
        merges.create_once(str(root / "merges.parquet"), linked, "")
        whole = subset.Subset(one, one.astype(np.int32), one, np.ones(1, bool), np.zeros(1), {})
        subset.write_subset(str(root / "subset.parquet"), whole)
        return {
            "embeddings/LAYER/part-IIIII-of-NNNNN.parquet": pq.read_schema(root / write.part_name(0, 1)),
            "embeddings/LAYER/ids.parquet": pq.read_schema(root / "ids.parquet"),
            "merges/LAYER/part-IIIII-of-NNNNN.parquet": pq.read_schema(root / "merges.parquet"),
            "subsets/METHOD-FRACTION.parquet": pq.read_schema(root / "subset.parquet"),
        }


def _type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"fixed-size list of *d* {_type(kind.value_type)}"
    return _TYPES.get(str(kind), str(kind))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _table(header: tuple[str, ...], rows) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _allowed(field: config.Field) -> str:
    if field.wanted:
        return field.wanted
    kind = field.item if isinstance(field.default, tuple) else type(field.default)
    return {bool: "True or False", str: "a text", int: "a whole number", float: "a number"}[kind]


def configs() -> str:
    """The page of configs."""
    out = [
        "# Configs\n",
        "A config is a Python file with `get_config(arg)`, which starts from `redundancy.config.defaults()`, or from a config "
        "that comes along by `redundancy.config.load(NAME)`, and sets what differs. `--config NAME` takes one that comes "
        "along, `--config PATH` a file: a path has a slash or ends in `.py`. `:ARG` after either passes an argument, and "
        "`--config.FIELD=VALUE` overrides a field, for example `--config.fractions=0.9,0.5`. A value of the wrong type or out of bounds ends the command before any "
        "work, with the field's name. Fields of experiments of the paper that its text leaves open are marked as assumed in "
        "the config's own docstring.\n",
        "`redundancy configs NAME > mine.py` starts a config of your own. It may import Python files of its folder "
        "(`import base`) and of the folder that holds this one (`from configs import base`); from other folders, modules "
        "of the Python environment and of the current folder.\n",
        "Columns: the field, its default, what is allowed, what it means.\n",
    ]
    for section in dict.fromkeys(field.section for field in config.FIELDS.values()):
        rows = [
            (f"`{name}`", f"`{field.default!r}`", _allowed(field), field.doc)
            for name, field in config.FIELDS.items()
            if field.section == section
        ]
        out += [f"## {section}\n", _table(("field", "default", "allowed", "meaning"), rows)]
    out += ["## Configs that come with the package\n"]
    for name, path in config.shipped().items():
        text = ast.get_docstring(ast.parse(path.read_text()))
        out += [f"### {name}\n", f"```text\n{text}\n```\n"]
    return "\n".join(out)


def artifacts() -> str:
    """The page of artifacts."""
    types = schemas()
    out = [
        "# Artifacts\n",
        "What a workdir holds, local or gs://. Every file is there whole or not at all; a stage's `manifest.json` is written "
        f"last and means that it is finished. JSON files carry the checksum of their content in `{SUM}`, Parquet files one in "
        "every page, manifests those of the files they name (see [What survives what](../reliability.md#integrity)).\n",
        "METHOD is `semantic` or `random`, LAYER `start`, `middle` or `end`, RUN `METHOD-FRACTION-trialT` or "
        "`full-1.0000-trialT`.\n",
        "`redundancy export` writes what a subset keeps to a file of your own, in the formats that "
        "[its help](commands.md#redundancy-export) lists.\n",
        _table(("file", "written by", "what"), ((f"`{each.path}`", each.stage, each.doc) for each in ARTIFACTS)),
    ]
    for each in ARTIFACTS:
        if not each.kind:
            continue
        schema = types.get(each.path)
        columns = results.COLUMNS if each.path == "results.csv" else schema and schema.names
        if columns and list(each.fields) != list(columns):
            raise SystemExit(f"docs: {each.path} has columns {columns}; told are {list(each.fields)}")
        out += [f"## {each.path}\n", f"{each.doc[0].upper()}{each.doc[1:]}.\n"]
        if schema is None:
            note = dict.fromkeys(each.optional, " (not in every file)")
            rows = ((f"`{name}`", text + note.get(name, "")) for name, text in each.fields.items())
            out += [_table(("column" if each.kind == "csv" else "field", "what"), rows)]
        else:
            rows = ((f"`{name}`", _type(schema.field(name).type), text) for name, text in each.fields.items())
            out += [_table(("column", "type", "what"), rows)]
    return "\n".join(out)


def helps() -> dict[str, str]:
    """The help of each command, by what is typed before --help."""
    texts = {"redundancy": help_lib.USAGE}
    texts |= {f"redundancy {name}": text for name, text in help_lib.HELP.items()}
    return {**texts, "redundancy report": help_lib.REPORT_HELP, "redundancy report --compare": compare.HELP}


def command_page() -> str:
    """The page of commands."""
    out = [
        "# Commands\n",
        "What each command prints with `--help`; `--helpfull` adds the [fields of a config](configs.md).\n",
    ]
    for name, text in helps().items():
        out += [f"## {name}\n", f"```text\n{text.rstrip()}\n```\n"]
    return "\n".join(out)


def pages() -> dict[str, str]:
    """The text of each page, by its file's name."""
    texts = {"configs.md": configs(), "artifacts.md": artifacts(), "commands.md": command_page()}
    return {name: _GENERATED + text for name, text in texts.items()}


def stale() -> Iterator[str]:
    """Names of the pages that are not what the code says."""
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            yield name


def run(argv: list[str]) -> int:
    if "--check" in argv:
        found = list(stale())
        for name in found:
            print(f"docs/reference/{name} is not what the code says: run python docs/scripts/reference.py")
        return int(bool(found))
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
