"""Paths of a workdir's artifacts, and names of subsets and runs. Opens no file."""

from redundancy import storage
from redundancy.config import fraction_name

STAGES = ("train", "embed", "score", "link", "select", "sweep", "report")


def subset_name(method: str, fraction: float, trial: int | None = None, layer: str = "end") -> str:
    """'semantic-0.9000', 'random-0.9000-trial2', or 'semantic-start-0.9000' for a layer other than end."""
    middle = "" if layer == "end" else f"-{layer}"
    suffix = "" if trial is None else f"-trial{trial}"
    return f"{method}{middle}-{fraction_name(fraction)}{suffix}"


def run_name(method: str, fraction: float, trial: int, layer: str = "end") -> str:
    """'semantic-0.9000-trial2', 'full-1.0000-trial0'."""
    return subset_name(method, fraction, trial, layer)


class Layout:
    """Paths of one experiment's artifacts below `root` (local or gs://)."""

    def __init__(self, root: str):
        self.root = root.rstrip("/") or "/"
        self.config, self.results = self.path("config.json"), self.path("results.csv")
        self.pretrain, self.subsets = self.path("pretrain"), self.path("subsets")
        self.scores = self.path("scores")
        self.runs, self.report = self.path("runs"), self.path("report")

    def path(self, *parts: str) -> str:
        return storage.join(self.root, *parts)

    def embeddings(self, layer: str) -> str:
        return self.path("embeddings", layer)

    def merges(self, layer: str) -> str:
        return self.path("merges", layer)

    def subset(self, name: str) -> str:
        """File of the subset `name`, see `subset_name`."""
        return self.path("subsets", f"{name}.parquet")

    def run(self, name: str) -> str:
        """Folder of the run `name`, see `run_name`."""
        return self.path("runs", name)

    def result(self, name: str) -> str:
        """File of the result of the run `name`, the last file that the run writes."""
        return self.path("runs", name, "result.json")
