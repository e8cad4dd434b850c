"""A spec of SLM Lab: read from its file, its variables filled in, its defaults said aloud."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, cast

import yaml

from rlhydra.schema import ConfigError, near

Settings = dict[str, Any]
"""Our settings by their dotted names; `agent` and `env` are choices."""


class NoEqualError(Exception):
    """Something of a spec that does not exist here, and why."""


class Spec:
    """A spec as nested dictionaries, read by dotted keys."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree = tree

    def __call__(self, key: str, default: Any = None) -> Any:
        """Return the value under `key`, or `default` where it is missing."""
        value: Any = self.tree
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = cast("Any", value[part])
        return value

    def put(self, key: str, value: Any) -> None:
        """Set the value under `key`, also one that was missing."""
        *parents, last = key.split(".")
        branch = self.tree
        for part in parents:
            branch = branch.setdefault(part, {})
        branch[last] = value

    @property
    def algorithm(self) -> str:
        """The name of its algorithm."""
        return str(self("agent.algorithm.name"))

    @property
    def atari(self) -> bool:
        """Whether its environment is an Atari game."""
        name = str(self("env.name"))
        return name.startswith("ALE/") or "NoFrameskip" in name


ON_POLICY = {"Reinforce": "reinforce", "ActorCritic": "a2c", "PPO": "ppo", "SARSA": "sarsa"}
Q_LEARNING = {"VanillaDQN": "dqn", "DQNBase": "dqn", "DQN": "dqn", "DoubleDQN": "ddqn"}
ACTOR_CRITIC = {"SoftActorCritic": "sac", "CrossQ": "crossq", "TD3": "td3", "DDPG": "ddpg"}
AGENTS = {**ON_POLICY, **Q_LEARNING, **ACTOR_CRITIC, "Random": "random"}


def fill(spec: Spec) -> list[str]:
    """Add what SLM Lab takes where the spec says nothing; return the keys that were added."""
    before: Settings = {"env.num_envs": 1}
    if spec.algorithm != "Random":
        before["agent.net.init_fn"] = None
    if spec.algorithm in ON_POLICY:
        before["env.normalize_obs"] = False
    if spec.algorithm in ("PPO", "ActorCritic"):
        before["env.normalize_reward"] = False
    if spec.algorithm in (*Q_LEARNING, *ACTOR_CRITIC):
        copies = spec("env.num_envs", 1)
        before["agent.algorithm.training_iter"] = copies if spec.algorithm in ACTOR_CRITIC else 1
        before["agent.algorithm.training_start_step"] = spec("agent.memory.batch_size")
    if "NoFrameskip" in str(spec("env.name")):
        before["env.reward_scale"] = None
    missing = [key for key in before if spec(key, before) is before]
    for key in missing:
        spec.put(key, before[key])
    return missing


def read_spec(path: Path, name: str, values: Mapping[str, str]) -> Spec:
    """Return the spec `name` of a file, with `values` for its variables.

    Raises:
        ConfigError: where there is no such spec, or a variable has no value.
    """
    specs = {key: spec for key, spec in _read(path).items() if not key.startswith("_")}
    if name not in specs:
        there = ", ".join(specs)
        raise ConfigError(str(path), f"there is no spec {name}{near(name, specs)}; got {there}")
    tree = _single(specs[name])
    if "agent" not in tree or "env" not in tree:
        raise ConfigError(f"{path}: {name}", "expected the sections agent, env and meta")
    choices: dict[str, Any] = tree.get("spec_params", {})
    wanted = set(re.findall(r"\$\{(\w+)\}", json.dumps(tree)))
    for variable in sorted(wanted - set(values)):
        example = str(choices[variable][0]) if variable in choices else "..."
        raise ConfigError(name, f"${{{variable}}} needs a value: give it as {variable}={example}")
    for variable in sorted(set(values) - wanted):
        raise ConfigError(variable, f"the spec has no variable ${{{variable}}}")
    return Spec(_filled(tree, values))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            text = re.sub(r",(\s*[}\]])", r"\1", text)  # its own reader takes trailing commas
            found: Any = json.loads(text)
        else:
            found = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(str(path), f"it cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(str(path), f"expected JSON or YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(str(path), "expected specs by their names")
    return cast("dict[str, Any]", found)


def _single(tree: Any) -> dict[str, Any]:
    """Return a spec without the lists of agents and environments that older ones have."""
    sections = dict(cast("dict[str, Any]", tree))
    for holder in (sections, sections.get("search") or {}):
        for name in ("agent", "env"):
            section = holder.get(name)
            if isinstance(section, list):
                several = cast("list[Any]", section)
                if len(several) != 1:
                    raise ConfigError(name, f"expected one, got {len(several)}: none here is more")
                holder[name] = several[0]
    return sections


def _filled(tree: Any, values: Mapping[str, str]) -> Any:
    if isinstance(tree, dict):
        items = cast("dict[str, Any]", tree).items()
        return {key: _filled(item, values) for key, item in items}
    if isinstance(tree, list):
        return [_filled(item, values) for item in cast("list[Any]", tree)]
    if isinstance(tree, str) and "${" in tree:
        return yaml.safe_load(Template(tree).substitute(values))
    return tree
