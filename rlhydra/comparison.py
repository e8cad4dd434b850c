"""Several trials side by side: tables, curves, and an aggregate over environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from rlhydra.files import write_atomically
from rlhydra.metrics import (
    FloatArray,
    interquartile_mean,
    probability_of_improvement,
    stratified_interval,
)
from rlhydra.page import write_page
from rlhydra.record import TrialRecord
from rlhydra.wording import bounds, count, digits, markdown_table

FIRST = "P(> first): the probability that a run ends above one of the first trial on the same "


@dataclass(frozen=True)
class Compared:
    """One trial under the name that tells it from the others on its environment."""

    label: str
    trial: TrialRecord

    @property
    def runs(self) -> FloatArray:
        """The final returns of its sessions; one where they trained one set of parameters."""
        metric = self.trial.metrics["final_return"]
        values = [value for value in metric["sessions"] if value is not None]
        if not self.trial.replicates and values:
            assert metric["mean"] is not None
            values = [metric["mean"]]
        return np.array(values)

    @property
    def frames(self) -> int:
        """Frames of its longest session."""
        return max((session.frame or 0 for session in self.trial.sessions), default=0)


def compared(trials: Sequence[TrialRecord]) -> list[Compared]:
    """Name the trials: by the agent, where that is not enough by the settings that differ."""
    return [Compared(_label(trial, trials), trial) for trial in trials]


def _label(trial: TrialRecord, trials: Sequence[TrialRecord]) -> str:
    others = [other for other in trials if other.env == trial.env and other is not trial]
    alike = [other for other in others if other.agent == trial.agent]
    if not alike:
        return trial.agent
    mine = _settings(trial)
    differing = {key for other in alike for key in mine.items() ^ _settings(other).items()}
    told = [f"{key.rpartition('.')[2]}={mine[key]}" for key in mine if key in dict(differing)]
    label = " ".join([trial.agent, *told])
    named = [other for other in alike if _settings(other) == mine]
    return label if not named else f"{label} ({trial.folder.name})"


def _settings(trial: TrialRecord) -> dict[str, str]:
    pairs = (text.lstrip("+").partition("=") for text in trial.overrides)
    ignored = ("env", "agent", "meta.progress", "meta.max_session")
    return {key: value for key, _, value in pairs if key not in ignored}


def improvement(one: Compared, first: Compared) -> float | None:
    """Return the probability of improvement over `first`; one learner tells none."""
    if one is first or not (one.trial.replicates and first.trial.replicates):
        return None
    return probability_of_improvement(one.runs, first.runs)


def first_of(entries: Sequence[Compared], env: str) -> Compared:
    """Return the first trial on an environment, with which the others there are compared."""
    return next(entry for entry in entries if entry.trial.env == env)


def table(entries: Sequence[Compared]) -> RichTable:
    """Return the table of several trials, a row each; it fits into 80 columns."""
    result = RichTable(
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption=Text(
            "[low, high]: 95 % interval of the mean; for n = 2 the spread. IQM: interquartile mean "
            f"of the final returns. {FIRST}environment."
        ),
        caption_justify="left",
    )
    heads = ("trial", "n", "frames", "final return", "IQM", "sample eff.", "P(> first)")
    for name in heads:
        result.add_column(name, justify="left" if name == "trial" else "right")
    for entry in entries:
        final = entry.trial.metrics["final_return"]
        first = first_of(entries, entry.trial.env)
        result.add_row(
            Text(f"{_name(entry)}\n{entry.trial.env}"),
            str(len(entry.runs)),
            count(entry.frames),
            Text(f"{digits(final['mean'])}\n{bounds(final)}".strip()),
            digits(interquartile_mean(entry.runs)),
            digits(entry.trial.metrics["sample_efficiency"]["mean"], 3),
            digits(improvement(entry, first), 2),
        )
    return result


@dataclass(frozen=True)
class Aggregate:
    """One agent over all environments; scores are 0 for a random policy, 1 for the best here."""

    label: str
    mean: float
    iqm: float
    low: float | None
    high: float | None
    improvement: float | None


def aggregates(entries: Sequence[Compared]) -> list[Aggregate]:
    """Return the aggregate of every label that has runs on all environments, two at least.

    A score is (R - R_random) / (R_best - R_random), R_best the highest mean final return of the
    trials here on that environment.
    """
    envs = list(dict.fromkeys(entry.trial.env for entry in entries))
    by_label: dict[str, dict[str, Compared]] = {}
    for entry in entries:
        if len(entry.runs):
            by_label.setdefault(entry.label, {})[entry.trial.env] = entry
    whole = {label: own for label, own in by_label.items() if len(own) == len(envs)}
    scales = [_scale([e for e in entries if e.trial.env == env]) for env in envs]
    if len(envs) < 2 or not whole or None in scales:
        return []
    first = next(iter(whole.values()))
    found: list[Aggregate] = []
    for label, own in whole.items():
        scores = [
            (own[env].runs - scale[0]) / (scale[1] - scale[0])
            for env, scale in zip(envs, scales, strict=True)
            if scale is not None
        ]
        low, high = stratified_interval(scores)
        better = [improvement(own[env], first[env]) for env in envs]
        known = [value for value in better if value is not None]
        iqm = interquartile_mean(np.concatenate(scores))
        assert iqm is not None
        mean = float(np.mean([each.mean() for each in scores]))
        chance = float(np.mean(known)) if len(known) == len(envs) else None
        found.append(Aggregate(label, mean, iqm, low, high, chance))
    return found


def _scale(entries: Sequence[Compared]) -> tuple[float, float] | None:
    """Return the random policy's return on an environment, and the best one of the trials."""
    baselines = [e.trial.random_return for e in entries if e.trial.random_return is not None]
    means = [float(entry.runs.mean()) for entry in entries if len(entry.runs)]
    if not baselines or not means or max(means) <= baselines[0]:
        return None
    return baselines[0], max(means)


