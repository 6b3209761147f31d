"""Draft with an EAGLE-3 head: a file of its own with one layer, trained for one model.

It reads what enters three layers of the model. An encoder joins them to one state for each token,
and a decoder predicts the next token from the state at p and the token at p + 1, and gives a state
to go on from. So it drafts as heads for multi-token prediction do, one position earlier: at p is
what these have at p + 1. Its cache, too, begins with the answer.

llama.cpp exports the functions that read the input of a layer (``llama-ext.h``), and the bindings
do not name them: they are found by the name that a C++ compiler gives them. No trained head was at
hand when this was written: it is tested with random weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from etui.engine.context import DECODED, Context
from etui.engine.library import Library
from etui.engine.model import Model
from etui.engine.speculation.mtp import LlamaHeads, MtpDrafter, find_extension
from etui.errors import EngineFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARCHITECTURE = "eagle3"
"""``general.architecture`` of such a file."""

_SET_INPUTS = (
    "llama_set_embeddings_layer_inp",
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z",
)
_GET_INPUTS = (
    "llama_get_embeddings_layer_inp",
    "_Z30llama_get_embeddings_layer_inpP13llama_contextj",
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z",
)
_LAYERS = (
    "llama_model_target_layer_ids",
    "_Z28llama_model_target_layer_idsPK11llama_model",
    "?llama_model_target_layer_ids@@YAPEBHPEBUllama_model@@@Z",
)
_COUNT_LAYERS = (
    "llama_model_target_layer_ids_n",
    "_Z30llama_model_target_layer_ids_nPK11llama_model",
    "?llama_model_target_layer_ids_n@@YAIPEBUllama_model@@@Z",
)


class _LayerInputs:
    """What enters some layers of a model, in its last batch."""

    def __init__(self, api: Any, target: Context, layers: Sequence[int], width: int) -> None:
        place = [ctypes.c_void_p, ctypes.c_uint32]
        self._set = _find_function(api, _SET_INPUTS, None, [*place, ctypes.c_bool])
        self._get = _find_function(api, _GET_INPUTS, ctypes.c_void_p, place)
        self._target = target
        self._layers = tuple(layers)
        self._width = width

    def watch(self, on: bool) -> None:
        """Let the model keep them, or no longer."""
        for layer in self._layers:
            self._set(self._target.handle, layer, on)

    def read(self, rows: int) -> NDArray[np.float32]:
        """Return them side by side, a row for each token, copied.

        Raises:
            EngineFailed: llama.cpp kept none.
        """
        import numpy as np

        kind = ctypes.c_float * (rows * self._width)
        parts = []
        for layer in self._layers:
            address = self._get(self._target.handle, layer)
            if not address:
                raise EngineFailed("llama.cpp has no input of a layer for the last batch")
            raw: Any = kind.from_address(address)
            part: NDArray[np.float32] = np.frombuffer(raw, dtype=np.float32)
            parts.append(part.reshape(rows, self._width))
        return np.concatenate(parts, axis=1)


def _list_layers(api: Any, model: Model) -> list[int]:
    """List the layers of the other model that a head reads."""
    handle = [ctypes.c_void_p]
    count = _find_function(api, _COUNT_LAYERS, ctypes.c_uint32, handle)(model.handle)
    layers = _find_function(api, _LAYERS, ctypes.POINTER(ctypes.c_int32), handle)
    return list(layers(model.handle)[:count])


def _find_function(api: Any, names: Sequence[str], result: Any, arguments: list[Any]) -> Any:
    for name in names:
        try:
            found = api._lib[name]  # not the cached attribute, whose types others may set
        except AttributeError:
            continue
        found.argtypes, found.restype = arguments, result
        return found
    raise AttributeError(names[0])


class EagleHeads(LlamaHeads):
    """An EAGLE-3 head over the batches of a model; it owns its weights."""

    def __init__(self, ext: Any, model: Model, inputs: _LayerInputs, context: Context) -> None:
        super().__init__(ext, model, context, context)
        self._model = model
        self._inputs = inputs

    def watch(self, on: bool) -> None:
        """Let the model keep what enters the layers, or no longer."""
        self._inputs.watch(on)

    def model_states(self, rows: int) -> NDArray[np.float32]:
        """Return the joined states of the model's last batch: rows x width of the head.

        Raises:
            EngineFailed: llama.cpp kept none, or the encoder failed.
        """
        import numpy as np

        features = self._inputs.read(rows)
        size = self._context.batch.capacity
        parts = [self._encode(features[at : at + size]) for at in range(0, rows, size)]
        return np.concatenate(parts)

    def _encode(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np

        api, handle = self._context.api, self._context.handle
        # The encoder has no positions, but llama.cpp refuses any but the next one.
        position = int(api.llama_memory_seq_pos_max(api.llama_get_memory(handle), 0)) + 1
        batch = self._context.batch
        batch.clear()
        batch.add(0, [0] * len(features), position, with_logits=True)
        rows = np.ascontiguousarray(features)
        batch.attach_embeddings(rows.ctypes.data)
        struct = batch.struct()
        # The features take the place of the tokens; a copy, for the field itself is a view.
        tokens = ctypes.cast(struct.token, type(struct.token))
        struct.token = None
        code = int(api.llama_encode(handle, struct))
        struct.token = tokens
        if code != DECODED:
            raise EngineFailed(f"llama.cpp failed to encode the states of a model (code {code})")
        return self._copy(self._ext.llama_get_embeddings_nextn(handle), len(features))

    def decode(
        self, tokens: Sequence[int], states: NDArray[np.float32], position: int
    ) -> tuple[int, NDArray[np.float32]] | None:
        """Compute tokens, each at the position of the state before it.

        The result is right for one token: of several, llama.cpp gives the row of the first.
        """
        return super().decode(tokens, states, position - 1)

    def remove(self, position: int) -> None:
        """Remove the tokens from ``position`` on."""
        super().remove(max(0, position - 1))

    def free(self) -> None:
        """Free the context and the weights."""
        super().free()
        self._model.free()


def load_eagle(library: Library, model: Model, target: Model, cache: Context) -> MtpDrafter | str:
    """Open an EAGLE-3 head for a model; return why it cannot be used.

    The head owns ``model`` if it is returned.

    Raises:
        EngineFailed: llama.cpp could not create its context.
    """
    api, ext = library.api, find_extension()
    try:
        layers = _list_layers(api, model)
        width = int(model.metadata("eagle3.target_hidden_size") or 0)
        inputs = _LayerInputs(api, cache, layers, width)
    except AttributeError:
        ext = None
    if ext is None or not hasattr(api.llama_context_params, "ctx_other"):
        return "this build of llama.cpp does not give an EAGLE-3 head the states of another model"
    if width != target.width or not all(0 <= layer < target.layers for layer in layers):
        numbers = ", ".join(map(str, layers))
        return (
            f"it reads layers {numbers} of a model of width {width}, and this one has "
            f"{target.layers} layers of width {target.width}"
        )
    options = replace(cache.options, sequences=1, donors=0, verify_rows=cache.options.batch_tokens)
    context = Context(library, model, options, cache.threads, drafts=True, other=cache)
    return MtpDrafter(EagleHeads(ext, model, inputs, context), method="draft")
