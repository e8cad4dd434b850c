"""`python -m rlhydra.import_spec`: specs of SLM Lab as experiments that compose and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhydra.import_spec import main
from rlhydra.slm_lab.rules import RULES
from rlhydra.training import composed
from tests.documents import ROOT
from tests.trials import run

SPECS = ROOT / "tests" / "specs"
OLD, NEW = str(SPECS / "old.json"), str(SPECS / "new.yaml")
ON_CARTPOLE = ("actor_critic", "env=CartPole-v1", "max_frame=800")


@pytest.fixture
def imported(tmp_path, capsys):
    """Import a spec into an empty folder: what was said, and the experiment composed."""

    def take(*arguments):
        folder = tmp_path / "specs"
        assert main([*arguments, "--to", str(folder)]) == 0
        (file,) = (folder / "experiment").glob("*.yaml")
        config = composed([f"experiment={file.stem}"], config_dir=folder)
        return capsys.readouterr().out, config, folder

    return take


def test_a_spec_of_the_older_form_is_an_experiment(imported):
    said, config, folder = imported(OLD, *ON_CARTPOLE)
    agent, env = config.agent, config.env
    assert (agent._target_, env.id) == ("rlhydra.agent.a2c.A2C", "CartPole-v1")
    assert (agent.gamma, agent.lam, agent.horizon) == (0.98, 0.9, 16)
    assert agent.value_coef == 0.8  # ours is half the squared error
    assert agent.entropy_coef == {
        "start": 0.02, "end": 0.001, "kind": "linear", "after": 500, "until": 8000
    }  # fmt: skip
    assert (agent.lr.start, agent.lr.end, agent.lr.until) == (3e-3, 0, 2e4)
    assert agent.optimizer == {"name": "RMSprop", "kwargs": {"alpha": 0.98, "eps": 1e-8}}
    assert (agent.net.hidden, agent.net.activation) == ([48, 32], "selu")
    assert (env.num_envs, env.max_frame, config.meta.num_gpus) == (4, 800, 0)
    assert "agent.algorithm.lam: 0.9\n    agent.lam=0.9" in said
    assert "env.normalize_obs: false\n    agent.normalise_obs=false; its default" in said
    name = "actor_critic_CartPole-v1_800"
    assert f"python -m rlhydra --config-dir {folder} experiment={name}\n" in said
    assert f"--multirun --config-dir {folder} experiment={name} 'agent.lam=choice(0.7, 0.95)'" in (
        said
    )


def test_a_spec_of_the_newer_form_with_its_search(imported):
    _, config, folder = imported(NEW, "boltzmann")
    agent = config.agent
    assert agent.epsilon == 0
    assert (agent.temperature.start, agent.temperature.until) == (2.0, 900)
    assert (agent.net.hidden, agent.net.layer_norm, agent.net.activation) == (
        [40, 24],
        True,
        "tanh",
    )
    assert (agent.tau, agent.target_update_frequency, agent.train_frequency) == (0.02, 4, 4)
    assert (agent.updates_per_train, agent.loss) == (2, "squared")
    assert OmegaConf.load(folder / "search" / "boltzmann.yaml") == {
        "agent.gamma": "interval(0.95, 0.99)",
        "agent.temperature.end": "choice(0.05, 0.1)",
        "agent.lr": "tag(log, interval(0.0001, 0.01))",
        "agent.batch_size": "choice(16, 32, 48, 64)",
    }


def test_networks_of_their_own_for_critics_and_arguments_of_the_environment(imported):
    _, config, _ = imported(NEW, "crossq", "max_frame=2e4")
    agent = config.agent
    assert (agent.critic_hidden, agent.renorm_momentum, agent.renorm_warmup) == ([128], 0.02, 7000)
    assert agent.optimizer.kwargs == {"betas": [0.9, 0.999], "eps": 1e-8}
    assert config.env.kwargs == {"g": 9.81}


@pytest.mark.parametrize(
    ("env", "sticky", "reward"),
    [("ALE/MsPacman-v5", 0.25, "sign"), ("MsPacmanNoFrameskip-v4", 0, "raw")],
)
def test_atari_games_of_both_kinds(env, sticky, reward, imported):
    _, config, _ = imported(NEW, "pixels", f"env={env}")
    assert (config.env.id, config.env.sticky) == ("ALE/MsPacman-v5", sticky)
    assert (config.env.reward, config.env.frame_stack) == (reward, 4)
    assert (config.agent.net.kind, config.agent.clip_value) == ("nature", 0.1)


def test_convolutions_of_their_own(tmp_path, capsys):
    layers = "[[32, 8, 4, 0, 1], [64, 4, 2, 0, 1], [%s]]"
    text = Path(NEW).read_text()
    last = "64, 3, 1, 0, 1"
    assert layers % last in text
    for wanted, conv in (("32, 3, 1, 0, 1", [32, 3, 1]), ("64, 3, 1, 1, 1", None)):
        spec = tmp_path / "spec.yaml"
        spec.write_text(text.replace(layers % last, layers % wanted))
        folder = tmp_path / f"to_{wanted[0]}"
        code = main([str(spec), "pixels", "env=ALE/Pong-v5", "--to", str(folder)])
        assert code == (conv is None)
        if conv is None:
            assert "agent.net.conv_hid_layers: padding and dilation" in capsys.readouterr().err
        else:
            (file,) = (folder / "experiment").glob("*.yaml")
            net = composed([f"experiment={file.stem}"], config_dir=folder).agent.net
            assert net.conv == [[32, 8, 4], [64, 4, 2], conv]


def test_what_does_not_exist_here_is_named_and_nothing_is_written(tmp_path, capsys):
    folder = tmp_path / "specs"
    lost = ("agent.memory.use_cer", "agent.net.init_fn")
    assert main([OLD, "prioritised", "--to", str(folder)]) == 1
    err = capsys.readouterr().err
    for key in lost:
        assert re.search(rf"^rlhydra: {key}: .* does not exist here", err, re.MULTILINE)
    assert f"To go on without: --drop {lost[0]} --drop {lost[1]}\n" in err
    assert not folder.exists()
    drops = [word for key in lost for word in ("--drop", key)]
    assert main([OLD, "prioritised", "--to", str(folder), *drops]) == 0
    config = composed(["experiment=prioritised"], config_dir=folder)
    assert config.env.id == "LunarLander-v3"
    assert config.agent.dueling
    assert config.agent.double
    assert config.agent.prioritised == {"alpha": 0.5, "beta": 0, "epsilon": 1e-3}
    assert config.agent.train_frequency == 8  # as often as its copies step
    assert config.agent.learning_starts == 32  # its default: a batch


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((OLD, "actor_critc"), "there is no spec actor_critc (did you mean actor_critic?)"),
        ((OLD, "actor_critic"), "${env} needs a value: give it as env=CartPole-v1"),
        ((OLD, *ON_CARTPOLE, "seed=1"), "seed: the spec has no variable ${seed}"),
        ((OLD, "actor_critic", "env=Unity-v0", "max_frame=9"), "Gymnasium knows no Unity-v0"),
        (("nowhere.json", "x"), "nowhere.json: it cannot be read"),
        (
            (OLD, "actor_critic", "env=CartPole-v1", "max_frame=many"),
            "env.max_frame: expected a whole number",
        ),
    ],
)
def test_a_wrong_line_is_one_message(arguments, said, tmp_path, capsys):
    assert main([*arguments, "--to", str(tmp_path / "specs")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "specs").exists()


def test_files_of_others_stay(tmp_path, capsys):
    mine = tmp_path / "experiment" / "boltzmann.yaml"
    mine.parent.mkdir()
    mine.write_text("mine\n")
    assert main([NEW, "boltzmann", "--to", str(tmp_path)]) == 1
    assert "is a file of yours" in capsys.readouterr().err
    assert mine.read_text() == "mine\n"


def test_the_page_has_the_table_of_rules():
    text = (ROOT / "docs" / "from-slm-lab.md").read_text("utf-8")
    for key, rule in RULES.items():
        assert f"| `{key}` | {rule.here} |" in text.splitlines(), key
    assert len(re.findall(r"^\| `(?:agent|env|meta|body)\.", text, re.MULTILINE)) == sum(
        "." in key for key in RULES
    )


@pytest.mark.slow
def test_an_imported_spec_trains(imported, tmp_path):
    folder = imported(OLD, *ON_CARTPOLE)[2]
    name = "experiment=actor_critic_CartPole-v1_800"
    code, out = run(tmp_path / "trial", name, "--config-dir", str(folder))
    assert code == 0, out
    assert "a2c on CartPole-v1: completed" in out


@pytest.mark.slow
def test_an_imported_search_runs(imported, tmp_path):
    folder = imported(NEW, "boltzmann")[2]
    code, out = run(
        tmp_path / "unused",
        *("experiment=boltzmann", "search=boltzmann", "hydra/launcher=basic"),
        *(f"hydra.sweep.dir={tmp_path / 'sweep'}", "--config-dir", str(folder), "--multirun"),
    )
    assert code == 0, out
    assert len(list((tmp_path / "sweep").glob("*/trial.json"))) == 2
