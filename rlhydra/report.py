"""Writes a trial's report on one page and compares trials: `python -m rlhydra.report FOLDER…`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from rlhydra.comparison import compared, table, write_comparison
from rlhydra.files import refuse_links
from rlhydra.metrics import Metric, interquartile_mean
from rlhydra.page import write_page
from rlhydra.plot import draw_session, draw_trial
from rlhydra.record import SessionRecord, TrialRecord, read_trial
from rlhydra.schema import ConfigError
from rlhydra.wording import bounds, count, digits, duration, markdown_table

MEANING = {
    "final_return": "return at the end",
    "best_return": "highest return",
    "strength": "mean return above the random policy",
    "max_strength": "highest return above the random policy",
    "final_strength": "final return above the random policy",
    "sample_efficiency": "how early in frames the strength came (1 / frame)",
    "training_efficiency": "how early in optimizer steps the strength came (1 / step)",
    "stability": "1: the curve never falls",
    "consistency": "1: the sessions do not differ",
}


def write_report(folder: Path | str) -> Path:
    """Write report.md, report.html and plots/ into a trial's folder; return the first.

    Raises:
        ConfigError: where `folder` is not a trial's.
    """
    return _write(read_trial(Path(folder)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on the folders that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhydra.report",
        description="Write report.md, report.html and plots/ into the folder of a trial or sweep. "
        "With several, compare all their trials, in a folder of its own.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of a trial or sweep"
    )
    parser.add_argument(
        "--to", type=Path, default=Path("comparison"), metavar="FOLDER",
        help="where the comparison of several goes (comparison)",
    )  # fmt: skip
    console = Console()
    try:
        options = parser.parse_args(arguments)
        folders: list[Path] = options.folders
        for folder in folders:
            refuse_links(folder)
        sweeps = [folder for folder in folders if (folder / "multirun.yaml").is_file()]
        for folder in sweeps:
            _report_sweep(folder, console)
        trials = [read_trial(folder) for folder in folders if folder not in sweeps]
        reports = [_write(trial) for trial in trials]
        everything = [*trials, *(trial for folder in sweeps for trial in _trials(folder))]
        if len(folders) > 1:
            reports = [write_comparison(everything, options.to)]
            console.print(table(compared(everything)))
        elif trials:
            console.print(results(trials[0]))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    for path in reports:
        console.print(Text(str(path)), soft_wrap=True)
        console.print(Text(str(path.with_suffix(".html"))), soft_wrap=True)
    return 0


def _trials(sweep: Path) -> list[TrialRecord]:
    """Return the trials of a sweep that were begun."""
    from rlhydra.ranking import read_experiment

    return [entry.trial for entry in sorted(read_experiment(sweep), key=lambda e: e.number)]


def _report_sweep(folder: Path, console: Console) -> None:
    # Imported here, as it brings Optuna, which trials alone do without.
    from rlhydra.ranking import closing, write_experiment

    write_experiment(folder)
    closing(folder, console)


def results(trial: TrialRecord) -> RichTable:
    """Return the table of one trial's metrics."""
    table = _rich(("metric", "mean", _bounds_name(trial)), _about(trial))
    table.title = Text(f"{_name(trial)} on {trial.env}")
    for name, metric in trial.metrics.items():
        table.add_row(name, digits(metric["mean"]), Text(bounds(metric) or "-"))
    return table


def _rich(names: Sequence[str], caption: str) -> RichTable:
    table = RichTable(
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        title_justify="left",
        caption=Text(caption),
        caption_justify="left",
    )
    for name in names:
        table.add_column(name, justify="left" if name == names[0] else "right")
    return table


def _write(trial: TrialRecord) -> Path:
    plots = trial.folder / "plots"
    plots.mkdir(exist_ok=True)
    curves = draw_trial(trial, plots)
    drawn = [(session, draw_session(trial, session, plots)) for session in trial.sessions]
    parts = (
        [f"# {trial.agent} on {trial.env}", _summary(trial), *_repeat(trial)],
        ["## Results", *_results(trial)],
        ["## Learning curves", *(map(_picture, curves) if curves else ["No evaluation yet."])],
        ["## Sessions", _sessions(trial.sessions)],
        *([f"### Session {session.index}", _picture(path)] for session, path in drawn if path),
        ["## Configuration", *_configuration(trial)],
        ["## Versions", _versions(trial)],
    )
    path = trial.folder / "report.md"
    path.write_text("\n\n".join(line for part in parts for line in part) + "\n", "utf-8")
    write_page(path)
    return path


