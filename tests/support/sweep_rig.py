"""A simulated machine as the rig of a sweep: noisy visits of settings with known costs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from etui.sweep.blocks import Collapsed, PhaseCost, SettingFailed, Visit
from etui.sweep.config import Goal, Setting, Value

PROMPT_TOKENS = 256

OUTPUT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class TrueCost:
    """True cost of one answer by phase, joules and seconds."""

    prefill_joules: float
    prefill_seconds: float
    decode_joules: float
    decode_seconds: float

    @property
    def joules(self) -> float:
        """Joules of one answer."""
        return self.prefill_joules + self.decode_joules

    @property
    def seconds(self) -> float:
        """Seconds of one answer."""
        return self.prefill_seconds + self.decode_seconds


@dataclass(frozen=True, slots=True)
class SimulatedMachine:
    """A machine with a known truth."""

    kind: str
    costs: Mapping[Setting, TrueCost]  # Each setting and its cost; the baseline first

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings, the baseline first."""
        return tuple(self.costs)

    def cost(self, key: str) -> TrueCost:
        """Return the cost of a setting by its key."""
        return next(cost for setting, cost in self.costs.items() if setting.key == key)

    def figure(self, key: str, goal: Goal) -> float:
        """Return the true figure that a goal minimizes; infinite if the setting is too slow."""
        cost = self.cost(key)
        if goal.within_percent is not None:
            fastest = min(each.seconds for each in self.costs.values())
            if cost.seconds > fastest * (1 + goal.within_percent / 100):
                return math.inf
        match goal.measure:
            case "joules":
                return cost.joules
            case "time":
                return cost.seconds
            case "joules*time":
                return cost.joules * cost.seconds

    def find_best(self, goal: Goal) -> str:
        """Return the key of the true best setting."""
        return min((s.key for s in self.settings), key=lambda key: self.figure(key, goal))


def draw_threads_machine(rng: random.Random) -> SimulatedMachine:
    """Draw a CPU with a memory-bandwidth ceiling: threads x kv_type, 18 to 36 settings."""
    cores = rng.randint(6, 12)
    ceiling = rng.uniform(0.25, 0.8) * cores  # threads that saturate the memory
    sharpness = rng.uniform(3, 6)
    token_s = rng.uniform(0.05, 0.15)  # one thread, decode
    static_w, thread_w = rng.uniform(4, 30), rng.uniform(2, 8)
    contention = rng.uniform(0.0, 0.01)
    kv = {
        "f16": (1.0, 1.0),
        "q8_0": (rng.uniform(0.93, 1.0), rng.uniform(1.0, 1.06)),
        "q4_0": (rng.uniform(0.88, 0.98), rng.uniform(1.02, 1.15)),
    }

    def cost(threads: Value, kind: Value) -> TrueCost:
        n = float(threads)
        bytes_factor, work_factor = kv[str(kind)]
        compute, memory = n / work_factor, ceiling / bytes_factor
        gain = (compute**-sharpness + memory**-sharpness) ** (-1 / sharpness)
        gain /= 1 + contention * n
        decode_s = OUTPUT_TOKENS * token_s / gain
        prefill_s = PROMPT_TOKENS * token_s / 12 * work_factor / n**0.95
        watts = static_w + thread_w * n
        return TrueCost(watts * 1.05 * prefill_s, prefill_s, watts * decode_s, decode_s)

    grid = product(range(1, cores + 1), kv)
    costs = {_setting(threads=n, kv_type=kind): cost(n, kind) for n, kind in grid}
    return _with_baseline("threads", costs, _setting(threads=cores, kv_type="f16"))


def draw_caps_machine(rng: random.Random) -> SimulatedMachine:
    """Draw a GPU with power caps and a knee: power_limit, 16 to 24 settings."""
    highest = rng.choice((180, 230, 300, 350, 450, 575))
    steps = rng.randint(16, 24)
    gpu = _draw_gpu(rng, highest)
    watts = _list_caps(rng, gpu, highest, steps)
    costs = {_setting(power_limit=cap): gpu.run(cap, 1.0, 1.0) for cap in watts}
    return _with_baseline("caps", costs, _setting(power_limit=highest))


def draw_speculation_machine(rng: random.Random) -> SimulatedMachine:
    """Draw a GPU with a draft model: draft_tokens x kv_type, 18 to 34 settings; 0 drafts is off."""
    depths = range(rng.randint(9, 17))
    speculate = _draw_speculation(rng)
    gpu = _draw_gpu(rng, 300)
    kv = {"f16": 1.0, "q8_0": rng.uniform(0.96, 1.04)}
    costs = {}
    for depth, (kind, factor) in product(depths, kv.items()):
        seconds, joules = speculate(depth)
        costs[_setting(draft_tokens=depth, kv_type=kind)] = gpu.run(300, seconds * factor, joules)
    return _with_baseline("speculation", costs, _setting(draft_tokens=0, kv_type="f16"))


