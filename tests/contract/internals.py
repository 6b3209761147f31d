"""The one place of these tests that names modules of etui; a move of a module is followed here."""

from __future__ import annotations

from etui.arm import Arm, EarlyExit, TokenCost
from etui.backends.base import AnswerRequest
from etui.backends.wire import (
    Ask,
    Cancel,
    Done,
    EngineEvent,
    Failed,
    Heartbeat,
    Hello,
    Hurry,
    KeepWarm,
    Load,
    Unload,
    decode,
    encode,
)
from etui.chat import Message, Picture
from etui.cli.main import cli, run
from etui.config.config import Config
from etui.config.schema import Settings
from etui.errors import CacheFull, ContextOverflow, EngineFailed, ExitCode, InvalidRequest
from etui.events import (
    Answer,
    Batch,
    Embedded,
    Event,
    Finished,
    Loaded,
    PictureEncoded,
    Prefilled,
    Prefilling,
    Probe,
    PromptTokens,
    Reused,
    Thought,
    ThreadsChanged,
    TokenLogprob,
    ToolCall,
    Unloaded,
    Verified,
    Vote,
)
from etui.models.schema import ModelsFile
from etui.models.spec import Adapter, HubSource, ModelSpec, PathSource, WheelPart, WheelsSource
from etui.sweep.document import build_document
from etui.sweep.folder import SweepFolder, read_sweep
from etui.sweep.run import analyse_folder
from etui.tui.help import list_key_names

__all__ = [
    "Adapter",
    "Answer",
    "AnswerRequest",
    "Arm",
    "Ask",
    "Batch",
    "CacheFull",
    "Cancel",
    "Config",
    "ContextOverflow",
    "Done",
    "EarlyExit",
    "Embedded",
    "EngineEvent",
    "EngineFailed",
    "Event",
    "ExitCode",
    "Failed",
    "Finished",
    "Heartbeat",
    "Hello",
    "HubSource",
    "Hurry",
    "InvalidRequest",
    "KeepWarm",
    "Load",
    "Loaded",
    "Message",
    "ModelSpec",
    "ModelsFile",
    "PathSource",
    "Picture",
    "PictureEncoded",
    "Prefilled",
    "Prefilling",
    "Probe",
    "PromptTokens",
    "Reused",
    "Settings",
    "SweepFolder",
    "Thought",
    "ThreadsChanged",
    "TokenCost",
    "TokenLogprob",
    "ToolCall",
    "Unload",
    "Unloaded",
    "Verified",
    "Vote",
    "WheelPart",
    "WheelsSource",
    "analyse_folder",
    "build_document",
    "cli",
    "decode",
    "encode",
    "list_key_names",
    "read_sweep",
    "run",
]