def _summary(trial: TrialRecord) -> str:
    value = trial.metrics.get(trial.metric, trial.metrics["final_return"])
    spread = bounds(value)
    facts = [
        f"**{trial.status}**",
        f"{len(trial.sessions)} session{'s' * (len(trial.sessions) != 1)}",
        f"{count(_frames(trial))} frames",
        f"{trial.metric} **{digits(value['mean'])}**{f' {spread}' if spread else ''}",
        f"random policy {digits(trial.random_return)}",
    ]
    text = " · ".join(facts)
    lost = [session for session in trial.sessions if not session.counted]
    if lost:
        named = ", ".join(f"session {s.index} ({s.status})" for s in lost)
        text += f"\n\nNot counted in the results: {named}."
    return text


def _repeat(trial: TrialRecord) -> list[str]:
    command = shlex.join(["python", "-m", "rlhydra", *trial.overrides])
    return ["To repeat it:", f"```sh\n{command}\n```"]


def _results(trial: TrialRecord) -> list[str]:
    rows = [
        (f"`{name}`", digits(metric["mean"]), bounds(metric) or "-", MEANING[name])
        for name, metric in trial.metrics.items()
    ]
    lines = [markdown_table(("metric", "mean", _bounds_name(trial), ""), rows), _about(trial)]
    runs = _defined(trial.metrics["final_return"])
    if len(runs) > 3 and trial.replicates:
        lines.append(f"Interquartile mean of `final_return`: {digits(interquartile_mean(runs))}.")
    if trial.random_return is None:
        lines.append(
            "The random policy's return is unknown, so what is measured against it is empty."
        )
    return lines


def _about(trial: TrialRecord) -> str:
    source = "separate evaluation games" if trial.rigorous else "the last 100 games of training"
    if not trial.replicates:
        return (
            f"Returns are of {source}. The sessions trained one set of parameters: "
            "they are one learner (n = 1) and have no interval."
        )
    n = sum(session.counted for session in trial.sessions)
    kind = {0: "", 1: "One session has no interval.", 2: "The spread is that of two sessions."}
    interval = f"Intervals are of the mean over {n} sessions (bootstrap, percentiles)."
    return f"Returns are of {source}. {kind.get(n, interval)}".strip()


def _sessions(sessions: Iterable[SessionRecord]) -> str:
    rows: list[Sequence[str]] = []
    for session in sessions:
        returns = session.eval["return_mean"]
        returns = returns[returns == returns]
        rows.append(
            (
                str(session.index),
                "-" if session.seed is None else str(session.seed),
                session.status,
                count(session.frame or 0),
                duration(session.wall_time),
                digits(float(returns[-1]) if len(returns) else None),
                digits(float(returns.max()) if len(returns) else None),
                session.error or "",
            )
        )
    names = ("session", "seed", "status", "frames", "wall time", "final_return", "best_return")
    return markdown_table((*names, "error"), rows)


def _configuration(trial: TrialRecord) -> list[str]:
    if not trial.config:
        return ["No .hydra/config.yaml was left in this folder."]
    return [f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(trial.config)).strip()}\n```"]


def _versions(trial: TrialRecord) -> str:
    rows = list(trial.versions.items())
    used = {session.arithmetic for session in trial.sessions if session.arithmetic}
    rows += [("networks on images", "; ".join(sorted(used)))] if used else []
    rows += [("git commit", trial.git_commit or "-"), ("configuration", trial.config_hash or "-")]
    return markdown_table(("what", "version"), rows)


def _picture(path: Path) -> str:
    title = path.stem.replace("_", " ")
    return f"![{title}](plots/{path.name})\n\n[{title} as SVG](plots/{path.stem}.svg)"


def _name(trial: TrialRecord) -> str:
    return trial.agent if trial.status == "completed" else f"{trial.agent} ({trial.status})"


def _frames(trial: TrialRecord) -> int:
    return max((session.frame or 0 for session in trial.sessions), default=0)


def _defined(metric: Metric) -> list[float]:
    return [value for value in metric["sessions"] if value is not None]


def _bounds_name(trial: TrialRecord) -> str:
    n = sum(session.counted for session in trial.sessions)
    return "spread" if n == 2 and trial.replicates else "95 % interval"


if __name__ == "__main__":
    sys.exit(main())
