"""Write the parts of the documentation that the registry knows: ``make docs``.

``--check`` writes nothing and exits 1 when a file is stale.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from semseg.cli.recipe_help import recipe_keys
from semseg.data import dataset_entry, list_datasets
from semseg.models import list_models, model_entry
from semseg.models.base import Entry
from semseg.models.summary import in_words, size_in_words, summarize
from semseg.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PACKAGES = (
    "semseg",
    "semseg.models",
    "semseg.data",
    "semseg.data.transforms",
    "semseg.losses",
    "semseg.metrics",
    "semseg.train",
    "semseg.predict",
    "semseg.kernels",
    "semseg.postprocess",
    "semseg.data.formats",
)
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def network_families() -> str:
    """Return the names of all networks by family, for the README."""
    entries = [model_entry(name) for name in list_models()]
    papers = {(e.family, e.cls): [o.name for o in entries if o.cls is e.cls] for e in entries}
    files = len({e.cls.__module__ for e in entries})
    lines = [f"{len(entries)} networks in {files} files:", "", "| family | networks |"]
    lines.append("|---|---|")
    for family in sorted({e.family for e in entries}):
        links = []
        for (of, _), names in papers.items():
            if of == family:
                shortest = min(names, key=len)
                more = f" ×{len(names)}" if len(names) > 1 else ""
                links.append(f"[`{shortest}`](docs/networks.md#{shortest}){more}")
        lines.append(f"| {family.replace('_', '-')} | {', '.join(sorted(links))} |")
    return "\n".join(lines)


def network_table() -> str:
    """Return one line per network, for the head of docs/networks.md."""
    lines = [
        "| network | paper | year | parameters | classes | verified by |",
        "|---|---|---|---|---|---|",
    ]
    for name in list_models():
        e = model_entry(name)
        lines.append(
            f"| [`{name}`](#{name}) | {_link(e)} | {e.year} | {e.num_params:,} "
            f"| {e.config.num_classes} | {e.verified} |"
        )
    return "\n".join(lines)


def network_pages() -> str:
    """Return one section per network, for docs/networks.md."""
    return "\n\n".join(_section(model_entry(name)) for name in list_models())


def dataset_table() -> str:
    """Return one line per dataset."""
    lines = ["| dataset | what | classes | files | licence |", "|---|---|---|---|---|"]
    for name in list_datasets():
        e = dataset_entry(name)
        unstated = "yours" if e.citation is None else "in its files"
        classes = unstated if e.classes is None else str(e.classes)
        files = "none, it is generated" if e.layout is None else f"`{e.layout}`"
        lines.append(f"| `{name}` | {e.title} | {classes} | {files} | {e.licence} |")
    return "\n".join(lines)


def recipe_table() -> str:
    """Return one line per key of a recipe."""
    lines = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for key in recipe_keys(TrainConfig):
        cells = (f"`{key.name}`", f"`{key.kind}`", f"`{key.default}`", key.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def public_names() -> str:
    """Return every public name with the first line of its documentation."""
    tables = []
    for package in PACKAGES:
        names = [name for name in import_module(package).__all__ if not name.startswith("__")]
        lines = [f"| `{package}.{name}` | {_first_line(package, name)} |" for name in names]
        tables.append("\n".join([f"## {package}", "", "| name | what |", "|---|---|", *lines]))
    return "\n\n".join(tables)


def _first_line(package: str, name: str) -> str:
    value = getattr(import_module(package), name)
    if inspect.ismodule(value):  # semseg.train is a package, and the function of that name in it
        value = getattr(value, name)
    documented = inspect.isclass(value) or inspect.isfunction(value)
    text = inspect.getdoc(value) if documented else _string_below(package, name)
    if not text:
        raise SystemExit(f"{package}.{name} has no docstring")
    first = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r"(?::\w+:|`)`~?([^`]+)``?", r"`\1`", first).replace("|", "\\|")


def _string_below(package: str, name: str) -> str | None:
    """Return the string below the definition of an alias or a constant."""
    for module in list(sys.modules.values()):
        if not module.__name__.startswith("semseg.") or name not in vars(module):
            continue
        for node, below in pairwise(ast.parse(inspect.getsource(module)).body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", 0)]
            defined = any(isinstance(t, ast.Name) and t.id == name for t in targets)
            if defined and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                return str(below.value.value)
    return None


def _section(e: Entry) -> str:
    summary = summarize(e.name)
    heads = ", ".join(f"`{k}` {' x '.join(map(str, v))}" for k, v in summary.heads.items())
    file = "/".join(e.cls.__module__.split("."))
    lines = [
        f"## {e.name}",
        "",
        f"{_link(e)}, {e.year}. {e.idea}",
        "",
        f"- family: {e.family}, file: [`{file}.py`](../src/{file}.py)",
        f"- parameters: {summary.parameters:,} at {e.config.num_classes} classes",
        f"- cost: {summary.flops / 1e9:.2f} GFLOP for one {size_in_words(e)} "
        "(a multiplication and an addition count 2)",
        f"- outputs: {heads}; output stride {summary.output_stride}; "
        f"one score sees {in_words(summary.receptive_field, e.takes)}",
        f"- verified by: {e.verified}",
    ]
    if e.repository:
        lines.append(f"- the authors' code: <{e.repository}>")
    lines += [f"- published: {p.dataset}, mIoU {p.miou} ({p.source})" for p in e.published]
    return "\n".join(lines)


def _link(e: Entry) -> str:
    if e.paper.startswith("arXiv:"):
        return f"[{e.title}](https://arxiv.org/abs/{e.paper.removeprefix('arXiv:')})"
    return f"{e.title} ({e.paper})"


def camvid_results() -> str:
    """Return one line per network that was trained on CamVid, best first.

    Of several seeds it gives the mean, and the interval's lowest and highest end.
    """
    lines = [
        "| network | epochs | val mIoU | 95 % interval | published, test mIoU |",
        "|---|---|---|---|---|",
    ]
    held = {path.stem.removeprefix("camvid_"): path for path in RESULTS.glob("camvid_*.json")}
    runs = {n: json.loads(p.read_text()) for n, p in held.items() if n in list_models()}
    for name, run in sorted(runs.items(), key=lambda item: -item[1]["miou"]):
        known = [p for p in model_entry(name).published if p.dataset == "CamVid test"]
        paper = "; ".join(f"{p.miou} ({p.source})" for p in known) or "none for this form"
        ends = [end for seed in run.get("seeds", [run]) for end in seed["interval_95"]]
        score, low, high = (f"{100 * x:.1f}" for x in (run["miou"], min(ends), max(ends)))
        score += f", {len(run['seeds'])} seeds" if "seeds" in run else ""
        lines.append(f"| `{name}` | {run['epochs']} | {score} | {low} to {high} | {paper} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[], str]] = {
    "network families": network_families,
    "network table": network_table,
    "network pages": network_pages,
    "datasets": dataset_table,
    "recipe keys": recipe_table,
    "public names": public_names,
    "camvid results": camvid_results,
}
FILES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("networks", "recipes", "data", "api", "training")),
)


def fill(text: str) -> str:
    """Return ``text`` with what stands between the markers written anew."""
    for part, make in PARTS.items():
        begin, end = BEGIN.format(part), END.format(part)
        if begin in text:
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(end)
            text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    """Write or check the files; return the exit status."""
    stale = []
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = fill(old)
        if new != old:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"stale: {', '.join(stale)}; run `make docs`")
        return 1
    print(f"written: {', '.join(stale)}" if stale else "everything is fresh")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
