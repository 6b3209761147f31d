"""Load the models of a run, and describe the run as this machine measures it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace

from etui.backends.local import LocalBackend
from etui.bench._tokens import single_letters
from etui.bench.arms import to_json
from etui.bench.config import BenchModel, RunConfig
from etui.bench.machines import name_devices, read_gpu_driver
from etui.bench.plan import RunPlan
from etui.bench.scoring import SubjectWork, build_prompts, most_questions
from etui.config.config import Config
from etui.config.machine import machine_name
from etui.energy.recorder import Recorder
from etui.engine.library import describe_llama_cpp
from etui.engine.llama_session import LlamaSession
from etui.engine.residency import finish_load
from etui.models.gguf import check_gguf
from etui.runtime.provenance import provenance
from etui.text import utc_now
from etui.turn.interfaces import ResolvedModel

ServeModel = Callable[[str], "ResolvedModel"]  # Finds the file of a model by its name


def load_models(
    plan: RunPlan, answerer: LocalBackend, serve: ServeModel, say: Callable[[str], None]
) -> tuple[BenchModel, ...]:
    """Load every model of a run once, to check that it loads and to record how."""
    found: list[BenchModel] = []
    for name in plan.models:
        served = serve(name)
        if served.spec.backend is not None and plan.format.generates:
            say(f"asking {served.spec.backend} for {name}")
            found.append(_check_remote(served))
            continue
        say(f"loading {name}")
        session, loaded = finish_load(answerer.load(served.spec, served.local_path()))
        options = session.options
        found.append(
            BenchModel(
                name=name,
                sha256=served.spec.sha256,
                file_bytes=served.local_path().stat().st_size,
                gpu_layers=loaded.gpu_layers if loaded is not None else 0,
                context_tokens=options.context_tokens,
                sequences=options.sequences,
                batch_tokens=options.batch_tokens,
                kv_type=options.kv_type,
                flash_attention=options.flash_attention,
                letters=_classify_letters(plan, session),
                threads=served.spec.threads,
                prefill_threads=served.spec.prefill_threads,
                draft_tokens=served.spec.draft_tokens,
                quantisation=check_gguf(served.local_path()).quantisation,
                adapters=tuple(map(str, served.spec.adapters)) or None,
            )
        )
    return tuple(found)


def _check_remote(served: ResolvedModel) -> BenchModel:
    """Check that a backend serves a model, and describe it by what is known of it here."""
    spec = served.spec
    assert served.backend is not None
    served.backend.check_serves(spec)
    return BenchModel(
        name=spec.name,
        sha256=None,
        file_bytes=0,
        gpu_layers=0,
        context_tokens=spec.context,
        sequences=0,
        batch_tokens=0,
        kv_type="",
        flash_attention="",
        backend=spec.backend,
        remote_name=spec.remote_name or spec.name,
    )


def build_run_config(
    plan: RunPlan,
    run_id: str,
    models: tuple[BenchModel, ...],
    config: Config,
    recorder: Recorder,
    idle: str | None,
    gpus: Sequence[str] = (),
) -> RunConfig:
    """Complete the configuration of a plan with its models and this machine.

    ``idle`` names the idle baseline of the recorder; ``gpus`` are as llama.cpp describes them.
    """
    import psutil

    facts = provenance(config)
    selection, watts = recorder.selection, recorder.idle_watts
    devices = name_devices((*selection.summed, *selection.cross_checks), gpus)
    driver = read_gpu_driver(config.sysfs_dir) if devices else None
    return replace(
        plan.config,
        run_id=run_id,
        started_at=utc_now("seconds"),
        arms={name: to_json(arm) for name, arm in plan.arms.items()},
        models=models,
        group_questions=most_questions(any(model.gpu_layers for model in models)),
        threads=int(facts["threads"]),
        versions={
            "etui": facts["etui"],
            "python": platform.python_version(),
            "llama_cpp_python": facts["llama_cpp_python"],
            "llama_cpp": describe_llama_cpp(config.engines_dir),
            **({} if driver is None else {"gpu_driver": driver}),
        },
        machine={
            "name": machine_name(),
            "memory_bytes": int(psutil.virtual_memory().total),
            **({"devices": list(devices)} if devices else {}),
        },
        energy={
            "channels": {channel.id: channel.kind.value for channel in selection.summed},
            "unmeasured": list(recorder.unmeasured),
            "sample_hz": recorder.hz,
            "devices": {
                channel.id: {"label": channel.label or None, "limit_watts": channel.limit_watts}
                for channel in selection.summed
                if channel.label or channel.limit_watts is not None
            },
            **({} if config.pue == 1.0 else {"pue": config.pue}),
        },
        idle=None if watts is None else {"which": idle, "watts": watts},
    )


def _classify_letters(plan: RunPlan, session: LlamaSession) -> str | None:
    """Return whether the letters after a real prompt are single tokens or token sequences."""
    if plan.format.reads != "letters" or not plan.drawn:
        return None
    found = [(subject, each) for subject, rows in plan.drawn.items() for each in rows]
    subject, question = max(found, key=lambda pair: len(pair[1].choices))  # the first of equals
    work = SubjectWork(subject, (question,), frozenset(), plan.examples[subject])
    prompts = build_prompts(session, plan.format, work).prompts
    return "sequence" if single_letters(prompts) is None else "single"
