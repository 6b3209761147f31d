"""Compile a checked policy file: resolve roles, compile patterns, sort rules."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etui.arm import (
    OPEN_SAMPLING,
    VOTE_TEMPERATURE,
    Arm,
    EarlyExit,
    Sampling,
    SamplingFrom,
    SamplingOrigin,
    Speculate,
    VoteStop,
)
from etui.chat import Message, Query
from etui.routing.decision import Agreement, PeriodBudget, TurnBudget
from etui.routing.policy import (
    ArmPlan,
    AuditPlan,
    CascadePlan,
    FallbackPlan,
    Objective,
    Policy,
    PolicyProbe,
    Rule,
    find_settings,
    list_places,
)
from etui.routing.schema.policy_file import CaseEntry, PeriodBudgetEntry, PolicyFile, ProbeEntry
from etui.routing.schema.rules import DEFAULT_CONFIDENCE, ArmEntry, CascadeEntry, RuleEntry, Tree
from etui.routing.schema.signals import MetadataEntry, NearestEntry, SignalEntry
from etui.routing.signals import (
    All,
    AnyOf,
    Bound,
    Condition,
    Holds,
    HostState,
    Keyword,
    Not,
    See,
    Signal,
    Word,
    see_host,
    see_keywords,
    see_language,
    see_measure,
    see_metadata,
    see_metadata_pattern,
    see_nearest,
    see_pattern,
    see_score,
)
from etui.routing.similarity import NeighbourQuery
from etui.routing.text_measures import MEASURES
from etui.yaml.load import Located

if TYPE_CHECKING:
    from etui.models.spec import ModelSpec


def compile_policy(located: Located[PolicyFile], name: str, models: Collection[str] = ()) -> Policy:
    """Compile the policy that a file describes; the file must have passed ``check_policy``.

    Settings of ``models`` apply to arms that do not say; mere names have none.
    """
    file = located.model
    return Policy(
        name=name,
        path=Path(located.file),
        description=file.description,
        arms={
            arm: _compile_arm(arm, entry, file.models, models) for arm, entry in file.arms.items()
        },
        signals={
            signal.name: signal
            for name in order_signals(file.signals)
            for signal in _compile_signal(name, file.signals[name], file.models)
        },
        rules=tuple(
            Rule(
                rule.name,
                rule.priority,
                None if rule.when is None else compile_condition(rule.when),
                _compile_end(rule),
            )
            for rule in sort_rules(file.rules)
        ),
        probes=tuple(
            compile_probe(probe, located.where(("probes", index)).line, located.file)
            for index, probe in enumerate(file.probes)
        ),
        shadow=file.shadow.policy if file.shadow is not None else None,
        **_compile_budgets(file),
        fallbacks=FallbackPlan(**file.fallbacks.model_dump()) if file.fallbacks else FallbackPlan(),
        efforts=dict(file.efforts),
        audit=_compile_audit(file),
    )


def compile_regex(text: str) -> Any:
    """Compile a pattern whose matching can be given a timeout; ValueError with why and where."""
    import regex

    try:
        with warnings.catch_warnings():
            # Silences warnings about syntax that may change its meaning in later versions.
            warnings.simplefilter("ignore")
            return regex.compile(text)
    except regex.error as error:
        raise ValueError(f"invalid regular expression: {error}") from None
    except (OverflowError, RecursionError, MemoryError, ValueError, IndexError, KeyError) as error:
        # The package's parser lets these escape on malformed input.
        raise ValueError(f"invalid regular expression: {error}") from None


def find_literal_prefix(pattern: str) -> str:
    """Return a literal prefix of every match; empty with alternatives, flags and ``(?`` groups."""
    if "|" in pattern or "(?" in pattern:
        return ""
    plain = re.match(r"[A-Za-z0-9 _]*", pattern)
    assert plain is not None
    optional = pattern[plain.end() : plain.end() + 1] in ("?", "*", "{")
    return plain[0][:-1] if optional else plain[0]


def _compile_signal(
    name: str, entry: SignalEntry, roles: Mapping[str, tuple[str, ...]]
) -> tuple[Signal, ...]:
    """Compile one signal of the file; a score with bands yields one signal for each band."""
    parts = tuple((entry.score or {}).items())
    nearest = None if entry.nearest is None else _compile_nearest(entry.nearest)
    see = _compile_see(entry, parts, nearest)
    tests: dict[str, Bound | Word] = {name: _compile_test(entry, roles)}
    if entry.bands is not None:
        bands = entry.bands.items()
        tests = {f"{name}.{band}": _compile_bound(ends.given()) for band, ends in bands}
    return tuple(Signal(each, see, test, parts, nearest) for each, test in tests.items())


def _compile_test(entry: SignalEntry, roles: Mapping[str, tuple[str, ...]]) -> Bound | Word:
    if entry.language is not None:
        return Word(entry.language, frozenset({entry.language}))
    if entry.host == "on_battery":
        return Word("yes", frozenset({"yes"}))
    if entry.metadata is not None:
        return _compile_metadata_test(entry.metadata)
    if entry.equals is not None:
        return Word(entry.equals, frozenset(roles.get(entry.equals, (entry.equals,))))
    given = getattr(entry, entry.kind).given() if entry.kind in MEASURES else entry.given()
    return _compile_bound(given or {"at_least": 1.0}, wraps=entry.host == "hour")


def _compile_metadata_test(entry: MetadataEntry) -> Word:
    if entry.equals is not None:
        return Word(entry.equals, frozenset({entry.equals}))
    if entry.one_of is not None:
        return Word(" or ".join(entry.one_of), frozenset(entry.one_of))
    return Word("yes", frozenset({"yes"}))


def _compile_bound(given: Mapping[str, float], *, wraps: bool = False) -> Bound:
    end = given.get
    return Bound(end("at_least"), end("above"), end("at_most"), end("below"), wraps)


def _compile_nearest(entry: NearestEntry) -> NeighbourQuery:
    was = entry.was if entry.of == "log" else entry.was or "wrong"
    return NeighbourQuery(entry.of, entry.by, was, entry.k)


def _compile_see(
    entry: SignalEntry, parts: tuple[tuple[str, float], ...], nearest: NeighbourQuery | None
) -> See:
    if entry.keywords is not None:
        return see_keywords([_compile_keyword(word) for word in entry.keywords])
    if entry.regex is not None:
        return see_pattern(compile_regex(entry.regex), find_literal_prefix(entry.regex))
    if entry.language is not None:
        return see_language
    if parts:
        return see_score(parts)
    if nearest is not None:
        return see_nearest(nearest)
    if entry.metadata is not None:
        found = entry.metadata
        if found.matches is not None:
            return see_metadata_pattern(found.key, compile_regex(found.matches))
        return see_metadata(found.key, *((lambda *_: ("yes", ""),) if found.exists else ()))
    return see_measure(entry.kind) if entry.host is None else see_host(entry.host)


def _compile_keyword(word: str) -> Keyword:
    folded = " ".join(word.casefold().split())
    before = r"(?<!\w)" if _has_word_edges(folded[0]) else ""
    after = r"(?!\w)" if _has_word_edges(folded[-1]) else ""
    alone: Callable[[str], object] = re.compile(before + re.escape(folded) + after).search
    return Keyword(word, folded, alone)


def _has_word_edges(letter: str) -> bool:
    """Check whether the script of a letter separates words by spaces (Han, kana, Thai do not)."""
    unspaced = "\u0e00" <= letter <= "\u0eff" or "\u2e80" <= letter <= "\ua4cf"
    return (letter.isalnum() or letter == "_") and not unspaced


def compile_probe(entry: ProbeEntry, line: int, file: str) -> PolicyProbe:
    """Compile a probe or a case."""
    host = entry.host.model_dump() if entry.host is not None else {}
    messages = tuple(Message(each.role, each.content) for each in entry.messages or ())
    system = messages[0].content if messages and messages[0].role == "system" else None
    case = entry if isinstance(entry, CaseEntry) else None
    return PolicyProbe(
        query=Query(
            messages[-1].content if entry.query is None else entry.query,
            system,
            messages[0 if system is None else 1 : -1],
            metadata=tuple((entry.metadata or {}).items()),
        ),
        rule=entry.rule,
        not_rule=entry.not_rule,
        arm=entry.arm,
        not_arm=entry.not_arm,
        signals=dict(entry.signals or {}),
        host=HostState(**host),
        file=file,
        line=line,
        is_case=case is not None,
        id=(case.id or "") if case is not None else "",
        tags=case.tags if case is not None else (),
        group=(case.group or "") if case is not None else "",
    )


def sort_rules(rules: tuple[RuleEntry, ...]) -> list[RuleEntry]:
    """Sort rules as they are tried: highest priority first, equal ones in file order."""
    return sorted(rules, key=lambda rule: -rule.priority)


def map_condition_names(signals: Mapping[str, SignalEntry]) -> dict[str, str]:
    """Map each name a condition may use to its signal: ``calc``, or ``hard.very`` for a band."""
    names = {name: name for name, entry in signals.items() if entry.bands is None}
    for name, entry in signals.items():
        names |= {f"{name}.{band}": name for band in entry.bands or ()}
    return names


def order_signals(signals: Mapping[str, SignalEntry]) -> list[str]:
    """Sort the names of signals so that a score follows its parts; leave out circular scores."""
    signal_by_name = map_condition_names(signals)
    missing = {
        name: {signal_by_name.get(part) for part in entry.score or ()}
        for name, entry in signals.items()
    }
    users: dict[str | None, list[str]] = {}
    for name, parts in missing.items():
        for part in parts:
            users.setdefault(part, []).append(name)
    place = {name: index for index, name in enumerate(signals)}
    order: list[str] = []
    ready = [name for name, parts in missing.items() if not parts]
    while ready:
        order += ready
        freed: list[str] = []
        for name in ready:
            for user in users.get(name, ()):
                missing[user].discard(name)
                if not missing[user]:
                    freed.append(user)
        ready = sorted(freed, key=place.__getitem__)
    return order


def _compile_end(rule: RuleEntry) -> str | CascadePlan | Objective:
    if rule.use is not None:
        return rule.use
    if rule.cascade is not None:
        return _compile_cascade(rule.cascade)
    objective = rule.objective
    assert objective is not None
    floor = objective.accuracy
    return Objective(
        goal="joules" if objective.minimize else "accuracy",
        arms=rule.arms or (),
        accuracy_at_least=floor.at_least if floor is not None else None,
        confidence=floor.confidence if floor is not None else DEFAULT_CONFIDENCE,
        joules_at_most=objective.joules.at_most if objective.joules is not None else None,
        seconds_at_most=objective.seconds.at_most if objective.seconds is not None else None,
        exchange=objective.exchange,
        switch_margin_joules=rule.switch_margin_joules or 0.0,
        otherwise=rule.otherwise,
        prior=dict(objective.prior or {}),
    )


def _compile_audit(file: PolicyFile) -> AuditPlan | None:
    audit = file.audit
    if audit == "off":
        return None
    day, reserve = audit.joules.day, audit.joules.reserve
    reserve = day / 2 if reserve is None else reserve
    return AuditPlan(audit.share, audit.arm, day, reserve, audit.when)


def _compile_cascade(cascade: CascadeEntry) -> CascadePlan:
    arms = tuple(arm for _, arm in cascade.places())
    agreements = tuple(
        Agreement(step.agree, cascade.accept_at if step.accept is None else step.accept)
        for step in cascade.arms
        if not isinstance(step, str)
    )
    hops = cascade.max_hops or len(arms)
    return CascadePlan(arms, cascade.accept_at, hops, cascade.max_joules, agreements)


def _compile_budgets(file: PolicyFile) -> dict[str, Any]:
    budgets = file.budgets
    if budgets is None:
        return {}
    turn = budgets.turn
    periods: tuple[tuple[Literal["hour", "day"], PeriodBudgetEntry | None], ...] = (
        ("hour", budgets.hour),
        ("day", budgets.day),
    )
    return {
        "budget": TurnBudget(turn.joules, turn.tokens, turn.seconds) if turn is not None else None,
        "period_budgets": tuple(
            PeriodBudget(period, entry.joules, entry.when_exceeded)
            for period, entry in periods
            if entry is not None
        ),
        "degrade_to": budgets.degrade_to,
    }


def compile_condition(condition: str | Tree) -> Condition:
    """Compile a condition of the file."""
    if isinstance(condition, str):
        return Holds(condition)
    if condition.all is not None:
        return All(tuple(map(compile_condition, condition.all)))
    if condition.any is not None:
        return AnyOf(tuple(map(compile_condition, condition.any)))
    assert condition.negated is not None
    return Not(compile_condition(condition.negated))


def _compile_arm(
    name: str, entry: ArmEntry, roles: Mapping[str, tuple[str, ...]], known: Collection[str]
) -> ArmPlan:
    places = list_places(roles.get(entry.model, (entry.model,)), known)
    models = tuple(place.model for place in places)
    elsewhere = any(place.backend or place.weights != place.model for place in places)
    plain = (
        *("reasoning", "think_tokens", "max_tokens", "style", "readout", "votes", "batch"),
        *("weight", "exchange", "max_joules", "loop_guard"),
    )
    given = {key: value for key in plain if (value := getattr(entry, key)) is not None}
    if entry.stop is not None:
        given["stop"] = VoteStop(**entry.stop.model_dump(exclude_none=True))
    if entry.early_exit is not None:
        given["early_exit"] = EarlyExit(**entry.early_exit.model_dump())
    sampling, origin = _compile_sampling(entry)
    speculate = tuple(_choose_speculation(entry, find_settings(known, model)) for model in models)
    arm = Arm(
        name=name,
        model=models[0],
        sampling=sampling,
        speculate=speculate[0],
        sampling_from=origin,
        **given,
    )
    return ArmPlan(entry.model, models, arm, speculate, places if elsewhere else ())


def _choose_speculation(entry: ArmEntry, settings: ModelSpec | None) -> Speculate:
    if entry.speculate is not None or entry.reasoning == "vote" or settings is None:
        return entry.speculate or "off"
    return settings.speculate or "off"


def _compile_sampling(entry: ArmEntry) -> tuple[Sampling, SamplingFrom]:
    """Return the sampling of an arm and which of its values the model may replace."""
    names = [field.name for field in fields(SamplingFrom)]
    given = {name: value for name in names if (value := getattr(entry, name)) is not None}
    stated: dict[str, SamplingOrigin] = dict.fromkeys(given, "arm")
    if entry.reasoning == "vote" and entry.temperature is None:
        given["temperature"], stated["temperature"] = VOTE_TEMPERATURE, "vote"
    return Sampling(**given, seed=entry.seed), replace(OPEN_SAMPLING, **stated)
