"""The typed configuration: what each setting means, its checks, and the classes that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rlhydra.schedule import Schedule, Scheduled
from rlhydra.schema import (
    ConfigError,
    FitError,
    Fraction,
    NonNegative,
    Positive,
    Range,
    near,
    read,
)
from rlhydra.targets import settings_class

__all__ = [
    "INCIDENTAL",
    "AgentConfig",
    "Config",
    "EnvConfig",
    "Fraction",
    "MetaConfig",
    "NetConfig",
    "NonNegative",
    "OptimizerConfig",
    "Positive",
    "Range",
    "Resources",
    "Schedule",
    "Scheduled",
    "SearchScheduler",
    "defining_settings",
    "differing_keys",
    "digest",
    "flat",
    "parse",
]

Activation = Literal["tanh", "relu", "elu", "gelu", "selu", "silu"]
Metric = Literal[
    "final_return",
    "best_return",
    "strength",
    "max_strength",
    "final_strength",
    "sample_efficiency",
    "training_efficiency",
    "stability",
    "consistency",
]

# asha is asynchronous successive halving (Li et al., 2020); the others are named as in Optuna.
Pruner = Literal["asha", "hyperband", "median", "percentile", "patient", "threshold", "wilcoxon"]


@dataclass(frozen=True)
class Resources:
    """What one trial takes of a machine or cluster; fractions share a device."""

    cpu: Annotated[float, Positive] | None = None
    gpu: Annotated[float, NonNegative] | None = None


@dataclass(frozen=True)
class SearchScheduler:
    """Which trials of an experiment are stopped early: by Optuna's pruners, ASHA by default."""

    grace_period: Annotated[int, Positive]  # frames before a trial can be stopped
    reduction_factor: Annotated[int, Range(low=2)]  # asha: one in so many goes on at each rung
    pruner: Pruner = "asha"
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])  # to the pruner's constructor


@dataclass(frozen=True)
class MetaConfig:
    """How an experiment runs: sessions, checkpoints, evaluation, resources, search."""

    max_session: Annotated[int, Positive]
    max_trial: Annotated[int, Positive]
    log_frequency: Annotated[int, Positive]
    eval_frequency: Annotated[int, Positive]
    checkpoint_interval: Annotated[float, NonNegative]
    keep: Literal["latest", "all"]
    rigorous_eval: Annotated[int, NonNegative] | None
    eval_episodes: Annotated[int, Positive]
    eval_sample: bool | None
    distributed: Literal[False, "shared", "synced"]
    num_cpus: Annotated[float, Positive] | None
    num_gpus: Annotated[float, NonNegative] | None
    search_resources: Resources | None
    search_scheduler: SearchScheduler | None
    metric: Metric
    max_retries: Annotated[int, NonNegative]
    keep_trials: Annotated[int, Positive] | None
    histograms: bool
    video_frequency: Annotated[int, Positive] | None
    progress: bool | None


@dataclass(frozen=True)
class EnvConfig:
    """What every environment has; a family adds its own settings."""

    id: str
    kwargs: dict[str, Any]  # to the environment's constructor
    eval_kwargs: dict[str, Any]  # over kwargs in evaluation environments
    num_envs: Annotated[int, Positive]
    max_frame: Annotated[int, Positive]  # length of a session
    max_t: Annotated[int, Positive] | None  # time limit of a game in frames; null: its own


