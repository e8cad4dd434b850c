"""What values of a spec are here: our settings, or in words why none is needed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import gymnasium
import yaml

from rlhydra.composition import CONF
from rlhydra.env.shipped import game_name, games
from rlhydra.slm_lab.spec import (
    AGENTS,
    ON_POLICY,
    Q_LEARNING,
    NoEqualError,
    Settings,
    Spec,
)

# torch's own arguments, said aloud: our agents have others, and these must not stay.
ADAM: Settings = {"betas": [0.9, 0.999], "eps": 1e-8}
OPTIMIZERS: dict[str, Settings] = {
    "Adam": ADAM,
    "AdamW": {**ADAM, "weight_decay": 0.01},
    "NAdam": ADAM,
    "RAdam": ADAM,
    "RMSprop": {"alpha": 0.99, "eps": 1e-8},
}
# What an algorithm does there that is a setting here.
OWN: dict[str, Settings] = {
    "VanillaDQN": {"agent.target_update_frequency": 1, "agent.tau": 1.0},  # no target network
    "SARSA": {"agent.lam": 0.0, "agent.epochs": 1},
    "ActorCritic": {"agent.normalise_advantage": True},
    "PPO": {"agent.normalise_advantage": True},
}
ACTIVATIONS = ("tanh", "relu", "elu", "gelu", "selu", "silu")
NATURE = [[32, 8, 4], [64, 4, 2], [64, 3, 1]]  # filters, size, stride


def schedule(place: str, value: Any) -> Settings:
    """Return a number, or the settings of one that follows the clock."""
    kind, start, end = value.get("name"), value.get("start_val"), value.get("end_val")
    if kind == "no_decay":
        return {place: start}
    if kind != "linear_decay":
        raise NoEqualError(f"{kind} does not exist here; there is linear_decay and no_decay")
    moments = {"after": int(value.get("start_step", 0)), "until": int(value["end_step"])}
    parts = {"start": start, "end": end, "kind": "linear", **moments}
    return {f"{place}.{name}": part for name, part in parts.items()}


def algorithm(name: Any, spec: Spec) -> Settings:
    """Return the agent, and what sets it apart from ours of that name."""
    if name not in AGENTS:
        raise NoEqualError(f"{name} does not exist here; there are {', '.join(AGENTS)}")
    agent: Settings = {"agent": AGENTS[name]}
    if "Prioritized" in str(spec("agent.memory.name")):
        agent |= _prioritised(name)
    if str(spec("agent.net.type")).startswith("Dueling"):
        agent["agent.dueling"] = True
    if spec("agent.net.type") == "RecurrentNet":
        agent["agent"] = _recurrent(name, str(spec("agent.net.cell_type", "GRU")).lower())
    if name == "SARSA":
        size = spec("env.num_envs") * spec("agent.algorithm.training_frequency")
        agent["agent.minibatch_size"] = int(size)
    return agent | OWN.get(name, {})


def _prioritised(name: str) -> Settings:
    if name not in Q_LEARNING:
        raise NoEqualError(f"{name} with prioritised replay does not exist here")
    # Its replay does not correct for drawing unevenly.
    double = Q_LEARNING[name] == "ddqn"
    return {"agent": "ddqn_per", "agent.double": double, "agent.prioritised.beta": 0.0}


def _recurrent(name: str, cell: str) -> str:
    if name != "PPO" or cell not in ("lstm", "gru"):
        raise NoEqualError(f"{name} with a recurrent network ({cell}) does not exist here")
    return f"ppo_{cell}"


def exploration(value: Any, spec: Spec) -> Settings | str:
    """Return the share of random actions, or Boltzmann's temperature."""
    if value is None:
        return "nothing explores"
    if spec("agent.algorithm.action_policy") == "boltzmann":
        return {"agent.epsilon": 0.0, **schedule("agent.temperature", value)}
    return schedule("agent.epsilon", value)


def lam(value: Any, _: Spec) -> Settings:
    """Return λ; null leaves n-step returns, which are λ = 1."""
    return {"agent.lam": 1.0 if value is None else value}


def steps(value: Any, spec: Spec) -> Settings | str:
    """Return the horizon of n-step returns."""
    if value is None:
        return "`lam` says it"
    if value != spec("agent.algorithm.training_frequency"):
        raise NoEqualError("here the horizon is both it and training_frequency, which differ")
    return {"agent.horizon": value, "agent.lam": 1.0}


def frequency(value: Any, spec: Spec) -> Settings | str:
    """Return how often the agent learns, in its own measure."""
    if spec.algorithm == "PPO":
        return "it is `time_horizon`"
    if spec.algorithm == "Reinforce":
        if "Batch" in str(spec("agent.memory.name")):
            raise NoEqualError("here Reinforce learns from whole episodes: agent.episodes")
        return {"agent.episodes": value}
    if spec.algorithm in ON_POLICY:
        return {"agent.horizon": value}
    # Its training comes at most once in a step of all copies.
    return {"agent.train_frequency": max(int(value), int(spec("env.num_envs")))}