def draw_joint_machine(rng: random.Random) -> SimulatedMachine:
    """Draw a GPU with caps and a draft model, 20 to 40 settings: the best cap moves with depth.

    Plain decode waits for memory. Verifying several tokens at once is bound by compute, so that its
    speed depends more on the power.
    """
    highest = rng.choice((180, 230, 300, 350, 450, 575))
    gpu = _draw_gpu(rng, highest)
    speculate = _draw_speculation(rng)
    watts = _list_caps(rng, gpu, highest, rng.randint(5, 8))
    costs = {}
    for cap, depth in product(watts, (0, 1, 2, 4, 8)[: rng.randint(4, 5)]):
        seconds, joules = speculate(depth)
        bound = 1 + 0.12 * depth
        costs[_setting(draft_tokens=depth, power_limit=cap)] = gpu.run(cap, seconds, joules, bound)
    return _with_baseline("joint", costs, _setting(draft_tokens=0, power_limit=highest))


def draw_flat_machine(rng: random.Random) -> SimulatedMachine:
    """Draw a machine on which all settings are equal, 16 to 40 of them."""
    prefill = (rng.uniform(5, 50), rng.uniform(0.2, 2))
    cost = TrueCost(*prefill, rng.uniform(20, 200), rng.uniform(2, 9))
    grid = product(range(1, rng.randint(8, 20) + 1), ("f16", "q8_0"))
    costs = {_setting(threads=n, kv_type=kind): cost for n, kind in grid}
    return _with_baseline("flat", costs, _setting(threads=4, kv_type="f16"))


def draw_contended_machine(rng: random.Random) -> SimulatedMachine:
    """Draw two CPUs of which a process takes one: threads x kv_type x speculate, 8 settings.

    Half of these machines are flat. The threads of the others take 1 to 3 times as long as one; a
    visit in which they take longer counts as a collapse (``SimulatedNoise.collapses``).
    """
    is_flat = rng.random() < 0.5

    def factor(low: float, high: float) -> float:
        return 1.0 if is_flat else math.exp(rng.uniform(math.log(low), math.log(high)))

    watts, seconds = rng.uniform(8, 40), rng.uniform(0.3, 2.0)
    factors = {2: factor(1.0, 3.0), "q8_0": factor(0.9, 1.2), "lookup": factor(0.5, 1.1)}
    costs = {}
    for threads, kv_type, speculate in product((2, 1), ("f16", "q8_0"), ("off", "lookup")):
        taken = seconds * math.prod(factors.get(v, 1.0) for v in (threads, kv_type, speculate))
        setting = _setting(threads=threads, kv_type=kv_type, speculate=speculate)
        costs[setting] = TrueCost(watts * taken / 5, taken / 5, watts * 0.8 * taken, 0.8 * taken)
    return SimulatedMachine("contended", costs)


MACHINES: Mapping[str, Callable[[random.Random], SimulatedMachine]] = {
    "threads": draw_threads_machine,
    "caps": draw_caps_machine,
    "speculation": draw_speculation_machine,
    "joint": draw_joint_machine,
    "flat": draw_flat_machine,
}

"""Kind -> draw of a machine; on ``flat`` every claim is false."""


@dataclass(frozen=True, slots=True)
class _Gpu:
    """A GPU under a power cap.

    Below its demand the speed follows ((cap - static) / (demand - static)) ^ exponent, which has
    the least joules at static / (1 - exponent) watts and explodes towards the static power.

    Attributes:
        decode_w, prefill_w: Demand without a cap.
        decode_s, prefill_s: Seconds of an answer without a cap.
    """

    static_w: float  # Power that computes nothing
    exponent: float  # How much the speed of decode depends on the power; prefill depends more
    decode_w: float
    prefill_w: float
    decode_s: float
    prefill_s: float

    def run(self, cap_w: float, seconds: float, joules: float, bound: float = 1.0) -> TrueCost:
        """Return the cost of an answer."""
        demand = self.decode_w * joules / seconds
        exponent = min(0.8, self.exponent * bound)
        prefill = self._phase(cap_w, self.prefill_w, self.prefill_s, min(0.8, self.exponent * 1.2))
        return TrueCost(*prefill, *self._phase(cap_w, demand, self.decode_s * seconds, exponent))

    def _phase(
        self, cap_w: float, demand_w: float, seconds: float, exponent: float
    ) -> tuple[float, float]:
        watts = min(cap_w, demand_w)
        share = (watts - self.static_w) / (demand_w - self.static_w)
        taken = seconds * share**-exponent
        return watts * taken, taken


