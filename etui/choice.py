"""From what a front end was asked for to a decision: by policy, by arm, or spelled out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from etui.arm import VOTE_TEMPERATURE, Arm, Reasoning, StopRuleName, Style
from etui.errors import ModelUnavailable, UsageError
from etui.query import Query
from etui.routing.decision import Decision

if TYPE_CHECKING:
    from etui.config import Config
    from etui.models import Catalogue, ModelSpec
    from etui.routing.host import HostState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user named; None leaves it to the policy, or to the arm's default.

    ``model`` spells an arm out and asks no policy; ``arm`` takes an arm of the policy without
    asking its rules; the rest changes the arm that was found.
    """

    model: str | None = None
    policy: str | None = None
    arm: str | None = None
    reasoning: Reasoning | None = None
    think_tokens: int | None = None
    votes: int | None = None
    stop: StopRuleName | None = None
    style: Style | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


def choose(
    query: Query,
    wish: Wish,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None = None,
) -> Decision:
    """The arm for a query.

    Args:
        read_host: Reads the state of the machine; only asked when a policy decides.

    Raises:
        UsageError: A name that does not exist, or wishes that exclude each other.
        InvalidFile: The policy cannot be used.
        ModelUnavailable: No model that may answer is on this machine.
    """
    if wish.model and (wish.policy or wish.arm):
        raise UsageError(
            "--model spells the arm out, and --policy or --arm would choose another",
            "give one or the other",
        )
    model = wish.model or (config.model if not (wish.policy or wish.arm) else None)
    if model:
        model = shelf_name(model, config, catalogue)
        catalogue.get(model)  # a name that does not exist is said before anything is spent
        named = "--model" if wish.model else "`model` in config.yaml"
        arm = Arm(wish.reasoning or "direct", model)
        return _changed(Decision(arm, None, None, f"{named} {model}"), wish)
    return _changed(_by_policy(query, wish, config, catalogue, read_host), wish)


def shelf_name(model: str, config: Config, catalogue: Catalogue) -> str:
    """The name of an entry, where the path of its own file was given; else what was given."""
    from etui.models import model_path

    stem = Path(model).stem
    if model.endswith(".gguf") and stem in catalogue:
        place = model_path(catalogue.models[stem], config)
        given = Path(model).expanduser()
        if place.is_file() and given.is_file() and place.samefile(given):
            return stem
    return model


def serving(decision: Decision, config: Config, catalogue: Catalogue) -> tuple[ModelSpec, Path]:
    """The model of a decision with the hash its file was checked against, and the file.

    Raises:
        ModelUnavailable: Not on disk, damaged, or another file than it should be.
    """
    from etui.models import recorded_sha256, require

    spec = catalogue.get(decision.arm.model)
    path = require(spec, config)
    return replace(spec, sha256=spec.sha256 or recorded_sha256(spec, config)), path


def on_this_machine(config: Config, catalogue: Catalogue) -> Callable[[str], bool]:
    """A test whether a model of this name has a file here."""
    from etui.models import model_path

    def here(name: str) -> bool:
        return name in catalogue and model_path(catalogue.get(name), config).is_file()

    return here


def _by_policy(
    query: Query,
    wish: Wish,
    config: Config,
    catalogue: Catalogue,
    read_host: Callable[[], HostState] | None,
) -> Decision:
    from etui.models import STARTER
    from etui.routing.decide import decide, decide_arm
    from etui.routing.policies import load_policy
    from etui.routing.shadow import with_shadow

    policy = load_policy(wish.policy or config.policy, config, catalogue.models)
    here = on_this_machine(config, catalogue)
    if not any(here(spec.name) for spec in catalogue):
        raise ModelUnavailable(
            f"there is no model on this machine yet: {config.models_dir} holds none",
            f"run: etui models pull {STARTER}",
        )
    if wish.arm:
        return decide_arm(policy, wish.arm, available=here)
    host = read_host() if read_host is not None else None
    decision = decide(query, policy, available=here, host=host)
    return with_shadow(decision, policy, query, config, catalogue.models, available=here, host=host)


def _changed(decision: Decision, wish: Wish) -> Decision:
    """The decision with the arm changed as the command line says."""
    arm = decision.arm
    reasoning = wish.reasoning or arm.reasoning
    temperature = _or(wish.temperature, arm.sampling.temperature)
    if reasoning == "vote" and temperature == 0 and wish.temperature is None:
        temperature = VOTE_TEMPERATURE
    changed = replace(
        arm,
        reasoning=reasoning,
        think_tokens=_or(wish.think_tokens, arm.think_tokens),
        votes=_or(wish.votes, arm.votes),
        stop=replace(arm.stop, rule=wish.stop or arm.stop.rule),
        style=wish.style or arm.style,
        max_tokens=_or(wish.max_tokens, arm.max_tokens),
        sampling=replace(
            arm.sampling, temperature=temperature, seed=_or(wish.seed, arm.sampling.seed)
        ),
    )
    _check_effect(changed, wish)
    return replace(decision, arm=changed)


def _check_effect(arm: Arm, wish: Wish) -> None:
    """Refuse wishes that would change nothing.

    Raises:
        UsageError: Says which, and what to do instead.
    """
    if arm.reasoning == "direct" and _or(wish.think_tokens, 0):
        raise UsageError(
            "--think-tokens has no effect on a direct answer",
            "add --reasoning cot, or leave it out",
        )
    if arm.reasoning != "vote" and (wish.votes is not None or wish.stop is not None):
        option = "--votes" if wish.votes is not None else "--stop"
        raise UsageError(
            f"{option} has no effect on a single answer ({arm.reasoning})",
            "add --reasoning vote, or leave it out",
        )
    if arm.reasoning == "vote" and arm.votes > 1 and arm.sampling.temperature == 0:
        raise UsageError(
            "votes drawn with --temperature 0 are all the same",
            f"raise it (without it votes are drawn with {VOTE_TEMPERATURE}), or use --votes 1",
        )


def _or(wished: T | None, otherwise: T) -> T:
    return otherwise if wished is None else wished
