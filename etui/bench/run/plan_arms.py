"""The arms and the policy of a plan, chosen from a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.bench.prompts.formats import Format
from etui.bench.run.arms import build_arms, choose_policy_arms, list_policy_arms, speculate_arms
from etui.bench.run.run_request import RunRequest
from etui.bench.store.run_config import BenchPolicy
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.catalogue import Catalogue
    from etui.routing.policy import Policy


def list_models(ask: RunRequest, config: Config, catalogue: Catalogue) -> list[str]:
    """Return the names of the requested models, the default one without a request.

    Raises:
        UsageError: A name is unknown.
    """
    from etui.models.spec import STARTER
    from etui.runtime.serving import catalogue_name

    if ask.policy or ask.arms:
        return []
    requested = ask.models or ((config.model or STARTER),)
    names = [catalogue_name(name, config, catalogue) for name in dict.fromkeys(requested)]
    for name in names:
        catalogue.get(name)
    return names


def choose_arms(
    ask: RunRequest, format_: Format, answer_tokens: int, config: Config, catalogue: Catalogue
) -> tuple[dict[str, Arm], Policy | None, BenchPolicy | None]:
    """Choose the arms of a request, those of its policy included.

    Args:
        answer_tokens: Most tokens of an answer without thinking, if no option states them.

    Returns:
        Arm -> its settings, the policy that decides for each question (None if every arm answers
        all of them), and the name and text of the policy.

    Raises:
        UsageError: A name does not exist, or options cannot be combined.
        InvalidFile: The policy is invalid.
        ModelUnavailable: No suitable model is on this machine.
    """
    from etui.runtime.serving import choose_speculation, models_on_disk

    if not (ask.policy or ask.arms):
        names = list_models(ask, config, catalogue)
        arms = build_arms(
            names, ask.reasonings, ask.overrides, format_, answer_tokens=answer_tokens
        )
        if format_.generates:
            arms = {
                name: replace(
                    arm, speculate=choose_speculation(catalogue.get(arm.model), arm.reasoning)
                )
                for name, arm in arms.items()
            }
        elif ask.speculates:
            raise UsageError(
                f"--speculate has no effect on format {format_.name}, which decodes nothing",
                "add --reasoning direct or cot, or remove it",
            )
        return set_seed(_speculate(arms, ask, catalogue), ask.seed), None, None
    available = models_on_disk(config, catalogue)
    text = _read_policy(ask.policy or config.policy, config)
    policy = compile_policy(text, catalogue)
    if ask.arms:
        arms = choose_policy_arms(policy, ask.arms, available, ask.overrides)
        return set_seed(_speculate(arms, ask, catalogue), ask.seed), None, text
    return list_policy_arms(policy, available), policy, text


def set_seed(arms: dict[str, Arm], seed: int) -> dict[str, Arm]:
    """Set the seed of the sampling of all arms."""
    return {
        name: replace(arm, sampling=replace(arm.sampling, seed=seed)) for name, arm in arms.items()
    }


def compile_policy(text: BenchPolicy, catalogue: Catalogue) -> Policy:
    """Compile the policy of a run.

    Raises:
        InvalidFile: It is no longer valid.
    """
    from etui.routing.library import compile_text
    from etui.routing.policy import drop_places

    # The joules of unlike machines are not pooled, so a run is of this machine alone.
    return drop_places(compile_text(text.text, text.name, catalogue.models))


def _speculate(arms: Mapping[str, Arm], ask: RunRequest, catalogue: Catalogue) -> dict[str, Arm]:
    """Set the speculation that the options state."""
    from etui.runtime.serving import check_draft_option

    made = speculate_arms(arms, ask.speculates)
    if "draft" in ask.speculates:
        check_draft_option(made.values(), catalogue)
    return made


def _read_policy(name: str, config: Config) -> BenchPolicy:
    from etui.routing.library import find_policy

    place = find_policy(name, config)
    try:
        return BenchPolicy(place.name, place.path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the policy {place.path}: {error}", "use another policy"
        ) from error