def _draw_gpu(rng: random.Random, highest_w: float) -> _Gpu:
    return _Gpu(
        static_w=rng.uniform(0.2, 0.32) * highest_w,
        exponent=rng.uniform(0.3, 0.5),
        decode_w=rng.uniform(0.65, 0.95) * highest_w,
        prefill_w=rng.uniform(0.9, 1.0) * highest_w,
        decode_s=rng.uniform(1.0, 6.0),
        prefill_s=rng.uniform(0.05, 0.4),
    )


def _list_caps(rng: random.Random, gpu: _Gpu, highest_w: float, steps: int) -> list[int]:
    """List caps from just above the static power to the highest."""
    lowest = rng.uniform(1.1, 1.35) * gpu.static_w
    return [round(lowest + (highest_w - lowest) * at / (steps - 1)) for at in range(steps)]


def _draw_speculation(rng: random.Random) -> Callable[[int], tuple[float, float]]:
    """Draw an acceptance: depth -> seconds and joules per token relative to no speculation.

    A round of depth d yields (1 - a^(d+1)) / (1 - a) tokens (Leviathan et al., ICML 2023).
    """
    accepted = rng.uniform(0.45, 0.88)
    draft_s, verify_s = rng.uniform(0.03, 0.15), rng.uniform(0.01, 0.05)
    draft_j, verify_j = draft_s * rng.uniform(0.8, 1.2), verify_s * rng.uniform(1.0, 2.0)

    def speculate(depth: int) -> tuple[float, float]:
        tokens = (1 - accepted ** (depth + 1)) / (1 - accepted)
        return (
            (1 + depth * (draft_s + verify_s)) / tokens,
            (1 + depth * (draft_j + verify_j)) / tokens,
        )

    return speculate


def _setting(**values: Value) -> Setting:
    from etui.sweep.config import AXES

    return Setting(tuple((axis, values[axis]) for axis in AXES if axis in values))


def _with_baseline(
    kind: str, costs: Mapping[Setting, TrueCost], baseline: Setting
) -> SimulatedMachine:
    others: Sequence[Setting] = [setting for setting in costs if setting != baseline]
    return SimulatedMachine(kind, {setting: costs[setting] for setting in (baseline, *others)})


_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SimulatedNoise:
    """What disturbs the visits of a simulated machine.

    Attributes:
        joules, seconds: Standard deviation of the log of a visit's joules at equal seconds, and
            of its seconds; slower visits also cost more.
    """

    joules: float = 0.01
    seconds: float = 0.005
    uneven: float = 0.3
    """Standard deviation of the log of these, by setting: some settings are noisier."""
    warm_up: float = 0.03  # Rise of joules and seconds from the cold machine, as a share
    warm_up_s: float = 240.0  # Time constant of the rise
    wander: float = 0.01  # Standard deviation of a slow random drift
    wander_s: float = 600.0  # Its correlation time
    outliers: float = 0.01  # Probability that a visit is slower by 5 to 40 % without being noticed
    disturbances: float = 0.003  # Probability that a visit is noticed to be disturbed
    quantum: float = 0.1  # Joules of one step of the meter, over a whole visit
    collapses: float = 0.0  # Probability that several threads collapse in a visit
    erratic: float = 0.0  # Standard deviation of the log of several threads that did not


