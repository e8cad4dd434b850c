import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhydra.checkpoint import Checkpoints
from rlhydra.files import Growing, refuse_links
from rlhydra.schema import ConfigError

STATE = {
    "net": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}, 1: {}}, "groups": [{"lr": 1e-3}]},
    "rng": np.random.default_rng(0).bit_generator.state,
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 4), np.uint8),
    "none": None,
    "scalar": np.float32(0.1),
    "numbers": [1, 0.1, float("inf"), "text", [True, []]],
}


def state(number):
    return {"number": number, "tensor": torch.full((50,), float(number))}


@pytest.fixture
def folder(tmp_path):
    """A folder with two generations and the best weights."""
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2, 3):
        checkpoints.save(number, state(number))
    checkpoints.save_weights(1, state(1), best=True, keep=False)
    checkpoints.save_weights(2, state(2), best=True, keep=False)
    return tmp_path


def test_nested_state_comes_back_as_it_was(tmp_path):
    Checkpoints(tmp_path).save(5, STATE)
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None
    assert torch.equal(loaded["net"]["weight"], STATE["net"]["weight"])
    assert loaded["net"]["half"].dtype == torch.bfloat16
    assert list(loaded["optimizer"]["state"]) == [0, 1]
    assert loaded["rng"] == STATE["rng"]
    assert loaded["mask"].dtype == np.bool_
    assert loaded["empty"].shape == (0, 4)
    assert loaded["numbers"] == STATE["numbers"]
    assert loaded["none"] is None
    assert (type(loaded["scalar"]), loaded["scalar"]) == (np.float32, np.float32(0.1))


def test_two_generations_and_the_best_are_kept_and_nothing_else(folder):
    kinds = [path.name.split("-")[0].split(".")[0] for path in folder.iterdir()]
    assert sorted(kinds) == ["best", "latest", "previous", "state", "state", "weights"]
    assert Checkpoints.read(folder / "latest.json")["number"] == 3
    assert Checkpoints.read(folder / "previous.json")["number"] == 2
    assert Checkpoints.read(folder / "best.json")["number"] == 2


def test_the_same_state_saved_twice_is_one_generation(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.load()
    checkpoints.save(3, state(3))
    assert Checkpoints.read(folder / "latest.json")["number"] == 3
    assert Checkpoints.read(folder / "previous.json")["number"] == 2
    checkpoints.save(4, state(4))
    assert Checkpoints.read(folder / "previous.json")["number"] == 3
    assert len(list(folder.glob("state-*"))) == 2


def test_weights_that_are_kept_outlive_better_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2, 3):
        checkpoints.save_weights(number, state(number), best=True, keep=number == 1)
    Checkpoints(tmp_path).load()
    assert Checkpoints.read(tmp_path / "weights-1.json")["number"] == 1
    assert Checkpoints.read(tmp_path / "best.json")["number"] == 3
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_leftovers_of_a_killed_write_are_neither_taken_for_checkpoints_nor_kept(folder):
    (folder / ".latest.json.writing").write_text("{")
    (folder / "state-9-000000000000.safetensors").write_bytes(b"torn")
    (folder / "latest.json").rename(folder / "gone")  # killed between two renames
    (folder / "gone").unlink()
    loaded = Checkpoints(folder).load()
    assert loaded is not None and loaded["number"] == 2
    assert not list(folder.glob(".*.writing"))
    assert len(list(folder.glob("state-*"))) == 1


def damage(path, generator):
    """Cut off or flip something at random; return what was done."""
    data = bytearray(path.read_bytes())
    place = int(generator.integers(len(data)))
    if generator.random() < 0.4:
        del data[place:]
        done = f"{path.name} cut at {place}"
    else:
        bit = int(generator.integers(8))
        data[place] ^= 1 << bit
        done = f"{path.name} bit {bit} of {place} flipped"
    path.write_bytes(data)
    return done


