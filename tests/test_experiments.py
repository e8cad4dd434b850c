"""conf/experiment: results that were reproduced, each with the settings that gave it."""

from __future__ import annotations

import re

import pytest

from rlhydra.composition import CONF
from rlhydra.experiment import check
from rlhydra.wording import count
from tests.conftest import composed
from tests.documents import ROOT

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
HEADER = re.compile(
    r"""# @package _global_
# (?P<env>\S+), (?P<frames>[\d,]+) frames: (?P<score>.+) (?P<mean>-?[\d,.]+), (?P<interval>.+)
# over (?P<seeds>\d+) seeds \(base seed (?P<seed>\d+)\), commit (?P<commit>\w+); bar \S+\.
"""
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_reproduced_result_composes_and_is_a_row_of_the_table(name):
    header = HEADER.match((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert header is not None
    config = check(composed(f"experiment={name}"))
    frames, seeds = int(header["frames"].replace(",", "")), int(header["seeds"])
    assert (config.env.id, config.env.max_frame) == (header["env"], frames)
    assert (config.meta.max_session, config.seed) == (seeds, int(header["seed"]))
    after = "*" if config.meta.rigorous_eval else ""
    table = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (row,) = (
        line for line in table.splitlines()
        if line.startswith("| ") and name == "_".join(line.split(" | ")[:2]).lstrip("| ")
    )  # fmt: skip
    for told in (count(frames) + after, header["mean"], header["commit"]):
        assert f" {told} |" in row
