"""The replay memory and its sum tree against slow references."""

import itertools
from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlhydra.checkpoint import Checkpoints
from rlhydra.env.environment import Transition
from rlhydra.memory.replay import Priority, Replay
from rlhydra.memory.sum_tree import SumTree
from rlhydra.schema import ConfigError
from tests.states import same

GAMMA = 0.9
PRIORITY = Priority(alpha=0.6, epsilon=1e-3)
VECTOR = Box(-np.inf, np.inf, (3,), np.float32)
STACK = Box(0, 255, (4, 3, 2), np.uint8)
IDS = Discrete(1_000_000)  # the action of a test's transition is its number, row · N + copy


def vectors(num_envs, rng):
    """Random observations: none follows from the one before it."""

    def following(obs, begins):
        return rng.standard_normal((num_envs, 3)).astype(np.float32)

    return following


def stacks(num_envs, rng):
    """Stacks of frames; an episode begins with its first frame repeated, with zeros, or goes on."""

    def following(obs, begins):
        frame = rng.integers(0, 255, (num_envs, 1, 3, 2), np.uint8)
        shifted = np.concatenate((obs[:, 1:], frame), 1)
        kind = rng.integers(0, 3, num_envs)
        for copy in begins.nonzero()[0]:
            if kind[copy] == 0:
                shifted[copy] = frame[copy]
            elif kind[copy] == 1:
                shifted[copy, :-1] = 0
            else:
                shifted[copy] = obs[copy]
        return shifted

    return following


def glitches(num_envs, rng):
    """Stacks of frames that do not always shift by one."""
    shift = stacks(num_envs, rng)

    def following(obs, begins):
        after = shift(obs, begins)
        wrong = rng.random(num_envs) < 0.1
        after[wrong] = rng.integers(0, 255, after[wrong].shape, np.uint8)
        return after

    return following


def colours(num_envs, rng):
    """Images shaped like stacks that are none."""
    return lambda obs, begins: rng.integers(0, 255, (num_envs, *STACK.shape), np.uint8)


def stream(following, space, num_envs, rng, p_end=0.15):
    """Yield transitions without end, episodes ending in both ways, sometimes in both at once."""
    none = np.zeros(num_envs, bool)
    obs = following(np.zeros((num_envs, *space.shape), space.dtype), ~none)
    row = 0
    while True:
        next_obs = following(obs, none)
        terminated = rng.random(num_envs) < p_end
        truncated = rng.random(num_envs) < p_end
        action = np.arange(num_envs) + row * num_envs
        reward = rng.standard_normal(num_envs).astype(np.float32)
        yield Transition(obs, action, reward, next_obs, terminated, truncated)
        ended = terminated | truncated
        begun = following(next_obs, ended)
        obs = np.where(ended.reshape(-1, *[1] * (next_obs.ndim - 1)), begun, next_obs)
        row += 1


def replay(space=VECTOR, capacity=60, num_envs=3, seed=0, **settings):
    generator = np.random.default_rng(seed)
    return Replay(capacity, num_envs, space, IDS, gamma=GAMMA, generator=generator, **settings)


def reference(history, number, num_envs, n_step):
    """Return (obs, reward, next_obs, discount) of transition `number`, found step by step."""
    row, copy = divmod(number, num_envs)
    total = 0.0
    for step in range(n_step):
        t = history[row + step]
        total += GAMMA**step * float(t.reward[copy])
        if t.terminated[copy] or t.truncated[copy]:
            break
    discount = GAMMA ** (step + 1) * (not t.terminated[copy])
    return history[row].obs[copy], total, t.next_obs[copy], discount


def check(batch, history, num_envs, n_step):
    expected = [reference(history, number, num_envs, n_step) for number in batch.action.tolist()]
    obs, reward, next_obs, discount = (np.array(column) for column in zip(*expected, strict=True))
    assert np.array_equal(batch.obs.numpy(), obs)
    assert np.array_equal(batch.next_obs.numpy(), next_obs)
    np.testing.assert_allclose(batch.reward, reward, atol=1e-5)
    np.testing.assert_allclose(batch.discount, discount, atol=1e-6)


@pytest.mark.parametrize("priority", [None, PRIORITY])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n_step", [1, 2, 5])
@pytest.mark.parametrize(
    ("following", "space"), [(vectors, VECTOR), (stacks, STACK), (colours, STACK)]
)
def test_batches_equal_brute_force_while_the_ring_wraps(
    following, space, n_step, num_envs, priority
):
    rng = np.random.default_rng(1)
    memory = replay(space, 20 * num_envs, num_envs, n_step=n_step, priority=priority)
    history = []
    for transition in stream(following(num_envs, rng), space, num_envs, rng):
        memory.add(transition)
        history.append(transition)
        complete = len(history) - n_step + 1
        oldest = max(0, complete - 20)
        assert len(memory) == max(0, complete - oldest) * num_envs
        if complete > 0:
            batch = memory.sample(16, beta=0.4)
            check(batch, history, num_envs, n_step)
            assert batch.action.min() >= oldest * num_envs
            assert batch.action.max() < complete * num_envs
        if len(history) == 120:
            break


