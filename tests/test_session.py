import io
import itertools
import re
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from rlhydra.clock import Clock
from tests.trials import frames, settings, table, timeless, train

DOCS = Path(__file__).parents[1] / "docs" / "files.md"


def promised(num_envs, every, max_frame):
    """The frames at which a vector step crossed a multiple of `every`, and the last one."""
    ends = range(num_envs, max_frame + num_envs, num_envs)
    return [
        end
        for end in ends
        if end >= max_frame
        or any(frame % every == 0 for frame in range(end - num_envs + 1, end + 1))
    ]


@pytest.mark.parametrize("max_frame", [1, 7, 1000, 1003])
def test_the_clock_is_due_where_a_multiple_was_crossed_and_at_the_end(max_frame):
    for num_envs, every in itertools.product((1, 2, 3, 8, 16, 33), (1, 2, 5, 16, 100, 999, 5000)):
        clock = Clock(max_frame)
        due = []
        while not clock.done:
            clock.tick(num_envs)
            if clock.due(every):
                due.append(clock.frame)
        assert due == promised(num_envs, every, max_frame), (num_envs, every)


@pytest.mark.parametrize(
    ("num_envs", "log", "evaluation", "max_frame"),
    [(16, 1000, 700, 3010), (3, 100, 1000, 700), (1, 64, 50, 200)],
)
@pytest.mark.parametrize("rigorous", ["null", "2"])
def test_rows_stand_at_the_frames_promised(
    tmp_path, num_envs, log, evaluation, max_frame, rigorous
):
    plain = settings(
        f"env.num_envs={num_envs}",
        f"meta.log_frequency={log}",
        f"meta.eval_frequency={evaluation}",
        f"meta.rigorous_eval={rigorous}",
        f"env.max_frame={max_frame}",
        f"agent.minibatch_size={num_envs * 32}",
    )
    assert train(tmp_path, plain) == "completed"
    assert frames(tmp_path / "train.csv") == promised(num_envs, log, max_frame)
    assert frames(tmp_path / "eval.csv") == promised(num_envs, evaluation, max_frame)
    games = frames(tmp_path / "episodes.csv")
    assert games == sorted(games)
    if rigorous == "2":
        assert {row["episodes"] for row in table(tmp_path / "eval.csv")} == {"2"}


def test_the_columns_and_tags_are_those_that_the_documentation_lists(tmp_path):
    train(tmp_path, settings("meta.histograms=true", "meta.video_frequency=1000"))
    text = DOCS.read_text()
    for name in ("episodes.csv", "eval.csv", "train.csv"):
        described = re.search(rf"^### `{name}`$(.*?)^##", text, re.M | re.S)[1]
        columns = re.findall(r"^\| `([^`]+)` \|", described, re.M)
        assert list(table(tmp_path / name)[0]) == columns, name
    (events,) = tmp_path.glob("events.out.tfevents*")
    written = {
        value.tag: value.tensor.float_val
        for event in EventFileLoader(str(events)).Load()
        for value in event.summary.value
    }
    described = re.search(r"^## TensorBoard$(.*?)^## ", text, re.M | re.S)[1]
    tags = {re.sub("^weights/.+", "weights/…", tag) for tag in written}
    assert sorted(tags) == sorted(re.findall(r"^\| `([^`]+)` \|", described, re.M))
    values = [row["loss/value"] for row in table(tmp_path / "train.csv") if row["loss/value"]]
    assert written["loss/value"][0] == pytest.approx(float(values[-1]), rel=1e-6)


def test_a_session_depends_on_its_seed_and_index_alone(tmp_path):
    same = settings("seed=3")
    for name, plain, index in (
        ("one", same, 1), ("again", same, 1), ("sibling", same, 0), ("seed", settings("seed=4"), 1)
    ):  # fmt: skip
        train(tmp_path / name, plain, index=index)
    one = timeless(tmp_path / "one")
    assert one == timeless(tmp_path / "again")
    for other in ("sibling", "seed"):
        rows, _ = timeless(tmp_path / other)
        assert rows["episodes.csv"] != one[0]["episodes.csv"]
    assert [
        line.split(b",")[2:] for line in (tmp_path / "one" / "episodes.csv").read_bytes().split()
    ] == [
        line.split(b",")[2:] for line in (tmp_path / "again" / "episodes.csv").read_bytes().split()
    ]


def test_evaluation_changes_nothing_in_training(tmp_path):
    train(tmp_path / "plain", settings())
    train(tmp_path / "rigorous", settings("meta.rigorous_eval=3", "meta.eval_sample=true"))
    plain, rigorous = (timeless(tmp_path / name) for name in ("plain", "rigorous"))
    assert plain[0]["episodes.csv"] == rigorous[0]["episodes.csv"]
    assert plain[1] == rigorous[1]


def test_keep_all_leaves_the_weights_of_every_evaluation(tmp_path):
    train(tmp_path, settings("meta.keep=all"))
    folder = tmp_path / "checkpoints"
    kept = sorted(int(path.stem.split("-")[1]) for path in folder.glob("weights-*.json"))
    assert kept == frames(tmp_path / "eval.csv")
    assert (folder / "best.json").exists()


def test_films_reach_tensorboard_and_change_nothing_else(tmp_path):
    plain = ("env.max_frame=1024", "env.num_envs=8", "meta.eval_frequency=512")
    train(tmp_path / "without", settings(*plain))
    train(tmp_path / "with", settings(*plain, "meta.video_frequency=500"))
    assert timeless(tmp_path / "with") == timeless(tmp_path / "without")
    (events,) = (tmp_path / "with").glob("events.out.tfevents*")
    loaded = EventAccumulator(str(events), {"images": 0})
    loaded.Reload()
    films = loaded.Images("eval/game")
    assert [film.step for film in films] == [504, 1000, 1024]
    with Image.open(io.BytesIO(films[-1].encoded_image_string)) as film:
        assert (film.format, film.width, film.height) == ("GIF", 240, 160)
        assert film.n_frames > 8


def test_an_environment_without_pictures_is_not_filmed_and_trains_on(tmp_path):
    overrides = ("env=gym", "env.id=tests.environments:Counting-v0", "meta.video_frequency=100")
    assert train(tmp_path, settings(*overrides, "env.max_frame=256")) == "completed"