def test_a_damaged_latest_falls_back_and_two_damaged_are_an_error(folder, tmp_path_factory):
    generator = np.random.default_rng(0)
    for _ in range(50):
        copy = tmp_path_factory.mktemp("damaged") / "checkpoints"
        shutil.copytree(folder, copy)
        latest = [copy / "latest.json", *copy.glob("state-3-*")]
        done = damage(latest[generator.integers(2)], generator)
        loaded = Checkpoints(copy).load()
        assert loaded is not None and loaded["number"] == 2, done
        assert torch.equal(loaded["tensor"], state(2)["tensor"])
        # The good one is the latest now: the next save must not put it at risk.
        checkpoints = Checkpoints(copy)
        checkpoints.load()
        checkpoints.save(4, state(4))
        assert Checkpoints.read(copy / "previous.json")["number"] == 2
        for path in [*copy.glob("state-*"), copy / "latest.json", copy / "previous.json"]:
            damage(path, generator)
        with pytest.raises(ConfigError, match="no checkpoint can be read"):
            Checkpoints(copy).load()


def test_a_checkpoint_whose_json_is_gone_is_no_new_start(folder):
    for name in ("latest", "previous"):
        (folder / f"{name}.json").unlink()
    with pytest.raises(ConfigError, match="its JSON file is gone"):
        Checkpoints(folder).load()


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "none").load() is None


def test_a_full_disk_leaves_both_generations(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    checkpoints = Checkpoints(folder)
    checkpoints.load()
    for name in ("write_atomically", "write_beside"):

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(f"rlhydra.checkpoint.{name}", full)
            with pytest.raises(OSError, match="No space"):
                checkpoints.save(4, state(4))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_cannot_name_a_file_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    checkpoints = Checkpoints(elsewhere)
    checkpoints.save(7, state(7))
    (tensors,) = elsewhere.glob("state-*")
    head = (elsewhere / "latest.json").read_text()
    there = f"../{elsewhere.name}/{tensors.name}"
    (folder / "latest.json").write_text(head.replace(tensors.name, there))
    with pytest.raises(ConfigError, match="cannot be read"):
        Checkpoints.read(folder / "latest.json")


def test_links_in_a_run_folder_are_refused(folder):
    refuse_links(folder)
    (folder / "episodes.csv").symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match=r"episodes\.csv: is a link to /etc/hostname"):
        refuse_links(folder)


def test_nothing_is_pickled():
    root = Path(__file__).parents[1]
    forbidden = re.compile(
        r"\b(pickle|cloudpickle|dill|joblib|shelve|marshal)\.\w|import (pickle|dill|shelve)"
        r"|torch\.(load|save)\(|allow_pickle|np\.load\(|yaml\.(unsafe_)?load\("
    )
    found = [
        f"{path.name}: {line}"
        for path in (root / "rlhydra").rglob("*.py")
        for line in path.read_text().splitlines()
        if forbidden.search(line.split("#")[0])
    ]
    assert not found


def test_a_poisoned_checkpoint_is_refused_unread(folder):
    import pickle

    class Poison:
        def __reduce__(self):
            return (Path.touch, (folder / "poisoned",))

    for path in folder.glob("state-*"):
        path.write_bytes(pickle.dumps(Poison()))
    with pytest.raises(ConfigError):
        Checkpoints(folder).load()
    assert not (folder / "poisoned").exists()


def test_a_growing_file_takes_whole_blocks_only(tmp_path, monkeypatch):
    path = tmp_path / "rows"
    growing = Growing(path, 0)
    growing.append(b"one\n")
    real = growing._file

    class HalfFull:
        """Takes three bytes, then none."""

        room = 3

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            taken, self.room = data[: self.room], 0
            return real.write(taken)

        def __getattr__(self, name):
            return getattr(real, name)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "_file", HalfFull())
        with pytest.raises(OSError, match="No space"):
            growing.append(b"two\n")
    assert path.read_bytes() == b"one\n"
    growing.append(b"two\n")
    growing.close()
    assert path.read_bytes() == b"one\ntwo\n"
    again = Growing(path, 4)
    assert (again.size, path.read_bytes()) == (4, b"one\n")
    again.close()
