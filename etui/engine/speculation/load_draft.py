"""Load the draft model of a model into the memory that the model leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etui.engine.context import Context
from etui.engine.library import Library
from etui.engine.model import ALL_LAYERS, Model
from etui.engine.offload import Needs, layers_that_fit, needs
from etui.engine.speculation.draft_model import DraftModel, check_same_vocabulary
from etui.errors import EngineFailed, EtuiError, ModelUnavailable
from etui.models.gguf import check_usable
from etui.units import bytes_text

if TYPE_CHECKING:
    from etui.engine.llama_session import LlamaSession
    from etui.models.spec import ModelSpec


class NoDraft(Exception):
    """Raised if the answer must do without the draft model; its text says why."""


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """The draft model to load.

    Attributes:
        spec, path: Its entry in models.yaml, and its file.
    """

    spec: ModelSpec
    path: Path
    target: str
    kv_type: str

    @property
    def name(self) -> str:
        """Name of the draft model in models.yaml."""
        return self.spec.name


def load_draft(
    request: DraftRequest,
    session: LlamaSession,
    library: Library,
    *,
    on_gpu: bool,
    trial: Callable[[ModelSpec, Path], None] | None = None,
) -> tuple[DraftModel, int]:
    """Load the draft model of a loaded model.

    With layers of the model on a GPU, the draft model goes there as a whole or is not loaded: a
    draft from the CPU takes longer than it saves.

    Args:
        trial: Loads a file that etui does not know in a process of its own first.

    Returns:
        The draft model, and the estimate of its bytes.

    Raises:
        NoDraft: It does not fit, or could not be loaded.
        ModelUnavailable: Its vocabulary differs from the model's.
    """
    options = replace(session.options, sequences=1, donors=0, verify_rows=1)
    try:
        if trial is not None:
            trial(request.spec, request.path)
        gguf = check_usable(request.path)
        need = needs(gguf, options.context_tokens, request.kv_type, options.batch_tokens)
        _check_room(need, request, library, on_gpu=on_gpu)
        model = Model(library, request.path, ALL_LAYERS if on_gpu else 0)
    except ModelUnavailable as error:
        raise NoDraft(f"the draft model {request.name} cannot be used: {error}") from error
    try:
        check_same_vocabulary(session.vocabulary, request.target, model, request.name)
        context = Context(library, model, options)
    except EngineFailed as error:
        model.free()
        raise NoDraft(f"the draft model {request.name} cannot be used: {error}") from error
    except EtuiError:
        model.free()
        raise
    share = model.size_bytes / max(1, session.size_bytes)
    drafter = DraftModel(model, context, session.vocabulary.vocabulary, share)
    return drafter, need.total_bytes


def _check_room(need: Needs, request: DraftRequest, library: Library, *, on_gpu: bool) -> None:
    """Raise NoDraft if the draft model does not fit into the memory that is free now."""
    import psutil

    if on_gpu:
        free = sum(gpu.free_bytes for gpu in library.gpus())
        fits = layers_that_fit(need, free) > need.layers
    else:
        free = psutil.virtual_memory().available
        fits = need.total_bytes <= free
    if not fits:
        raise NoDraft(
            f"the draft model {request.name} does not fit into memory with {request.target}: it "
            f"needs {bytes_text(need.total_bytes)}, and {bytes_text(free)} are free"
        )
