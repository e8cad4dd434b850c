import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlhydra.clock import Clock
from rlhydra.env.environment import Game
from rlhydra.events import EventFile
from rlhydra.log import Log, Rows
from rlhydra.schema import ConfigError
from tests.trials import table


def clock(frame):
    made = Clock(100, frame - 1)
    made.tick(1)
    return made


def write(log, frames):
    for frame in frames:
        log.games([Game(0, float(frame), 2)], frame)
        log.add({"loss/value": frame, "policy/kl": 0.5})
        if frame % 2 == 0:
            log.train(clock(frame), frame * 10)
            log.eval(clock(frame), frame * 10, list(log.returns))


def test_rows_are_means_since_the_row_before(tmp_path):
    log = Log(tmp_path, ("loss/value", "policy/kl"), None)
    write(log, range(1, 5))
    log.train(clock(5), 50)
    log.close()
    rows = table(tmp_path / "train.csv")
    assert [row["loss/value"] for row in rows] == ["1.5", "3.5", ""]
    assert [row["opt_step"] for row in rows] == ["20", "40", "50"]
    assert [row["return_mean"] for row in table(tmp_path / "eval.csv")] == ["1.5", "2.5"]


def test_a_log_goes_on_behind_its_state_and_cuts_off_what_came_later(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    log = Log(whole, ("loss/value", "policy/kl"), None)
    write(log, range(1, 9))
    log.close()
    log = Log(parts, ("loss/value", "policy/kl"), None)
    write(log, range(1, 4))
    state = log.state(3)
    write(log, range(4, 7))  # lost
    log.close()
    log = Log(parts, ("loss/value", "policy/kl"), state)
    write(log, range(4, 9))
    log.close()
    for name in ("episodes.csv", "train.csv", "eval.csv"):
        ours, theirs = table(parts / name), table(whole / name)
        for row in (*ours, *theirs):
            row.pop("wall_time"), row.pop("fps", None)
        assert ours == theirs
    events = EventAccumulator(str(parts))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/return")] == [2, 4, 6, 8]


def test_tensorboard_reads_texts_and_distributions(tmp_path):
    log = Log(tmp_path, (), None)
    log.events.text("config", "    seed: 0")
    log.events.histograms(5, {"weights/a": np.linspace(-1, 3, 401), "weights/b": np.array([])})
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (config,) = events.Tensors("config")
    assert config.tensor_proto.string_val == [b"    seed: 0"]
    assert events.SummaryMetadata("config").plugin_data.plugin_name == "text"
    assert events.Tags()["histograms"] == ["weights/a"]
    (weights,) = events.Histograms("weights/a")
    value = weights.histogram_value
    assert (weights.step, value.num, value.min, value.max) == (5, 401, -1, 3)
    assert value.sum == pytest.approx(401)
    assert sum(value.bucket) == 401
    assert value.bucket_limit[-1] == 3


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_rows_that_were_lost_or_changed_are_noticed(tmp_path, damage):
    log = Log(tmp_path, (), None)
    log.games([Game(0, 1.0, 2)], 3)
    state = log.state(3)
    log.close()
    path = tmp_path / "episodes.csv"
    data = path.read_bytes()
    path.write_bytes(data[:-2] if damage == "cut" else data.replace(b"1.0", b"9.0"))
    with pytest.raises(ConfigError, match=r"episodes\.csv: its rows were changed or lost"):
        Log(tmp_path, (), state)


def test_a_log_of_other_columns_is_refused(tmp_path):
    log = Log(tmp_path, ("loss/value",), None)
    state = log.state(0)
    log.close()
    with pytest.raises(ConfigError, match=r"expected the columns frame,.*loss/other"):
        Log(tmp_path, ("loss/other",), state)


def test_a_full_disk_is_told_and_rows_wait(tmp_path, monkeypatch):
    told = []
    log = Log(tmp_path, (), None, told.append)
    monkeypatch.setattr("rlhydra.log.FLUSH_EVERY", 0.0)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rlhydra.files.Growing.append", full)
        log.games([Game(0, 1.0, 2)], 3)
        with pytest.raises(OSError, match="No space"):
            log.state(3)
    assert "No space left" in told[0]
    log.games([Game(0, 2.0, 2)], 4)
    log.close()
    assert [row["return"] for row in table(tmp_path / "episodes.csv")] == ["1.0", "2.0"]


def test_tensorboard_reads_the_hyperparameters_of_a_run(tmp_path):
    given = {"agent.lr": 3e-4, "agent.epochs": 4, "agent.clip_value": True, "env.id": "CartPole-v1"}
    events = EventFile(tmp_path)
    events.hyperparameters({**given, "agent.target_kl": None}, succeeded=True)
    events.flush()
    events.close()
    found = EventAccumulator(str(tmp_path)).Reload().PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(found["_hparams_/session_start_info"]).session_start_info
    kinds = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    assert kinds == given
    end = HParamsPluginData.FromString(found["_hparams_/session_end_info"]).session_end_info
    assert Status.Name(end.status) == "STATUS_SUCCESS"


def test_the_best_return_is_the_highest_mean_and_never_nan(tmp_path):
    log = Log(tmp_path, (), None)
    means = [[], [math.nan], [1.0], [1.0], [3.0], [2.0], [math.nan]]
    best = [log.eval(clock(frame), 0, mean) for frame, mean in enumerate(means, 1)]
    log.close()
    assert best == [False, False, True, False, True, False, False]


def test_ten_million_rows_do_not_slow_the_next(tmp_path):
    """A flush writes what is new: the file is never read or written again."""
    path = tmp_path / "rows.csv"
    rows = Rows(path, ("a",), None)
    with path.open("ab") as file:
        file.truncate(1 << 33)  # sparse: a file of 8 GiB that takes no room
    rows.add((1,))
    rows.flush()
    rows.close()
    assert path.stat().st_size == (1 << 33) + 2