def write_comparison(trials: Sequence[TrialRecord], folder: Path) -> Path:
    """Write report.md, report.html and plots/ on the trials into `folder`; return the first."""
    from rlhydra.comparison_plot import draw_comparison

    entries = compared(trials)
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    envs = list(dict.fromkeys(entry.trial.env for entry in entries))
    parts = [f"# {len(trials)} trials", *_overall(entries)]
    for env in envs:
        own = [entry for entry in entries if entry.trial.env == env]
        parts += [f"## {env}", _rows(own)]
        path = plots / f"{env.replace('/', '_').replace(':', '_')}.png"
        if draw_comparison(own, path):
            parts.append(f"![Learning curves on {env}](plots/{path.name})")
    parts.append(
        "Intervals are 95 % bootstrap intervals of the mean over sessions; of two sessions it is "
        f"the spread. IQM: interquartile mean. {FIRST}environment. Sample efficiency: how early in "
        "frames the excess over a random policy came."
    )
    path = folder / "report.md"
    write_atomically(path, ("\n\n".join(parts) + "\n").encode())
    write_page(path)
    return path


def _overall(entries: Sequence[Compared]) -> list[str]:
    found = aggregates(entries)
    if not found:
        return []
    rows = [
        (
            one.label,
            digits(one.mean, 3),
            digits(one.iqm, 3),
            "-" if one.low is None else f"[{digits(one.low, 3)}, {digits(one.high, 3)}]",
            digits(one.improvement, 2),
        )
        for one in sorted(found, key=lambda one: -one.iqm)
    ]
    names = ("agent", "mean", "IQM", "95 % of the IQM", "P(> first)")
    return [
        "## Over all environments",
        markdown_table(names, rows),
        "Final returns, scaled on each environment so that 0 is a uniformly random policy and 1 "
        "the best mean of the trials compared here (not a human's); IQM and its interval are over "
        "all runs of all environments (stratified bootstrap). P(> first) is the mean over "
        "environments.",
    ]


def _rows(entries: Sequence[Compared]) -> str:
    rows: list[Sequence[str]] = []
    for entry in entries:
        final = entry.trial.metrics["final_return"]
        strength = entry.trial.metrics["strength"]["mean"]
        rows.append(
            (
                _name(entry),
                str(len(entry.runs)),
                count(entry.frames),
                digits(final["mean"]),
                bounds(final) or "-",
                digits(interquartile_mean(entry.runs)),
                digits(strength),
                digits(entry.trial.metrics["sample_efficiency"]["mean"], 3),
                digits(improvement(entry, entries[0]), 2),
                f"`{entry.trial.folder}`",
            )
        )
    heads = ("trial", "n", "frames", "final return", "95 %", "IQM", "strength", "sample eff.")
    return markdown_table((*heads, "P(> first)", "folder"), rows)


def _name(entry: Compared) -> str:
    status = entry.trial.status
    return entry.label if status == "completed" else f"{entry.label} ({status})"
