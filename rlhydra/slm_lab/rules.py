"""What each key of SLM Lab's spec files is here: the table of docs/from-slm-lab.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rlhydra.slm_lab import convert
from rlhydra.slm_lab.spec import ON_POLICY, NoEqualError, Settings, Spec


class Rule(NamedTuple):
    """What became of a key: in words, and as settings; a text in their place says why none."""

    here: str
    convert: Callable[[Any, Spec], Settings | str]


def to(place: str) -> Rule:
    """Return the rule of a key that only has another place here."""

    def converted(value: Any, _: Spec) -> Settings:
        return {place: value}

    return Rule(f"`{place}`", converted)


def as_is(why: str) -> Rule:
    """Return the rule of a key that needs nothing here."""

    def converted(_value: Any, _spec: Spec) -> str:
        return why

    return Rule(why, converted)


def only(why: str, *values: Any) -> Rule:
    """Return the rule of a key that has an equal for these values alone, and needs nothing then."""

    def converted(value: Any, _: Spec) -> str:
        if value not in values:
            raise NoEqualError(f"{value} does not exist here")
        return why

    return Rule(why, converted)


def scheduled(place: str) -> Rule:
    """Return the rule of a value that may follow the clock; null is 0."""

    def converted(value: Any, _: Spec) -> Settings:
        return {place: 0.0} if value is None else convert.schedule(place, value)

    return Rule(f"`{place}`: a number or `{{start, end, kind, after, until}}`", converted)


def layers(place: str) -> Rule:
    """Return the rule of the widths of a network's layers."""

    def converted(value: Any, _: Spec) -> Settings:
        if any(isinstance(width, list) for width in value):
            raise NoEqualError("bodies and heads of their own do not exist here")
        return {place: value}

    return Rule(f"`{place}`", converted)


def on_atari(place: str) -> Rule:
    """Return the rule of a key that Atari's environments alone have here."""

    def converted(value: Any, spec: Spec) -> Settings:
        if not spec.atari:
            raise NoEqualError("exists here on Atari alone")
        return {place: value}

    return Rule(f"`{place}` on Atari", converted)


def normalised(place: str) -> Rule:
    """Return the rule of a normalisation, which belongs to the agent here."""

    def converted(value: Any, spec: Spec) -> Settings | str:
        if not value and spec.algorithm not in ON_POLICY:
            return "never done here"
        return {place: bool(value)}

    return Rule(f"`{place}`", converted)