def updates(_: Any, spec: Spec) -> Settings:
    """Return the updates of one training."""
    passes = spec("agent.algorithm.training_iter", 1)
    return {"agent.updates_per_train": passes * spec("agent.algorithm.training_batch_iter", 1)}


def clipped_value(value: Any, spec: Spec) -> Settings:
    """Return the clip of the value."""
    if not value:
        return {"agent.clip_value": None}
    clip = spec("agent.algorithm.clip_eps_spec")
    if clip["name"] != "no_decay":
        raise NoEqualError("here the value's clip is a number; that of the policy changes")
    return {"agent.clip_value": clip["start_val"]}


def baseline(value: Any, _: Spec) -> Settings:
    """Return Reinforce's baseline."""
    return {"agent.baseline": "mean" if value else None}


def network(kind: Any, spec: Spec) -> Settings | str:
    """Return what the kind of network says beyond its layers."""
    known = ("MLPNet", "ConvNet", "DuelingMLPNet", "DuelingConvNet", "RecurrentNet", "TorchArcNet")
    if kind not in known:
        raise NoEqualError(f"{kind} does not exist here")
    if kind == "ConvNet" and not spec("agent.net.fc_hid_layers"):
        return {"agent.net.hidden": []}
    return "follows from the observations"


def convolutions(value: Any, _: Spec) -> Settings:
    """Return the network with these convolutions: filters, size, stride, padding, dilation."""
    if any(layer[3:] not in ([], [0], [0, 1], [0, [1, 1]]) for layer in value):
        raise NoEqualError("padding and dilation of convolutions do not exist here")
    return {f"agent.net.{key}": each for key, each in _nature([x[:3] for x in value]).items()}


def _nature(filters: list[list[int]]) -> Settings:
    own: Settings = {} if filters == NATURE else {"conv": filters}
    return {"kind": "nature", **own}


def init(value: Any, _: Spec) -> Settings:
    """Return how weights begin."""
    kinds = {None: "default", "orthogonal_": "orthogonal"}
    if value not in kinds:
        raise NoEqualError(f"{value} does not exist here; there are orthogonal_ and null")
    return {"agent.net.init": kinds[value]}


def loss(value: Any, spec: Spec) -> Settings | str:
    """Return the loss of values."""
    kinds = {"MSELoss": "squared", "SmoothL1Loss": "huber"}
    name = value["name"]
    if spec.algorithm in Q_LEARNING and name in kinds:
        return {"agent.loss": kinds[name]}
    if name != "MSELoss":
        raise NoEqualError(f"{name} does not exist here; the loss is the squared error")
    return "always the squared error"


def optimizer(value: Any, spec: Spec) -> Settings:
    """Return the optimizer with its learning rate, which the scheduler changes."""
    kwargs = dict(value)
    name, rate = str(kwargs.pop("name")).removeprefix("Global"), kwargs.pop("lr")
    if name not in OPTIMIZERS:
        raise NoEqualError(f"{name} does not exist here; there are {', '.join(OPTIMIZERS)}")
    settings: Settings = {"agent.optimizer.name": name}
    for key, argument in {**OPTIMIZERS[name], **kwargs}.items():
        settings[f"agent.optimizer.kwargs.{key}"] = argument
    decay = spec("agent.net.lr_scheduler_spec")
    if decay is None:
        return {**settings, "agent.lr": rate}
    if decay["name"] != "LinearToZero":
        raise NoEqualError(f"with {decay['name']} it does not exist here; there is LinearToZero")
    parts = {"start": rate, "end": 0.0, "kind": "linear", "after": 0, "until": decay["frame"]}
    return {**settings, **{f"agent.lr.{part}": each for part, each in parts.items()}}


def second_optimizer(value: Any, spec: Spec) -> str:
    """Accept a critic's optimizer that is the actor's."""
    first = spec("agent.net.actor_optim_spec", spec("agent.net.optim_spec"))
    one = spec("agent.net.shared") or spec("agent.net.use_same_optim")
    if not one and value != first:
        raise NoEqualError("policy and value have one optimizer here; the actor's differs")
    return "the same optimizer"


def target_update(value: Any, spec: Spec) -> Settings | str:
    """Return how far the target network moves."""
    if value == "polyak":
        return "`tau` says it"
    if value != "replace" or spec.algorithm not in Q_LEARNING:
        raise NoEqualError(f"{value} does not exist here for {spec.algorithm}")
    return {"agent.tau": 1.0}


def target_frequency(value: Any, spec: Spec) -> Settings | str:
    """Return how often the target network moves."""
    if spec.algorithm in Q_LEARNING:
        return {"agent.target_update_frequency": max(int(value), int(spec("env.num_envs")))}
    if value != 1:
        raise NoEqualError("the target critics follow at each update here")
    return "always at each update"


def polyak(value: Any, spec: Spec) -> Settings | str:
    """Return the share of the online network that the target takes."""
    return {"agent.tau": value} if spec("agent.net.update_type") == "polyak" else "had no effect"


