"""Read the saved prompts, one YAML file each: the shipped ones, and ``prompts/`` of ETUI_HOME."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etui.atomic import write_text
from etui.config.config import Config, shipped_dir
from etui.errors import InvalidFile, Problem, UsageError, writing
from etui.text import did_you_mean

MOST_PATHS = 50
_MOST_SEEN = 5_000


def complete_path(fragment: str, folder: Path | None = None) -> tuple[str, ...]:
    """List the paths that a typed path may become, folders with a slash at their end.

    Names that begin with what was typed come before those that contain it, folders before files.
    Hidden names need a dot. A folder that cannot be read has none.

    Args:
        fragment: What was typed, as it was written; ``~`` is the home folder.
    """
    at = max(fragment.rfind("/"), fragment.rfind(os.sep)) + 1
    parent, typed = fragment[:at], fragment[at:].casefold()
    found: list[tuple[bool, bool, str]] = []
    try:
        place = (folder or Path()) / Path(parent).expanduser()
        with os.scandir(place) as entries:
            for seen, entry in enumerate(entries):
                if seen >= _MOST_SEEN:
                    break
                name = entry.name.casefold()
                if typed not in name or name.startswith(".") != typed.startswith("."):
                    continue
                if "\n" in entry.name or '"' in entry.name:
                    continue  # it could not be written
                is_folder = entry.is_dir()
                shown = f"{parent}{entry.name}{'/' if is_folder else ''}"
                found.append((not name.startswith(typed), not is_folder, shown))
    except (OSError, ValueError, RuntimeError):
        return ()
    return tuple(shown for _, _, shown in sorted(found)[:MOST_PATHS])


_VARIABLE = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*\}\}")
_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def find_variables(text: str) -> tuple[str, ...]:
    """Find the variables of a text, each once, in the order in which they appear."""
    return tuple(dict.fromkeys(_VARIABLE.findall(text)))


def find_bad_variables(text: str) -> tuple[str, ...]:
    """Find texts in double braces that are no name of a variable."""
    return tuple(b[1].strip() for b in _BRACES.finditer(text) if not _VARIABLE.fullmatch(b[0]))


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace each variable by its value, once: a value with braces stays as it is."""
    return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), text)


_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class SavedPrompt:
    """A question to use again."""

    name: str  # Its name, without the slash
    text: str  # The question, with its variables
    system: str | None  # System prompt of the turn; None leaves that of the chat
    arm: str | None  # Name of the arm of the policy that answers; None leaves it to the rules
    path: Path

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the variables of the text and of the system prompt, in their order."""
        return find_variables(f"{self.text}\n{self.system or ''}")

    def filled(self, values: Mapping[str, str]) -> SavedPrompt:
        """Return the prompt with its variables replaced.

        Raises:
            UsageError: A variable has no value, or a value no variable.
        """
        known = self.variables
        for name in values:
            if name not in known:
                raise UsageError(
                    f"prompt {self.name!r} has no variable {name!r}{did_you_mean(name, known)}",
                    "remove it" if known else "it has none: leave out --set",
                )
        if missing := [name for name in known if name not in values]:
            raise UsageError(
                f"prompt {self.name!r} needs a value for {', '.join(missing)}",
                "pass " + " ".join(f"--set {name}=…" for name in missing),
            )
        system = None if self.system is None else fill(self.system, values)
        return SavedPrompt(self.name, fill(self.text, values), system, self.arm, self.path)


@dataclass(frozen=True, slots=True)
class PromptLibrary:
    """The saved prompts."""

    prompts: Mapping[str, SavedPrompt]  # Those that can be used, by name, sorted
    problems: tuple[Problem, ...] = ()  # What is wrong with the other files


def prompts_dir(config: Config) -> Path:
    """Return the folder of the user's prompts."""
    return config.home / "prompts"