@pytest.mark.parametrize("p_end", [0.01, 0.1, 0.5])
def test_old_stacks_stay_whole_until_they_are_forgotten(p_end):
    rng = np.random.default_rng(3)
    memory, history = replay(STACK, 200, 1), []
    for transition in stream(glitches(1, rng), STACK, 1, rng, p_end):
        memory.add(transition)
        history.append(transition)
        oldest = memory._oldest
        if oldest:
            index = np.arange(oldest, oldest + 5) % memory._ring
            obs = np.empty((5, *STACK.shape), np.uint8)
            memory._obs.read(index, obs)
            assert np.array_equal(obs, [t.obs[0] for t in history[oldest : oldest + 5]])
            memory._obs.read_next(index, obs)
            assert np.array_equal(obs, [t.next_obs[0] for t in history[oldest : oldest + 5]])
        if len(history) == 1000:
            break


def test_a_stack_depth_of_two_and_long_episodes():
    space, rng = Box(0, 255, (2, 3, 2), np.uint8), np.random.default_rng(2)
    memory, history = replay(space), []
    for transition in stream(stacks(3, rng), space, 3, rng, p_end=0.01):
        memory.add(transition)
        history.append(transition)
        if len(history) == 150:
            break
    check(memory.sample(256), history, 3, 1)


def fill(memory, rows, following=vectors, space=VECTOR, seed=0, num_envs=3):
    rng = np.random.default_rng(seed)
    transitions = stream(following(num_envs, rng), space, num_envs, rng)
    for _ in range(rows):
        memory.add(next(transitions))
    return transitions


@pytest.mark.parametrize("n_step", [1, 3])
def test_every_transition_is_drawn_equally_often(n_step):
    memory = replay(n_step=n_step)
    fill(memory, 95)
    drawn = [memory.sample(60).action.numpy().copy() for _ in range(1000)]
    numbers, counts = np.unique(drawn, return_counts=True)
    complete = 95 - n_step + 1
    assert numbers.tolist() == list(range((complete - 20) * 3, complete * 3))
    assert abs(counts - 1000).max() < 150  # five standard deviations


def test_what_is_written_may_be_reused_by_the_environment():
    memory = replay(num_envs=1)
    obs, next_obs = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    off = np.zeros(1, bool)
    memory.add(Transition(obs, np.zeros(1, int), np.zeros(1, np.float32), next_obs, off, off))
    obs += 5
    next_obs += 5
    batch = memory.sample(2)
    assert batch.obs.sum() == 0
    assert batch.next_obs.sum() == 6


def test_types_and_sharing():
    memory = replay(STACK)
    fill(memory, 10, stacks, STACK)
    batch = memory.sample(8)
    assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
    assert batch.obs.shape == batch.next_obs.shape == (8, 4, 3, 2)
    assert batch.action.dtype == torch.int64
    assert batch.reward.dtype == batch.discount.dtype == batch.weight.dtype == torch.float32
    assert batch.weight.tolist() == [1.0] * 8
    assert memory.sample(8).obs.data_ptr() == batch.obs.data_ptr()
    double = Replay(
        8,
        2,
        Box(-1, 1, (3,), np.float64),
        Box(-1, 1, (2,), np.float64),
        gamma=GAMMA,
        generator=np.random.default_rng(),
    )
    off = np.zeros(2, bool)
    obs, reward = np.ones((2, 3)), np.ones(2, np.float32)
    double.add(Transition(obs, np.ones((2, 2)), reward, obs, off, off))
    assert double.sample(4).obs.dtype == double.sample(4).action.dtype == torch.float32
    assert double.sample(4).action.shape == (4, 2)


def test_a_million_atari_transitions_fit_into_eight_gigabytes():
    memory = replay(Box(0, 255, (4, 84, 84), np.uint8), 10_000, 8, priority=PRIORITY)
    ring = memory._arrays.nbytes
    tree = sum(array.nbytes for array in memory._tree._sums + memory._tree._minima)
    game_starts = 2 * 4 * 84 * 84 * 10_000 / 200  # two whole stacks a game of 200 frames or more
    assert (ring + tree + game_starts) * 100 < 8e9