def gpu(value: Any, _: Spec) -> Settings | str:
    """Return whether a GPU is used."""
    return {"meta.num_gpus": 0} if value is False else "a GPU is used where there is one"


def shared(value: Any, spec: Spec) -> Settings | str:
    """Return whether policy and value share their layers."""
    return {"agent.net.shared": value} if spec.algorithm in ON_POLICY else "follows from the agent"


def graph(value: Any, _: Spec) -> Settings:
    """Return the network that a graph of modules describes."""
    return {f"agent.net.{name}": each for name, each in layers_of(value).items()}


def layers_of(arc: Any) -> Settings:
    """Return kind, widths, activation and normalisation of a network that is one plain sequence."""
    bodies = [body.get("Sequential") for body in arc["modules"].values()]
    if len(bodies) != 1 or not bodies[0]:
        raise NoEqualError("a graph of several modules does not exist here")
    layers = [next(iter(layer.items())) for layer in bodies[0]]
    known = ("LazyConv2d", "LazyLinear", "LayerNorm", "LazyBatchRenorm1d", "Flatten")
    for name, _ in layers:
        if name not in known and name.lower() not in ACTIVATIONS:
            raise NoEqualError(f"{name} does not exist here")
    found: Settings = {
        "hidden": [options["out_features"] for name, options in layers if name == "LazyLinear"],
        "layer_norm": any(name == "LayerNorm" for name, _ in layers),
    }
    for name, _ in layers:
        if name.lower() in ACTIVATIONS:
            found["activation"] = name.lower()
    parts = ("out_channels", "kernel_size", "stride")
    filters = [[options[p] for p in parts] for name, options in layers if name == "LazyConv2d"]
    return found | (_nature(filters) if filters else {})


def critic(value: Any, spec: Spec) -> Settings:
    """Return the critics' network."""
    others = ("arc", "hid_layers", "gpu", "type", "hid_layers_activation")
    differing = [k for k in value if k not in others and value[k] != spec(f"agent.net.{k}")]
    if differing:
        raise NoEqualError(f"its {', '.join(differing)} must be that of agent.net here")
    if "arc" not in value:
        return {"agent.critic_hidden": value["hid_layers"]}
    settings: Settings = {"agent.critic_hidden": layers_of(value["arc"])["hidden"]}
    (body,) = value["arc"]["modules"].values()
    for layer in body["Sequential"]:
        if "LazyBatchRenorm1d" in layer:
            options = layer["LazyBatchRenorm1d"]
            settings["agent.renorm_momentum"] = options["momentum"]
            settings["agent.renorm_warmup"] = options["warmup_steps"]
    return settings


def environment(name: Any, spec: Spec) -> Settings:
    """Return the choice of an environment, by its id or that of another version."""
    shipped = {each: choice for choice, each in shipped_ids().items()}
    if spec.atari:
        game = str(name).removeprefix("ALE/").partition("NoFrameskip")[0].partition("-")[0]
        choice = shipped.get(f"ALE/{game}-v5")
        if choice is None:
            raise NoEqualError(f"ale-py plays no game {game}")
        # The games without frame skip repeat no action by chance.
        return {"env": choice, **({"env.sticky": 0.0} if "NoFrameskip" in name else {})}
    versions = {each.rpartition("-")[0]: choice for each, choice in shipped.items()}
    choice = shipped.get(name)
    if choice is not None:
        return {"env": choice}
    similar = versions.get(str(name).rpartition("-")[0])
    if similar is not None:
        # Of an older version only the id is left, where Gymnasium still has it.
        return {"env": similar, **({"env.id": name} if name in gymnasium.registry else {})}
    if name not in gymnasium.registry:
        raise NoEqualError(f"Gymnasium knows no {name}")
    return {"env": "gym", "env.id": name}


@cache
def shipped_ids() -> dict[str, str]:
    """Return the ids of the environments that can be chosen, by their choices."""
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "env").glob("*.yaml")}
    ids = {name: content["env"]["id"] for name, content in files.items() if name != "gym"}
    return {**ids, **{rom: f"ALE/{game_name(rom)}-v5" for rom in games()}}


def reward(value: Any, spec: Spec) -> Settings:
    """Return how the learner sees rewards."""
    if spec.atari and value in ("sign", None):
        return {"env.reward": "raw" if value is None else "sign"}
    if spec.atari or isinstance(value, str):
        raise NoEqualError(f"{value} does not exist here for this environment")
    return {"env.reward_scale": 1.0 if value is None else value}


def lives(value: Any, _: Spec) -> Settings:
    """Return whether a lost life ends the learner's episode."""
    return {"env.full_game": not value}


def std(value: Any, _: Spec) -> Settings:
    """Return the initial deviation of continuous actions."""
    return {"agent.initial_std": math.exp(value)}


def value_coef(value: Any, _: Spec) -> Settings:
    """Return the weight of the value loss, which is half the squared error here."""
    return {"agent.value_coef": 2 * value}