def load_prompts(config: Config) -> PromptLibrary:
    """Read every saved prompt; a file that cannot be used is named in ``problems``.

    Those of the user replace shipped ones of the same name.
    """
    prompts: dict[str, SavedPrompt] = {}
    problems: list[Problem] = []
    for path in _list_files(prompts_dir(config)):
        try:
            prompt = load_prompt(path)
        except InvalidFile as error:
            problems += error.problems
            continue
        if (other := prompts.get(prompt.name)) is not None:
            message = f"name: {prompt.name!r} is the name of {other.path.name} already, rename one"
            problems.append(Problem(str(path), 1, 1, message))
        else:
            prompts[prompt.name] = prompt
    for path in _list_files(shipped_dir() / "prompts"):
        if path.stem not in prompts:
            prompts[path.stem] = load_prompt(path)
    return PromptLibrary(dict(sorted(prompts.items())), tuple(problems))


def save_prompt(config: Config, name: str, text: str) -> Path:
    """Write a prompt of the user, so that ``load_prompt`` reads the same text from it.

    Raises:
        UsageError: The name cannot be one or is that of another prompt of the user, or the text has
            double braces that are no variable.
        EtuiError: The file cannot be written.
    """
    from etui.prompts.schema import NAME_PATTERN
    from etui.yaml.edit import format_text

    path = prompts_dir(config) / f"{name}.yaml"
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"{name!r} is no name for a prompt", "use letters, digits, - and _")
    if path.exists():
        raise UsageError(
            f"there is a prompt {name!r} already", f"choose another name, or edit {path}"
        )
    if bad := find_bad_variables(text):
        fix = "use letters, digits and _ in double braces, or take them out"
        raise UsageError(f"{{{{{bad[0]}}}}} is no variable of a prompt", fix)
    text = text.strip().encode(errors="replace").decode()
    with writing(path, "make its folder writable"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, f"text: {format_text(text)}\n", private=True)
    return path


def load_prompt(path: Path) -> SavedPrompt:
    """Read one saved prompt.

    Raises:
        InvalidFile: The file cannot be read, or is no prompt; ``problems`` name line and column.
    """
    from etui.prompts.schema import NAME_PATTERN, PromptEntry
    from etui.yaml.load import load_yaml

    located = load_yaml(path, PromptEntry)
    entry = located.model
    problems = [
        located.problem((key,), f"{{{{{bad}}}}} is no variable: use letters, digits and _")
        for key, text in (("text", entry.text), ("system", entry.system or ""))
        for bad in find_bad_variables(text)
    ]
    name = entry.name or path.stem
    if not entry.text.strip():
        problems.append(located.problem(("text",), "text: is empty, write the question here"))
    if not re.fullmatch(NAME_PATTERN, name):
        message = f"{name!r} is no name for a prompt: add `name:` with letters, digits, - or _"
        problems.append(Problem(str(path), 1, 1, message))
    if problems:
        raise InvalidFile.of(problems, f"fix {path}")
    return SavedPrompt(name, entry.text.strip(), entry.system, entry.arm, path)


def find_prompt(name: str, config: Config) -> SavedPrompt:
    """Find a saved prompt by its name; a name that ends in ``.yaml`` is a path.

    Raises:
        UsageError: There is no prompt of that name.
        InvalidFile: Its file, or every file that might be it, cannot be used.
    """
    if name.endswith(_ENDINGS):
        return load_prompt(Path(name).expanduser())
    library = load_prompts(config)
    if name in library.prompts:
        return library.prompts[name]
    folder = prompts_dir(config)
    own = [p for p in library.problems if Path(p.file).stem == name]
    if own:
        raise InvalidFile.of(own, f"fix {own[0].file}")
    hint = did_you_mean(name, library.prompts)
    broken = "".join(f"; broken: {problem}" for problem in library.problems)
    raise UsageError(
        f"there is no prompt {name!r}{hint}{broken}",
        f"put a file {name}.yaml with `text: …` into {folder}",
    )


def _list_files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.suffix in _ENDINGS and p.is_file())
    except OSError:  # without the folder there are no prompts
        return []
