"""The schema of a saved prompt, ``prompts/NAME.yaml`` in ETUI_HOME."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from etui.yaml.load import Strict

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
PromptName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=60)]


class PromptEntry(Strict):
    """The keys of a saved prompt; only ``text`` is needed."""

    name: PromptName | None = Field(
        None, description="Its name after the slash; default: the name of the file."
    )
    text: str = Field(
        min_length=1, description="The question; {{name}} is a variable, asked for when it is used."
    )
    system: str | None = Field(
        None, min_length=1, description="System prompt of the turn; default: that of the chat."
    )
    arm: str | None = Field(
        None, min_length=1, description="Arm of the policy that answers; default: its rules."
    )