Convolution = tuple[Annotated[int, Positive], ...]  # filters, size, stride
NATURE: tuple[Convolution, ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al. (2015)


@dataclass(frozen=True)
class NetConfig:
    """A network: features of the observation, then a multi-layer perceptron."""

    # auto: mlp for vectors; nature for images, impala for those that are too small for it
    kind: Literal["auto", "mlp", "nature", "impala"]
    hidden: tuple[Annotated[int, Positive], ...]  # widths of the perceptron's layers
    activation: Activation
    layer_norm: bool
    shared: bool  # one trunk for policy and value, or one each
    init: Literal["orthogonal", "default"]  # default: torch's own
    conv: tuple[Convolution, ...] | None = None  # of nature, in place of the paper's

    def __post_init__(self) -> None:
        if any(len(layer) != 3 for layer in self.convolutions):
            raise ValueError(f"conv: expected [filters, size, stride] a layer, got {self.conv}")

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The layers of `nature`, each as filters, size and stride."""
        return NATURE if self.conv is None else self.conv

    def kind_for(self, obs_shape: tuple[int, ...]) -> str:
        """Return the kind of network for observations of this shape, a vector's or an image's.

        Raises:
            FitError: where the one that was asked for does not fit.
        """
        is_image = len(obs_shape) == 3
        small = is_image and not self._covers(min(obs_shape[1:]))
        auto = ("impala" if small and self.conv is None else "nature") if is_image else "mlp"
        kind = auto if self.kind == "auto" else self.kind
        if (kind != "mlp") != is_image or (kind == "nature" and small):
            fitting = "mlp" if not is_image else "impala" if small else "nature or impala"
            problem = f"{kind} does not fit observations of shape {obs_shape}; use {fitting}"
            raise FitError("agent.net.kind", problem)
        return kind

    def _covers(self, side: int) -> bool:
        """Whether the convolutions leave something of an image's side."""
        for _, size, stride in self.convolutions:
            side = (side - size) // stride + 1 if side >= size else 0
        return side > 0


OptimizerName = Literal[
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop",
    "Rprop", "SGD",
]  # fmt: skip


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer of `torch.optim`, and its arguments but for the learning rate."""

    name: OptimizerName
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class AgentConfig:
    """What every agent has; an algorithm adds its own settings."""

    # Kinds of action space that the algorithm can act in.
    actions: ClassVar[tuple[Literal["discrete", "multidiscrete", "box"], ...]] = ()
    # What acts where sessions share their parameters (meta.distributed): the shared ones themselves
    # (live), or a copy, as a rollout must come from one policy. None: they cannot be shared.
    sharing: ClassVar[Literal["live", "copy"] | None] = None

    # Of networks on images. auto: bfloat16 where the processor has instructions for it.
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", True, False]  # auto: where the run is long enough to pay for it

    init_from: str | None  # folder of a trial, whose best agent's weights training starts from

    def check(self, env: EnvConfig) -> None:
        """Raise ConfigError for settings that do not fit together."""


@dataclass(frozen=True)
class Config:
    """A trial: everything that defines it."""

    seed: int
    meta: MetaConfig
    agent: AgentConfig
    env: EnvConfig
    agent_target: str
    env_target: str


def parse(composed: DictConfig | Mapping[str, Any]) -> Config:
    """Return the checked configuration.

    Raises:
        ConfigError: where a setting is unknown, missing, mistyped, out of range, or does not fit
            another.
    """
    tree = composed if isinstance(composed, DictConfig) else OmegaConf.create(dict(composed))
    try:
        container = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(key, f"this setting is missing; give it as {key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError("", str(error).splitlines()[0]) from error
    plain = cast("dict[str, Any]", container)
    known = {"seed", "meta", "agent", "env"}
    for key in plain:
        if key not in known:
            raise ConfigError(key, f"no such setting{near(key, known)}")
    seed = read(_Seed, {"seed": plain.get("seed")}).seed
    meta = read(MetaConfig, plain.get("meta"), "meta")
    agent_target, agent = _group(plain, "agent", AgentConfig)
    env_target, env = _group(plain, "env", EnvConfig)
    try:
        agent.check(env)
        if meta.distributed:
            _check_sharing(agent, agent_target)
    except ConfigError as error:
        raise FitError("", str(error)) from error
    return Config(seed, meta, agent, env, agent_target, env_target)


# Optimizers whose state sessions can share, and the arguments that leave it as it is.
_SHAREABLE = {
    "Adam": ("betas", "eps", "weight_decay"),
    "RMSprop": ("alpha", "eps", "weight_decay"),
}


def _check_sharing(agent: AgentConfig, target: str) -> None:
    """Raise ConfigError where sessions cannot train one such agent (`meta.distributed`)."""
    optimizer = getattr(agent, "optimizer", None)
    if agent.sharing is None or optimizer is None:
        name = target.rpartition(".")[2]
        problem = f"sessions cannot share the parameters of {name}; use false, or another agent"
        raise ConfigError("meta.distributed", problem)
    if optimizer.name not in _SHAREABLE:
        problem = f"sessions cannot share the state of {optimizer.name} (meta.distributed)"
        raise ConfigError("agent.optimizer.name", f"{problem}; use {' or '.join(_SHAREABLE)}")
    for name in optimizer.kwargs:
        if name not in _SHAREABLE[optimizer.name]:
            problem = f"not with meta.distributed, where {optimizer.name} takes"
            taken = ", ".join(_SHAREABLE[optimizer.name])
            raise ConfigError(f"agent.optimizer.kwargs.{name}", f"{problem} {taken}")


@dataclass(frozen=True)
class _Seed:
    seed: Annotated[int, NonNegative]


def _group(plain: dict[str, Any], name: str, base: type[Any]) -> tuple[str, Any]:
    """Return the class that a group names by `_target_` and its settings."""
    settings = plain.get(name)
    if not isinstance(settings, dict):
        raise ConfigError(name, f"expected a group of settings, got {settings}")
    settings = dict(cast("dict[str, Any]", settings))
    target = settings.pop("_target_", None)
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{name}._target_", f"expected package.module.Class, got {target}")
    if settings.get("optimizer") == {"kwargs": {}}:
        del settings["optimizer"]  # composition makes room for kwargs; this agent has no optimizer
    found = settings_class(target, base, f"{name}._target_", globals())
    return target, read(found, settings, name)


def digest(composed: DictConfig) -> str:
    """Return a short hash of what defines a trial's result."""
    text = json.dumps(_defining(composed), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def defining_settings(composed: DictConfig) -> dict[str, Any]:
    """Return what defines a trial's result, by dotted names."""
    return flat(_defining(composed))


def differing_keys(one: DictConfig, other: DictConfig) -> list[str]:
    """Return the dotted names of the settings in which two trials' definitions differ."""
    mine, theirs = defining_settings(one), defining_settings(other)
    return sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))


# Settings that change how a trial is run or shown, but not what it computes.
INCIDENTAL = (
    "max_trial", "progress", "num_cpus", "num_gpus", "search_resources", "max_retries", "keep",
    "keep_trials", "checkpoint_interval", "histograms",
    "video_frequency",
)  # fmt: skip


def _defining(composed: DictConfig) -> dict[str, Any]:
    config = parse(composed)
    plain = cast("dict[str, Any]", _plain(config))
    for key in INCIDENTAL:
        plain["meta"].pop(key)
    plain["env"].pop("max_frame")  # a longer run of the same trial goes on from its checkpoint
    return plain


def _plain(value: Any) -> Any:
    """Return nested dataclasses as JSON values: `1e7` and `10_000_000` are one number by now."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[Any, ...]", value)]
    return value


def flat(tree: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Return the values of nested groups by dotted names."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            values.update(flat(cast("dict[str, Any]", value), f"{where}{key}."))
        else:
            values[f"{where}{key}"] = value
    return values
