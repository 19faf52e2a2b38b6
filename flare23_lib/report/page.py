"""The page of a run: one HTML file that needs nothing else, its figures and the cases of its viewer.

Text and order are in `assets/page.html`; pictures are embedded, so that a page opens from disk without a server.
"""

from __future__ import annotations

import base64
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from flare23_lib.cache.results import Results
from flare23_lib.colors import label_colors
from flare23_lib.config import Config
from flare23_lib.evaluation.tables import read_table
from flare23_lib.io import atomic
from flare23_lib.report.cases import RankedCase, draw_case, rank_cases, read_case, spread
from flare23_lib.report.efficiency import draw_memory, draw_phases
from flare23_lib.report.run import Run, versions
from flare23_lib.report.style import count, display_name, shortened
from flare23_lib.report.viewer import write_case
from flare23_lib.runtime.progress import progress

log = logging.getLogger(__name__)

ASSETS = Path(__file__).with_name("assets")

EXTREMES = 2
"""How many of the best and of the worst cases are pictured."""


def write_report(results: Results, config: Config, viewer: Path | None, output: Path) -> None:
    """Write the page, figures beside it in `figures`, and cases in `viewer`.

    `viewer` is the folder of the viewing library (`make viewer`); None without it.
    """
    run, folder = Run(results, config), output.parent
    for made_before in (folder / "viewer", folder / "figures" / "cases"):
        shutil.rmtree(made_before, ignore_errors=True)
    metrics = {model: run.table("evaluation", model, "metrics.csv") for model in config.evaluated}
    scored = {model: table for model, table in metrics.items() if table is not None}
    ranked = _rank(run, *next(iter(scored.items()))) if scored else []
    pictured = [*ranked[:EXTREMES], *ranked[EXTREMES:][-EXTREMES:]]
    in_viewer = spread(ranked, config.report.viewer_cases) if viewer else []
    timings = {model: times for model in config.evaluated if (times := run.mean_timings(model))}
    if timings:
        draw_phases(folder / "figures" / "phases.svg", timings)
    text = (
        _environment(folder / "figures")
        .get_template("page.html")
        .render(
            run=run,
            config=config,
            scored=scored,
            measured=_draw_memory(run, folder / "figures"),
            timings=timings,
            pictured=pictured,
            not_shown=len(next(iter(scored.values()), [])) - len(ranked),
            viewer_cases=_write_cases(run, pictured, in_viewer, folder),
            viewer_license=_copy_viewer(viewer, folder / "viewer") if viewer else None,
            labels=[
                {"name": display_name(name), "color": color}
                for name, color in label_colors(config.label_map.names).items()
            ],
            versions=versions(),
            configuration=yaml.safe_dump(config.to_json(by_alias=False), sort_keys=False, allow_unicode=True),
        )
    )
    atomic.write_text(output, text)
    log.info("%s", output)


def _environment(figures: Path) -> jinja2.Environment:
    """Return the templates, which embed pictures from a folder of figures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )

    def embedded(name: str) -> str | None:
        """Return a picture as a data URI; None if it is missing."""
        path, kind = figures / name, {".svg": "svg+xml", ".png": "png"}[Path(name).suffix]
        if not path.exists():
            return None
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"

    def svg_width(name: str) -> str:
        """Return the width of a figure as its file gives it, such as `792pt`."""
        found = re.search(r'<svg[^>]* width="([^"]+)"', (figures / name).read_text(encoding="utf-8"))
        return found[1] if found else "0pt"

    environment.filters |= {"name": display_name, "count": count}
    environment.globals |= {
        "embedded": embedded,
        "svg_width": svg_width,
        "asset": lambda name: (ASSETS / name).read_text(encoding="utf-8"),
    }
    return environment


def _draw_memory(run: Run, figures: Path) -> dict[str, pd.DataFrame]:
    """Draw the memory of measured cases; return efficiency.csv of each model that has any."""
    measured = {}
    for model in run.config.evaluated if run.config.evaluation.efficiency_cases else []:
        table = run.table("evaluation", model, "efficiency.csv")
        if table is not None and len(table):
            curves = [read_table(run.results.root / file, as_text=True) for file in table["file"]]
            draw_memory(figures / "memory" / f"{model}.svg", model, curves)
            measured[model] = table
    return measured


def _rank(run: Run, model: str, metrics: pd.DataFrame) -> list[RankedCase]:
    predictions = run.table("predictions", model, "predictions.csv")
    return [] if predictions is None else rank_cases(run.results, metrics, predictions, run.config.label_map)


def _write_cases(
    run: Run, pictured: Sequence[RankedCase], in_viewer: Sequence[RankedCase], folder: Path
) -> list[dict[str, str]]:
    """Read each case once, draw it and write its script; return the viewer's list, the best case first."""
    labels, entries = run.config.label_map, list[dict[str, str]]()
    wanted = {case.name: case for case in [*pictured, *in_viewer]}
    for case in progress(sorted(wanted.values(), key=lambda case: (-case.score, case.name))):
        volumes = read_case(case, labels)
        if case in pictured:
            title = f"{shortened(case.name)}: mean DSC {case.percent} ({count(case.averaged, 'class')})"
            draw_case(folder / "figures" / "cases" / f"{case.name}.svg", title, volumes, labels.names)
        if case in in_viewer:
            file = f"viewer/cases/{len(entries):03d}.js"
            write_case(folder / file, case.name, volumes)
            entries.append({"name": case.name, "score": case.percent, "file": file})
    return entries


def _copy_viewer(library: Path, folder: Path) -> str:
    """Put the viewing library beside the page; return what it is and its license."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library / "niivue.js", folder / "niivue.js")
    return (library / "LICENSE.txt").read_text(encoding="utf-8").splitlines()[0]
