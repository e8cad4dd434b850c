"""Reports and pictures of small trial folders written by hand."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from rlhydra.metrics import TRIAL_METRICS
from rlhydra.picture import count, smooth, thin, tick
from rlhydra.record import read_table, read_trial
from rlhydra.report import MEANING, main, write_report
from rlhydra.schema import ConfigError

EPISODES = "frame,wall_time,return,length\n5,0.1,3,3\n12,0.2,9,9\n"
TRAIN = (
    "frame,wall_time,opt_step,fps,loss/policy,loss/value,schedule/lr\n"
    "10,0.1,1,,,,0.001\n20,0.2,2,100,-0.1,1e4,0.001\n30,0.3,3,90,0.2,0.5,0.001\n"
)
EVAL = "frame,wall_time,opt_step,return_mean,return_std,episodes\n"


def make_trial(
    folder,
    finals=(10.0, 20.0, 30.0),
    *,
    distributed="false",
    env="CartPole-v1",
    agent="ppo",
    overrides=("agent.lr=[1, 2]",),
    **entries,
):
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text(
        f"env: {{id: {env}, max_frame: 30}}\nagent: {{_target_: rlhydra.agent.ppo.PPO}}\n"
        f"meta: {{distributed: {distributed}, metric: final_return, twice: '${{env.max_frame}}'}}\n"
    )
    (hydra / "overrides.yaml").write_text(json.dumps(["env=cartpole", *overrides]))
    choices = {"agent": agent, "env": "cartpole"}
    (hydra / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": choices}}}))
    sessions = []
    for k, final in enumerate(finals):
        session = folder / f"session_{k}"
        session.mkdir()
        (session / "episodes.csv").write_text(EPISODES)
        (session / "train.csv").write_text(TRAIN)
        rows = f"10,0.1,1,,,0\n20,0.2,2,6,3,2\n30,0.3,3,{final},1,2\n"
        (session / "eval.csv").write_text(EVAL + rows)
        sessions.append(
            {"index": k, "seed": k, "status": "completed", "frame": 30, "wall_time": 65}
        )
    record = {
        "status": "completed",
        "random_return": 2.0,
        "sessions": sessions,
        "versions": {"numpy": "2.0"},
        "git_commit": "abc",
        "config_hash": "def",
    }
    (folder / "trial.json").write_text(json.dumps(record | entries))
    return folder


def test_a_session_that_runs_is_as_far_as_its_rows(tmp_path):
    running = {"index": 0, "status": "running", "frame": 0, "wall_time": 0.0}
    folder = make_trial(tmp_path / "trial", (1.0,), status="running", sessions=[running])
    (session,) = read_trial(folder).sessions
    assert (session.frame, session.wall_time) == (30, 0.3)


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("rlhydra.report.draw_trial", lambda *_: [])
    monkeypatch.setattr("rlhydra.report.draw_session", lambda *_: None)


def test_report_holds_results_pictures_and_the_command(tmp_path):
    folder = make_trial(tmp_path / "trial")
    text = write_report(folder).read_text("utf-8")
    assert "# ppo on CartPole-v1" in text
    assert "python -m rlhydra env=cartpole 'agent.lr=[1, 2]'" in text
    assert "| `final_return` | 20 | [10, 30] |" in text
    assert "| `strength` | 11 |" in text  # the mean of (4 + final - 2) / 2
    assert "| 1 | 1 | completed | 30 | 1:05 | 20 | 20 |" in text
    assert "twice: 30" in text
    assert "| numpy | 2.0 |" in text
    assert "| git commit | abc |" in text
    stems = ["return_by_frame", "return_by_wall_time", "session_0", "session_1", "session_2"]
    for name in (f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")):
        assert f"plots/{name})" in text
        assert (folder / "plots" / name).stat().st_size > 1000


def test_report_is_the_same_when_written_again(tmp_path):
    folder = make_trial(tmp_path / "trial", (10.0,))
    files = [write_report(folder), *sorted((folder / "plots").iterdir())]
    before = [path.read_bytes() for path in files]
    write_report(folder)
    assert [path.read_bytes() for path in files] == before


@pytest.mark.usefixtures("no_pictures")
def test_failed_sessions_do_not_count(tmp_path):
    sessions = [
        {"index": 0, "seed": 7, "status": "completed", "frame": 30},
        {"index": 1, "seed": 8, "status": "failed", "frame": 20, "error": "a | b\nc"},
        {"index": 2, "seed": 9, "status": "completed", "frame": 30},
    ]
    folder = make_trial(tmp_path / "trial", status="failed", sessions=sessions)
    text = write_report(folder).read_text("utf-8")
    assert "**failed**" in text
    assert "Not counted in the results: session 1 (failed)." in text
    assert "| metric | mean | spread |" in text
    assert "| `final_return` | 20 | [10, 30] |" in text
    assert "a \\| b c" in text


@pytest.mark.usefixtures("no_pictures")
def test_sessions_of_one_set_of_parameters_are_one_learner(tmp_path):
    folder = make_trial(tmp_path / "trial", (10.0, 20.0, 30.0), distributed="shared")
    for k in (1, 2):
        (folder / f"session_{k}" / "eval.csv").write_text(EVAL)
    text = write_report(folder).read_text("utf-8")
    assert "| `final_return` | 10 | - |" in text
    assert "n = 1" in text


def test_report_of_a_trial_that_has_just_begun(tmp_path):
    folder = make_trial(tmp_path / "trial", (1.0, 2.0), status="running", random_return=None)
    for path in folder.glob("session_*/*.csv"):
        path.write_text("")
    (folder / "session_1" / "episodes.csv").write_text("\n".join(EPISODES.split("\n")[:2]))
    text = write_report(folder).read_text("utf-8")
    assert "No evaluation yet." in text
    assert "random policy's return is unknown" in text
    drawn = sorted(path.name for path in (folder / "plots").iterdir())
    assert drawn == ["session_1.png", "session_1.svg"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("10,1,1,5,0,1\n", "10,1,1,7,0,1\n"), ("10,1,1,5,0,1\n", "20,9,1,7,0,1\n")],
    ids=["one row", "nothing in common"],
)
def test_pictures_of_too_few_rows(tmp_path, first, second):
    folder = make_trial(tmp_path / "trial", (1.0, 2.0))
    for k, rows in enumerate((first, second)):
        (folder / f"session_{k}" / "eval.csv").write_text(EVAL + rows)
    write_report(folder)
    assert (folder / "plots" / "return_by_frame.png").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_command_reports_and_prints_where(tmp_path, capsys):
    folder = make_trial(tmp_path / "one", (10.0,))
    assert main([str(folder)]) == 0
    assert f"{folder / 'report.md'}\n{folder / 'report.html'}\n" in capsys.readouterr().out
    assert (folder / "report.html").is_file()


def test_a_page_holds_its_pictures_and_nothing_that_runs(tmp_path):
    error = "bad <script>alert(1)</script> | <img src=x onerror=alert(2)> value"
    sessions = [{"index": 0, "seed": 7, "status": "failed", "frame": 30, "error": error}]
    folder = make_trial(tmp_path / "trial", (10.0,), sessions=sessions)
    write_report(folder)
    page = (folder / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "<title>ppo on CartPole-v1</title>" in page
    assert page.count("data:image/png;base64,") == page.count("<img") == 3
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "<table>" in page
    assert "<code>" in page


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected the folder of a trial"),
        ("{", "expected JSON"),
        ('{"sessions": [1]}', "expected sessions"),
    ],
)
def test_a_bad_folder_is_one_line(tmp_path, capsys, content, expected):
    if content is not None:
        (tmp_path / "trial.json").write_text(content)
    assert main([str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.md").exists()


def test_table_reads_cells_thins_rows_and_names_bad_ones(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,\n2,5\n3")
    table = read_table(path)
    assert table["a"].tolist() == [1, 2]
    assert np.isnan(table["b"][0])
    with pytest.raises(ConfigError, match="a column named c, got a, b"):
        table["c"]
    path.write_text("a,b\n" + "".join(f"{i},{-i}\n" for i in range(10_000)))
    thinned = read_table(path, 100)
    assert 90 <= len(thinned) <= 110
    assert set(np.diff(thinned["a"])) == {thinned.step}
    path.write_text("a,b\n1,2\n1\n1,2\n")
    with pytest.raises(ConfigError, match="rows of 2 numbers"):
        read_table(path)


def test_thinning_keeps_mean_and_extremes():
    y = np.zeros(10_000)
    y[5_000] = 9.0
    x, mean, low, high = thin(np.arange(10_000.0), y, 100)
    assert len(x) == 100
    assert high.max() == 9
    assert low.max() == 0
    assert mean.mean() == pytest.approx(y.mean())
    assert smooth(np.array([2.0, 4.0, 6.0]), 2).tolist() == [2, 3, 5]


def test_labels_are_short():
    assert [count(x) for x in (0, 950, 20_000, 2.5e6)] == ["0", "950", "20k", "2.5M"]
    assert [tick(x) for x in (-0.5, 2.5e-4, 1e-4, 1040, 2e5)] == [
        "−0.5",
        "2.5e−4",
        "1e−4",
        "1040",
        "200k",
    ]


def test_every_metric_is_explained(tmp_path):
    assert tuple(MEANING) == TRIAL_METRICS
    assert tuple(read_trial(make_trial(tmp_path / "trial")).metrics) == TRIAL_METRICS


def test_reporting_needs_neither_torch_nor_pyplot(tmp_path):
    folder = make_trial(tmp_path / "trial", (1.0,))
    code = (
        "import sys; from rlhydra.report import write_report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "write_report(sys.argv[1])\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
