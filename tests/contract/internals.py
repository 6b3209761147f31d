"""The one place of these tests that names modules of etui; a move of a module is followed here."""

from __future__ import annotations

from etui.arm import Arm, DecodePrice, EarlyExit
from etui.cli.main import cli, run
from etui.config import Config
from etui.engine.events import (
    Answer,
    Batch,
    Event,
    Finished,
    Loaded,
    Prefilled,
    Prefilling,
    Probe,
    Thought,
    Unloaded,
    Vote,
)
from etui.engine.wire import (
    Ask,
    Cancel,
    Done,
    Failed,
    Heartbeat,
    Hello,
    Hurry,
    Load,
    Told,
    Unload,
    decode,
    encode,
)
from etui.errors import CacheFull, ContextOverflow, EngineFailed, ExitCode
from etui.model_schema import ModelsFile
from etui.model_spec import HubSource, ModelSpec, PathSource, WheelPart, WheelsSource
from etui.query import Message
from etui.request import AnswerRequest
from etui.settings import Settings
from etui.tui.keys import key_names

__all__ = [
    "Answer",
    "AnswerRequest",
    "Arm",
    "Ask",
    "Batch",
    "CacheFull",
    "Cancel",
    "Config",
    "ContextOverflow",
    "DecodePrice",
    "Done",
    "EarlyExit",
    "EngineFailed",
    "Event",
    "ExitCode",
    "Failed",
    "Finished",
    "Heartbeat",
    "Hello",
    "HubSource",
    "Hurry",
    "Load",
    "Loaded",
    "Message",
    "ModelSpec",
    "ModelsFile",
    "PathSource",
    "Prefilled",
    "Prefilling",
    "Probe",
    "Settings",
    "Thought",
    "Told",
    "Unload",
    "Unloaded",
    "Vote",
    "WheelPart",
    "WheelsSource",
    "cli",
    "decode",
    "encode",
    "key_names",
    "run",
]