def test_the_side_table_stays_as_large_as_the_window_needs():
    memory = replay(STACK)
    transitions = fill(memory, 100, stacks, STACK)
    size = len(memory._obs._table)
    for _ in range(2000):
        memory.add(next(transitions))
    assert len(memory._obs._table) <= 2 * size


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("following", "space"), [(vectors, VECTOR), (stacks, STACK)])
def test_cut_ends_running_episodes(following, space, n_step):
    memory = replay(space, n_step=n_step)
    memory.cut()
    rng = np.random.default_rng(0)
    before = stream(following(3, rng), space, 3, rng)
    history = [next(before) for _ in range(10)]
    after = stream(following(3, rng), space, 3, rng)
    history += [next(after) for _ in range(10)]
    for row, t in enumerate(history):
        memory.add(t._replace(action=np.arange(3) + row * 3))
        if row == 9:
            memory.cut()
    history[9] = history[9]._replace(truncated=np.ones(3, bool))
    check(memory.sample(256), history, 3, n_step)


@pytest.mark.parametrize("priority", [None, PRIORITY])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    ("following", "space"), [(vectors, VECTOR), (stacks, STACK), (colours, STACK)]
)
@pytest.mark.parametrize("rows", [0, 1, 13, 90])
def test_a_loaded_memory_goes_on_identically(following, space, rows, n_step, priority):
    settings = {"n_step": n_step, "priority": priority}
    first = replay(space, **settings)
    transitions = fill(first, rows, following, space)
    state = deepcopy(first.state())
    later = [next(transitions) for _ in range(30)]

    def go_on(memory):
        seen = [np.asarray(x).copy() for x in memory.sample(64)] if len(memory) else []
        for transition in later:
            memory.add(transition)
            if len(memory):
                batch = memory.sample(8, beta=0.5)
                seen += [np.asarray(x).copy() for x in batch]
                if priority:
                    memory.update_priorities(batch.index, batch.reward.numpy())
        return seen

    expected = go_on(first)
    second = replay(space, seed=99, **settings)
    second.load(state)
    got = go_on(second)
    assert len(got) == len(expected) > 0
    assert all(np.array_equal(x, y) for x, y in zip(got, expected, strict=True))
    assert same(first.state(), second.state())


@pytest.mark.parametrize(("following", "space"), [(vectors, VECTOR), (glitches, STACK)])
def test_checkpoints_write_what_is_new_and_load_all(following, space, tmp_path, monkeypatch):
    """Small pieces, so that there are many; after each checkpoint a memory is made anew."""
    monkeypatch.setattr("rlhydra.pieces.SMALL", 300)
    monkeypatch.setattr("rlhydra.pieces.LARGE", 2000)
    settings = {"capacity": 450, "n_step": 2, "priority": PRIORITY}
    whole, memory = replay(space, **settings), replay(space, **settings)
    checkpoints = Checkpoints(tmp_path)
    transitions = fill(whole, 0, following, space)
    generator = np.random.default_rng(0)
    sizes = []
    for frame in range(30):
        for transition in itertools.islice(transitions, int(generator.integers(20))):
            whole.add(transition)
            memory.add(transition)
        before = set(tmp_path.glob("rows-*"))
        checkpoints.save(frame, memory.state())
        sizes.append(sum(p.stat().st_size for p in set(tmp_path.glob("rows-*")) - before))
        checkpoints, memory = Checkpoints(tmp_path), replay(space, seed=99, **settings)
        memory.load(checkpoints.load())
        assert same(memory.state(), whole.state())
    files = [path.name for path in tmp_path.glob("rows-*")]
    named = [Checkpoints(tmp_path)._head(name) for name in ("latest", "previous")]
    assert set(files) == {p[2] for head in named for row in head["rows"].values() for p in row[2]}
    assert np.mean(sizes) < whole._arrays.nbytes / 4