RULES: dict[str, Rule] = {
    "agent.name": as_is("a label"),
    "agent.algorithm.name": Rule(
        "`agent`, with `net.type` and `memory.name`", convert.algorithm
    ),
    "agent.algorithm.action_pdtype": only(
        "follows from the actions",
        "default", "Argmax", "Categorical", "Normal", "GumbelSoftmax", "MultivariateNormal",
    ),
    "agent.algorithm.action_policy": only(
        "says what `explore_var_spec` is", "default", "epsilon_greedy", "boltzmann"
    ),
    "agent.algorithm.explore_var_spec": Rule(
        "`agent.epsilon`, or `agent.temperature` where the policy is `boltzmann`",
        convert.exploration,
    ),
    "agent.algorithm.gamma": to("agent.gamma"),
    "agent.algorithm.lam": Rule("`agent.lam`; null: 1", convert.lam),
    "agent.algorithm.num_step_returns": Rule("`agent.horizon`, with `lam` 1", convert.steps),
    "agent.algorithm.clip_eps_spec": scheduled("agent.clip"),
    "agent.algorithm.entropy_coef_spec": scheduled("agent.entropy_coef"),
    "agent.algorithm.val_loss_coef": Rule(
        "`agent.value_coef`, twice as large: the loss is half the squared error", convert.value_coef
    ),
    "agent.algorithm.clip_vloss": Rule("`agent.clip_value`", convert.clipped_value),
    "agent.algorithm.clip_val_loss": Rule("`agent.clip_value`", convert.clipped_value),
    "agent.algorithm.center_return": Rule("`agent.baseline`: mean or null", convert.baseline),
    "agent.algorithm.normalize_v_targets": only("never done here", False),
    "agent.algorithm.time_horizon": to("agent.horizon"),
    "agent.algorithm.minibatch_size": to("agent.minibatch_size"),
    "agent.algorithm.training_epoch": to("agent.epochs"),
    "agent.algorithm.training_frequency": Rule(
        "`agent.horizon`, `agent.episodes`, or `agent.train_frequency`, at least `env.num_envs`",
        convert.frequency,
    ),
    "agent.algorithm.training_iter": Rule(
        "`agent.updates_per_train`, times `training_batch_iter`", convert.updates
    ),
    "agent.algorithm.training_batch_iter": Rule(
        "`agent.updates_per_train`: each with a batch of its own", convert.updates
    ),
    "agent.algorithm.training_start_step": to("agent.learning_starts"),
    "agent.algorithm.policy_delay": to("agent.policy_delay"),
    "agent.memory.name": only(
        "follows from the agent", "OnPolicyReplay", "OnPolicyBatchReplay", "Replay",
        "PrioritizedReplay",
    ),
    "agent.memory.batch_size": to("agent.batch_size"),
    "agent.memory.max_size": to("agent.buffer_size"),
    "agent.memory.alpha": to("agent.prioritised.alpha"),
    "agent.memory.epsilon": to("agent.prioritised.epsilon"),
    "agent.memory.use_cer": only("never done here", False),
    "agent.net.type": Rule(
        "follows from the observations; `Dueling…`: `agent.dueling`", convert.network
    ),
    "agent.net.shared": Rule("`agent.net.shared`", convert.shared),
    "agent.net.hid_layers": layers("agent.net.hidden"),
    "agent.net.fc_hid_layers": layers("agent.net.hidden"),
    "agent.net.conv_hid_layers": Rule("`agent.net.kind`, `agent.net.conv`", convert.convolutions),
    "agent.net.arc": Rule("`agent.net`, where it is one sequence of layers", convert.graph),
    "agent.net.hid_layers_activation": to("agent.net.activation"),
    "agent.net.out_layer_activation": only("none", None),
    "agent.net.init_fn": Rule("`agent.net.init`", convert.init),
    "agent.net.actor_init_std": only("with `init: orthogonal`", 0.01),
    "agent.net.critic_init_std": only("with `init: orthogonal`", 1.0),
    "agent.net.log_std_init": Rule("`agent.initial_std`, its exponential", convert.std),
    "agent.net.normalize": as_is("pixels are always scaled to [0, 1]"),
    "agent.net.layer_norm": to("agent.net.layer_norm"),
    "agent.net.batch_norm": only("never done here", False),
    "agent.net.cell_type": as_is("says which agent: `ppo_lstm`, `ppo_gru`"),
    "agent.net.rnn_hidden_size": to("agent.core_size"),
    "agent.net.rnn_num_layers": only("always one", 1),
    "agent.net.bidirectional": only("never", False),
    "agent.net.clip_grad_val": to("agent.max_grad_norm"),
    "agent.net.loss_spec": Rule(
        "`agent.loss` of `dqn`; else always the squared error", convert.loss
    ),
    "agent.net.optim_spec": Rule("`agent.optimizer`, `agent.lr`", convert.optimizer),
    "agent.net.actor_optim_spec": Rule("`agent.optimizer`, `agent.lr`", convert.optimizer),
    "agent.net.critic_optim_spec": Rule("the same optimizer", convert.second_optimizer),
    "agent.net.use_same_optim": as_is("always"),
    "agent.net.lr_scheduler_spec": as_is("`agent.lr: {start, end, until}`"),
    "agent.net.update_type": Rule("`agent.tau`: 1 for `replace`", convert.target_update),
    "agent.net.update_frequency": Rule(
        "`agent.target_update_frequency`, at least `env.num_envs`", convert.target_frequency
    ),
    "agent.net.polyak_coef": Rule("`agent.tau`: the share that is taken", convert.polyak),
    "agent.net.gpu": Rule("`meta.num_gpus`: 0 where it is false", convert.gpu),
    "agent.critic_net": Rule("`agent.critic_hidden`, `agent.renorm_…` of CrossQ", convert.critic),
    "env.name": Rule("`env`, or `env=gym env.id=…`", convert.environment),
    "env.num_envs": to("env.num_envs"),
    "env.max_t": to("env.max_t"),
    "env.max_frame": to("env.max_frame"),
    "env.reward_scale": Rule("`env.reward_scale`; on Atari `env.reward`", convert.reward),
    "env.frame_op": only("frames are stacked on Atari", None, "concat", "stack"),
    "env.frame_op_len": on_atari("env.frame_stack"),
    "env.scale_obs": as_is("pixels are always scaled to [0, 1]"),
    "env.image_downsize": only("always so on Atari", [84, 84]),
    "env.life_loss_info": Rule("`env.full_game`, its opposite", convert.lives),
    "env.repeat_action_probability": on_atari("env.sticky"),
    "env.full_action_space": on_atari("env.full_actions"),
    "env.normalize_obs": normalised("agent.normalise_obs"),
    "env.normalize_reward": normalised("agent.normalise_reward"),
    **{
        f"meta.{name}": to(f"meta.{name}")
        for name in (
            "max_session", "max_trial", "log_frequency", "eval_frequency", "rigorous_eval",
            "distributed", "num_cpus", "num_gpus", "search_resources", "search_scheduler",
        )
    },
    "meta.random_seed": to("seed"),
    "meta.search": as_is("the command line says it"),
    "body.product": only("one agent in one environment", "outer", "inner"),
    "body.num": only("one agent in one environment", 1),
    "spec_params": as_is("what its variables may be"),
    "name": as_is("a label"),
}  # fmt: skip