QUIET = SimulatedNoise(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""No noise at all: figures are the truth."""


def draw_noise(rng: random.Random) -> SimulatedNoise:
    """Draw a noise between that of a quiet server and that of a laptop in use."""
    return SimulatedNoise(
        joules=math.exp(rng.uniform(math.log(0.003), math.log(0.02))),
        seconds=math.exp(rng.uniform(math.log(0.002), math.log(0.012))),
        uneven=rng.uniform(0.1, 0.4),
        warm_up=rng.uniform(0.0, 0.06),
        warm_up_s=rng.uniform(100.0, 600.0),
        wander=rng.uniform(0.0, 0.02),
        wander_s=rng.uniform(300.0, 1200.0),
        outliers=rng.uniform(0.0, 0.02),
        disturbances=rng.uniform(0.0, 0.005),
        quantum=rng.choice((0.001, 0.1, 0.5)),
    )


def draw_contention(rng: random.Random) -> SimulatedNoise:
    """Draw the noise beside a busy process, whose own use of the machine wanders."""
    return SimulatedNoise(
        joules=rng.uniform(0.02, 0.2),
        seconds=rng.uniform(0.01, 0.1),
        wander=rng.uniform(0.0, 0.1),
        wander_s=rng.uniform(30.0, 600.0),
        outliers=rng.uniform(0.0, 0.1),
        disturbances=0.0,
        collapses=rng.choice((0.0, 0.1, 0.5, 0.95)),
        erratic=rng.uniform(0.05, 0.5),
    )


@dataclass(slots=True)
class SimulatedRig:
    """Measures a simulated machine on a simulated clock, as a ``MeasureVisit``."""

    machine: SimulatedMachine
    noise: SimulatedNoise = field(default_factory=SimulatedNoise)  # What disturbs the visits
    seed: int = 0
    failing: Mapping[str, str] = field(default_factory=dict)
    """Key of a setting -> why it cannot run."""
    unmeasured: frozenset[str] = frozenset()  # Keys of settings whose joules cannot be measured
    window_s: float = 2.0  # Least seconds of a phase; a shorter one is repeated
    overhead_s: float = 4.0  # Seconds of load, warm-up and cool-down of each visit
    now_s: float = 0.0  # The clock, seconds
    _rng: random.Random = field(init=False, repr=False)
    _wandered: float = field(init=False, default=0.0, repr=False)
    _wandered_at_s: float = field(init=False, default=0.0, repr=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"rig {self.seed}")
        self._wandered = self._rng.gauss(0, self.noise.wander)

    def clock(self) -> float:
        """Return the simulated time, seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        self.now_s += seconds

    def visit(self, setting: Setting, copy: int) -> Visit:
        """Measure a setting; the clock goes on as long as it takes.

        Raises:
            SettingFailed: The setting is one of ``failing``, or its threads collapse.
        """
        if setting.key in self.failing:
            raise SettingFailed(self.failing[setting.key])
        truth, noise, rng = self.machine.costs[setting], self.noise, self._rng
        self.now_s += self.overhead_s
        is_parallel = int(setting.get("threads") or 1) > 1
        if is_parallel and noise.collapses and rng.random() < noise.collapses:
            self.now_s += 3 * truth.seconds
            raise Collapsed("its threads wait for each other")
        start_s = self.now_s
        drift = self._drift()
        uneven = math.exp(noise.uneven * random.Random(f"{self.seed} {setting.key}").gauss(0, 1))
        slower = drift + rng.gauss(0, noise.seconds * uneven)
        costlier = slower + drift + rng.gauss(0, noise.joules * uneven)
        if is_parallel and noise.erratic:
            slower += (erratic := rng.gauss(0, noise.erratic))
            costlier += erratic
        if rng.random() < noise.outliers:
            outlier = math.log1p(rng.uniform(0.05, 0.4))
            slower, costlier = slower + outlier, costlier + outlier
        disturbed = rng.random() < noise.disturbances
        phases = []
        for tokens, joules, seconds in (
            (PROMPT_TOKENS, truth.prefill_joules, truth.prefill_seconds),
            (OUTPUT_TOKENS, truth.decode_joules, truth.decode_seconds),
        ):
            taken = seconds * math.exp(slower)
            repeats = max(1, math.ceil(self.window_s / taken))
            self.now_s += repeats * taken
            phases.append(self._phase(tokens, joules * math.exp(costlier), taken, repeats))
        prefill, decode = phases
        if setting.key in self.unmeasured:
            prefill, decode = (
                PhaseCost(phase.tokens, None, None, phase.seconds) for phase in phases
            )
        return Visit(
            setting.key,
            copy,
            answers=max(1, math.ceil(self.window_s / truth.decode_seconds)),
            prefill=prefill,
            decode=decode,
            start_ns=round(start_s * _NS),
            end_ns=round(self.now_s * _NS),
            kind=None if setting.key in self.unmeasured else "counter",
            disturbed="another program used the CPU" if disturbed else "",
        )

    def _phase(self, tokens: int, joules: float, seconds: float, repeats: int) -> PhaseCost:
        quantum = self.noise.quantum
        if quantum:
            # The counter is somewhere within a step when the phase begins.
            begin = self._rng.random()
            steps = math.floor(begin + joules * repeats / quantum)
            joules = steps * quantum / repeats
        return PhaseCost(float(tokens), joules, quantum / repeats, seconds)

    def _drift(self) -> float:
        """Return the log of how much slower the machine is now than when cold."""
        noise = self.noise
        passed = self.now_s - self._wandered_at_s
        kept = math.exp(-passed / noise.wander_s)
        self._wandered = self._wandered * kept + self._rng.gauss(
            0, noise.wander * math.sqrt(1 - kept * kept)
        )
        self._wandered_at_s = self.now_s
        warm = noise.warm_up * (1 - math.exp(-self.now_s / noise.warm_up_s))
        return (warm + self._wandered) / 2