def test_a_damaged_piece_falls_back_to_the_checkpoint_before(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhydra.pieces.SMALL", 0)
    checkpoints, memory = Checkpoints(tmp_path), replay()
    transitions = fill(memory, 10)
    for frame in (1, 2):
        for transition in itertools.islice(transitions, 10):
            memory.add(transition)
        checkpoints.save(frame, {"memory": memory.state(), "number": frame})
    newest = max(tmp_path.glob("rows-*"), key=lambda path: int(path.name.split("-")[1]))
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    loaded = Checkpoints(tmp_path).load()
    assert loaded is not None and loaded["number"] == 1
    assert not newest.exists()
    for path in tmp_path.glob("rows-*"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="no checkpoint can be read"):
        Checkpoints(tmp_path).load()


def test_a_cut_after_the_state_is_undone_by_loading_it():
    uncut, memory = replay(n_step=3), replay(n_step=3)
    transitions = fill(uncut, 50)
    fill(memory, 50)
    state = deepcopy(memory.state())
    memory.cut()
    again = replay(n_step=3)
    again.load(state)
    for _ in range(2):
        transition = next(transitions)
        uncut.add(transition)
        again.add(transition)
    assert torch.equal(again.sample(256).reward, uncut.sample(256).reward)


def test_wrong_use_is_an_error():
    with pytest.raises(ConfigError, match="buffer_size: expected at least num_envs = 3, got 2"):
        replay(capacity=2)
    with pytest.raises(ConfigError, match="epsilon"):
        replay(priority=Priority(0.6, 0.0))
    with pytest.raises(ValueError, match="no complete 3-step transition"):
        replay(n_step=3).sample(4)


def test_importance_weights_by_hand():
    memory = replay(num_envs=1, capacity=4, priority=Priority(alpha=0.5, epsilon=1.0))
    fill(memory, 4, num_envs=1)
    index = {int(a): i for a, i in zip(*memory.sample(64)[1::5], strict=True)}
    # (|δ| + 1)^0.5 = 1, 2, 3, 4 for transitions 0 to 3
    memory.update_priorities(np.array([index[k] for k in range(4)]), np.array([0, 3, -8, 15]))
    batch = memory.sample(100, beta=0.5)
    probability = (batch.action.double() + 1) / 10
    assert batch.weight.double() == pytest.approx((0.1 / probability) ** 0.5, abs=1e-6)
    # The paper's form: (M P)^-β over its maximum.
    paper = (4 * probability) ** -0.5
    assert batch.weight.double() == pytest.approx(paper / (4 * 0.1) ** -0.5, abs=1e-6)
    assert torch.bincount(batch.action).tolist() == pytest.approx([10, 20, 30, 40], abs=1)


def test_new_transitions_get_the_greatest_priority_so_far():
    memory = replay(num_envs=1, capacity=50, priority=Priority(alpha=1.0, epsilon=1.0))
    transitions = fill(memory, 1, num_envs=1)
    memory.update_priorities(memory.sample(1).index.copy(), np.array([8.0]))
    memory.update_priorities(memory.sample(1).index.copy(), np.array([2.0]))
    memory.add(next(transitions))
    counts = torch.bincount(memory.sample(1200).action)
    assert counts.tolist() == pytest.approx([300, 900], abs=1)  # 3 to 9


def test_priorities_of_forgotten_transitions_are_dropped():
    memory = replay(num_envs=1, capacity=10, priority=PRIORITY)
    transitions = fill(memory, 10, num_envs=1)
    index = memory.sample(64).index.copy()
    memory.add(next(transitions))
    memory.update_priorities(index, np.full(64, 100.0))
    drawn = memory.sample(1000).action
    assert drawn.min() >= 1
    assert drawn.max() <= 10


@pytest.mark.parametrize("capacity", [1, 31, 33, 5000, 200_000])
def test_sum_tree_equals_brute_force(capacity):
    rng = np.random.default_rng(capacity)
    tree, leaves = SumTree(capacity), np.zeros(capacity)
    assert tree.minimum == np.inf
    for _ in range(20):
        index = rng.integers(0, capacity, 300)  # with repetitions
        priority = rng.integers(0, 50, 300).astype(float)  # whole numbers: sums are exact
        for i, p in zip(index, priority, strict=True):
            leaves[i] = p
        tree.update(index, priority)
        if not leaves.any():
            continue
        assert np.array_equal(tree.priorities, leaves)
        assert tree.total == leaves.sum()
        assert tree.minimum == leaves[leaves > 0].min()
        seed = int(rng.integers(1000))
        uniform = np.random.default_rng(seed).random(64)
        target = (np.arange(64) + uniform) * (leaves.sum() / 64)
        expected = np.searchsorted(leaves.cumsum(), target, "right")
        assert np.array_equal(tree.sample(64, np.random.default_rng(seed)), expected)


def test_sum_tree_follows_from_its_leaves():
    rng = np.random.default_rng(0)
    tree, filled = SumTree(150_000), SumTree(150_000)
    for _ in range(50):
        tree.update(rng.integers(0, 150_000, 64), rng.random(64))
    filled.update(np.arange(100), np.ones(100))
    filled.fill(tree.priorities)
    for a, b in zip(tree._sums + tree._minima, filled._sums + filled._minima, strict=True):
        assert np.array_equal(a, b)


class Extreme:
    """A generator that draws one number throughout."""

    def __init__(self, number):
        self.number = number

    def random(self, count):
        return np.full(count, self.number)


def test_sum_tree_never_draws_priority_zero_whatever_the_rounding():
    rng = np.random.default_rng(0)
    tree, block = SumTree(5000), np.arange(65, 96)  # all of a block but its first
    for _ in range(300):
        tree.update(block, 10.0 ** rng.uniform(-2, 2, len(block)))
        for number in (0.0, 1 - 2.0**-53):
            assert (tree.priorities[tree.sample(3, Extreme(number))] > 0).all()
