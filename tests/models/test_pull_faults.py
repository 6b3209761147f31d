"""What can go wrong with a hub: no wrong file is used, each fault has its sentence, pulls resume.

The real huggingface_hub asks a hub on this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from etui.errors import DownloadFailed, EtuiError, Stopped
from etui.models import hub as hub_module
from etui.models.download import kept_bytes
from etui.models.files import require
from etui.runtime.user_models import UserModels, open_user_models
from tests.contract.tiny_model import write_split_model
from tests.support.hub import BLOB, HEAD, LIST, Hub, Reply

REPO = "someone/Tiny-GGUF"
FILE = "Tiny-Q4_K_M.gguf"
SPLIT = tuple(f"Tiny-Q8_0-{number:05}-of-00002.gguf" for number in (1, 2))
NAME = "tiny-q4_k_m"
CUT = Reply(cut=100)
NOWHERE = "http://localhost:9/"


@pytest.fixture
def hub(hub_server: Hub, make_gguf: Callable[[int], bytes], tmp_path: Path) -> Hub:
    """A hub with one model in two quantisations, one of them in two files."""
    parts = write_split_model(tmp_path, "Tiny-Q8_0")
    hub_server.repos[REPO] = {FILE: make_gguf(1), "README.md": b"A card."}
    hub_server.repos[REPO] |= {path.name: path.read_bytes() for path in parts}
    return hub_server


def pull(config, text: str = f"hf.co/{REPO}") -> Path:
    """Pull as the command does."""
    models = open_user_models(config)
    return models.add(models.find(text))


def list_used(config) -> list[str]:
    """List what a command would see of a pull: files in their place, and the entries."""
    files = [path.name for path in config.models_dir.glob("*.gguf")]
    return files + ([config.models_file.name] if config.models_file.exists() else [])


@dataclass(frozen=True)
class Fault:
    """A fault, and what is said of it.

    Attributes:
        begin: Makes it.
        says: A part of the sentence.
        helps: A part of what helps.
        text: What is pulled.
        token: A token of the user.
        kept: Bytes that a later pull resumes from.
    """

    begin: Callable[[Hub], object]
    says: str
    helps: str
    text: str = f"hf.co/{REPO}"
    token: str = ""
    kept: int = 0


def answer(part: str, *replies: Reply, times: int = 1) -> Callable[[Hub], None]:
    return lambda hub: hub.answer(part, *replies, times=times)


def refuse(status: int, code: str = "", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named | ({"X-Error-Code": code} if code else {}))


def change(name: str, change: Callable[[bytes], bytes]) -> Callable[[Hub], None]:
    """The store sends other bytes than the hub says."""

    def begin(hub: Hub) -> None:
        data = hub.repos[REPO][name]
        hub.blobs[hashlib.sha256(data).hexdigest()] = change(data)

    return begin


def replace_file(name: str, data: bytes | None) -> Callable[[Hub], None]:
    def begin(hub: Hub) -> None:
        if data is None:
            del hub.repos[REPO][name]
        else:
            hub.repos[REPO][name] = data

    return begin


GATED = refuse(403, "GatedRepo")
FAULTS = {
    "no such repository": Fault(
        lambda _: None, "has no repository no/such, or it is private", "HF_TOKEN", "hf.co/no/such"
    ),
    "private repository": Fault(
        answer(LIST, refuse(401, "RepoNotFound")), "or it is private", "put a token into HF_TOKEN"
    ),
    "gated, without a token": Fault(
        answer(HEAD, GATED), f"{REPO} is gated", "accept its terms at http://127.0.0.1"
    ),
    "gated, with a token": Fault(
        answer(HEAD, GATED), f"{REPO} is gated", "with the account of the token in HF_TOKEN",
        token="hf_x",
    ),
    "token refused": Fault(
        answer(LIST, refuse(401, X_Error_Message="Invalid credentials in Authorization header")),
        "the hub refuses the token in HF_TOKEN", "replace it, or remove it", token="hf_x",
    ),
    "token without rights": Fault(
        answer(HEAD, refuse(403)), f"may not read {REPO}", "that may read it", token="hf_x"
    ),
    "no such revision": Fault(
        answer(LIST, refuse(404, "RevisionNotFound")), "no such revision", "commits",
        f"{REPO}@v9:Q4_K_M",
    ),
    "no GGUF": Fault(
        lambda hub: hub.repos.update({REPO: {"model.safetensors": b"x"}}), "has no .gguf file",
        "GGUF in its name",
    ),
    "only a projector": Fault(
        lambda hub: hub.repos.update({REPO: {"mmproj-F16.gguf": b"x"}}),
        "only files that belong to another model", "GGUF in its name",
    ),
    "no such quantisation": Fault(
        lambda _: None, "has no 'Q4_K_S', did you mean 'Q4_K_M'", "it has: Q4_K_M, Q8_0",
        f"{REPO}:Q4_K_S",
    ),
    "part of a split model not listed": Fault(
        replace_file(SPLIT[1], None), f"lacks 1 of the 2 parts of Q8_0: {SPLIT[1]}", "Q4_K_M",
        f"{REPO}:Q8_0",
    ),
    "part of a split model gone": Fault(
        answer(f"{HEAD}/{REPO}/resolve/main/{SPLIT[1]}", refuse(404, "EntryNotFound")),
        f"there is no {SPLIT[1]} from the hub", "etui models info", f"{REPO}:Q8_0",
    ),
    "part of a split model is another": Fault(
        change(SPLIT[1], lambda data: data[::-1]), "the sha256 of tiny-q8_0-00002-of-00002.gguf is",
        "no source has the file", f"{REPO}:Q8_0", kept=1,
    ),
    "file renamed after the list": Fault(
        answer(HEAD, refuse(404, "EntryNotFound")), f"there is no {FILE} from the hub",
        "it was renamed or removed",
    ),
    "file changed after the list": Fault(
        answer(HEAD, Reply(302, {"Location": f"{NOWHERE}x", "X-Linked-ETag": f'"{"1" * 64}"'})),
        f"its sha256 is {'1' * 64}, but", "no source has the file",
    ),
    "no sha256": Fault(
        answer(HEAD, Reply(200, {"ETag": f'"{"a" * 40}"'})), "gives no sha256", "connection"
    ),
    "other bytes": Fault(
        change(FILE, lambda data: data[:-1] + b"?"), "is expected", "no source has the file"
    ),
    "more bytes": Fault(
        change(FILE, lambda data: data + b"more"), "is larger than", "connection"
    ),
    "fewer bytes": Fault(
        change(FILE, lambda data: data[:-1]), "broke off: the file ended at byte", "kept", kept=1
    ),
    "web page instead of a model": Fault(
        replace_file(FILE, b"<html>Log in"), "it is text, perhaps an error page", "no source",
    ),
    "truncated before it was uploaded": Fault(
        lambda hub: hub.repos[REPO].update({FILE: hub.repos[REPO][FILE][:-3]}), "is truncated",
        "no source",
    ),
    "cut and nothing more": Fault(
        lambda hub: hub.answer(BLOB, CUT, *[Reply(cut=0)] * 10), "broke off", "kept", kept=100
    ),
    "silent": Fault(
        lambda hub: hub.answer(BLOB, *[Reply(cut=0, stall=True)] * 10), "broke off", "kept"
    ),
    "busy for an hour": Fault(
        answer(LIST, refuse(429, Retry_After="3600")), "asks to wait 1 h", "try again after that"
    ),
    "busy for longer than a silent wait": Fault(
        answer(LIST, refuse(429, Retry_After="15"), times=2), "asks to wait", "try again after"
    ),
    "busy until a date": Fault(
        answer(LIST, refuse(429, Retry_After=formatdate(4e9))), "asks to wait", "with a token"
    ),
    "busy in between": Fault(
        answer(BLOB, CUT, refuse(429, Retry_After="3600")), "asks to wait 1 h", "is kept", kept=100
    ),
    "always busy": Fault(
        answer(BLOB, refuse(429, Retry_After="1"), times=20), "how often it is asked", "is kept"
    ),
    "server error": Fault(answer(LIST, refuse(503)), "answers 503", "try again later"),
    "store error": Fault(answer(BLOB, refuse(500), times=9), "broke off", "connection"),
    "refused by the store": Fault(
        answer(BLOB, refuse(403)), f"{REPO} is private", "HF_TOKEN"
    ),
    "redirects without an end": Fault(
        answer(BLOB, Reply(302, {"Location": "/blobs/x"}), times=200), "broke off", "connection"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_sentence_and_the_next_pull_works(config, hub, monkeypatch, name):
    fault, right = FAULTS[name], {**hub.repos[REPO]}
    if name == "silent":
        monkeypatch.setattr(hub_module, "_READ_SECONDS", 0.2)
    if fault.token:
        monkeypatch.setenv("HF_TOKEN", fault.token)
    fault.begin(hub)
    with pytest.raises(EtuiError) as caught:
        pull(config, fault.text)
    assert fault.says in caught.value.what
    assert fault.helps in caught.value.fix
    assert list_used(config) == []
    parts = list((config.models_dir / ".pull").rglob("*.part"))
    kept = sum(part.stat().st_size for part in parts)
    assert kept >= fault.kept if fault.kept else kept == 0
    monkeypatch.setattr(hub_module, "_READ_SECONDS", 30.0)
    hub.heal()
    hub.blobs.clear()
    hub.repos[REPO] = right
    label = "Q8_0" if "Q8_0" in fault.text else "Q4_K_M"
    path = pull(config, f"{REPO}:{label}")
    assert path.read_bytes() == right[SPLIT[0] if label == "Q8_0" else FILE]
    resumed = [ranged for _, ranged, _ in hub.requests(BLOB) if ranged]
    assert bool(resumed) == (fault.kept == 100 or name in ("fewer bytes",))


def test_there_are_thirty_faults_and_more():
    assert len(FAULTS) >= 30


def test_a_short_wait_is_waited_for(config, hub):
    hub.answer(LIST, refuse(429, Retry_After="2"))
    hub.answer(BLOB, CUT, refuse(429, Retry_After="2"))
    assert pull(config).read_bytes() == hub.repos[REPO][FILE]
    assert [ranged for _, ranged, _ in hub.requests(BLOB)] == ["", "bytes=100-", "bytes=100-"]


def test_a_connection_that_breaks_is_resumed_by_byte(config, hub):
    hub.answer(BLOB, CUT, Reply(cut=50))
    assert pull(config).read_bytes() == hub.repos[REPO][FILE]
    assert [ranged for _, ranged, _ in hub.requests(BLOB)] == ["", "bytes=100-", "bytes=150-"]


def test_a_slow_connection_is_resumed_by_byte(config, hub, monkeypatch):
    monkeypatch.setattr(hub_module, "_READ_SECONDS", 1.0)
    hub.answer(BLOB, Reply(cut=100, stall=True))
    assert pull(config).read_bytes() == hub.repos[REPO][FILE]


def test_a_server_that_knows_no_ranges_begins_again(config, hub):
    hub.answer(BLOB, CUT)
    hub.ignores_ranges = True
    assert pull(config).read_bytes() == hub.repos[REPO][FILE]


def test_a_part_behind_the_end_begins_again(config, hub):
    hub.answer(BLOB, CUT, refuse(416))
    assert pull(config).read_bytes() == hub.repos[REPO][FILE]


def test_a_file_that_changed_between_two_pulls_is_not_mixed(config, hub, make_gguf):
    hub.answer(BLOB, CUT, *[Reply(cut=0)] * 10)
    with pytest.raises(DownloadFailed):
        pull(config)
    hub.heal()
    hub.repos[REPO][FILE] = make_gguf(2)
    hub.asked.clear()
    assert pull(config).read_bytes() == make_gguf(2)
    assert [ranged for _, ranged, _ in hub.requests(BLOB)] == [""]


def test_an_interruption_is_resumed(config, hub):
    models = open_user_models(config)
    new = models.find(f"hf.co/{REPO}:Q8_0")

    def stop(progress):
        if progress.step == "verify":
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        models.add(new, stop)
    assert list_used(config) == []
    assert kept_bytes(new.spec, config) == sum(len(hub.repos[REPO][name]) for name in SPLIT)
    hub.asked.clear()
    pull(config, f"{REPO}:Q8_0")
    assert hub.requests(BLOB) == []


def test_no_space_is_said_before_the_first_byte(config, hub, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("etui.models.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadFailed, match="not enough disk space") as caught:
        pull(config, f"{REPO}:Q8_0")
    assert "free some space" in caught.value.fix
    assert hub.requests(BLOB) == []


def test_a_model_whose_parts_belong_to_others_is_refused(config, hub):
    first = hub.repos[REPO][SPLIT[0]]
    hub.repos[REPO][SPLIT[1]] = first
    with pytest.raises(DownloadFailed, match="two of its files are the same"):
        pull(config, f"{REPO}:Q8_0")
    assert list_used(config) == []


def test_a_repository_that_was_renamed_is_followed(config, hub):
    hub.repos["someone/New-GGUF"] = hub.repos.pop(REPO)
    hub.renamed[REPO] = "someone/New-GGUF"
    new = open_user_models(config).find(REPO)
    assert str(new.spec.sources[0]) == f"hf someone/New-GGUF/{FILE}"
    assert pull(config).read_bytes() == hub.repos["someone/New-GGUF"][FILE]


def test_the_hub_is_not_asked_where_the_user_forbids_it(config, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        pull(config)
    assert hub.asked == []


def test_a_hub_that_is_not_there_is_named(config, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1 cannot be reached") as caught:
        pull(config)
    assert "check the connection" in caught.value.fix


def test_a_token_goes_to_the_hub_and_not_to_its_store(config, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull(config).read_bytes() == hub.repos[REPO][FILE]
    assert {key for _, _, key in hub.requests(LIST)} == {"Bearer hf_secret"}
    assert {key for _, _, key in hub.requests(BLOB)} == {""}


def address(hub: Hub, name: str = "files/Mine.gguf") -> str:
    return f"{hub.address}/blobs/{name}".replace("127.0.0.1", "localhost")


@pytest.fixture
def other_host(hub, monkeypatch, make_gguf):
    """A file of a host that is not the hub; its address."""
    hub.blobs["files/Mine.gguf"] = make_gguf(3)
    return address(hub)


def test_an_address_gives_a_hash_that_nobody_publishes(config, hub, other_host, make_gguf):
    models = open_user_models(config)
    new = models.find(other_host)
    assert not new.is_checked
    assert models.add(new).read_bytes() == make_gguf(3)
    digest = hashlib.sha256(make_gguf(3)).hexdigest()
    text = config.models_file.read_text()
    assert f"sha256: {digest} # computed here: none is published" in text
    assert f'- url: "{other_host}"' in text
    assert {key for _, _, key in hub.asked} == {""}


def test_an_address_is_resumed_as_long_as_its_file_is_the_same(config, hub, other_host):
    hub.answer("GET /blobs", Reply(cut=0), CUT)  # the first asks for the size
    assert pull(config, other_host).read_bytes() == hub.blobs["files/Mine.gguf"]
    assert [ranged for _, ranged, _ in hub.requests("/blobs/")] == ["", "", "bytes=100-"]


def test_an_address_whose_file_has_no_version_begins_again(config, hub, other_host):
    data = hub.blobs["files/Mine.gguf"]
    hub.answer("GET /blobs", Reply(body=data), Reply(503), Reply(body=data))
    assert pull(config, other_host).read_bytes() == data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http://example.com/x.gguf", "is not secure"),
        ("ftp://example.com/x.gguf", "no https address"),
        ("https://me:secret@example.com/x.gguf", "holds a password"),
        ("https://huggingface.co/models", "is not the address of a model"),
    ],
)
def test_an_address_that_is_not_pulled(config, hub, text, says):
    with pytest.raises(EtuiError, match=says) as caught:
        pull(config, text)
    assert "secret" not in str(caught.value)
    assert hub.asked == []


def test_a_web_page_is_no_model(config, hub, other_host):
    hub.answer("GET /blobs", Reply(headers={"Content-Type": "text/html"}, body=b"<html>"))
    with pytest.raises(DownloadFailed, match="is a web page, not a file"):
        pull(config, other_host)
    assert list_used(config) == []


def test_an_address_that_leads_to_an_open_connection_is_refused(
    config, hub, other_host, monkeypatch
):
    """As from https to http: of this machine's two names, one counts as open here."""
    monkeypatch.setattr(hub_module, "is_secure", lambda url: "localhost" in url)
    hub.answer(f"GET {urlsplit(other_host).path}", Reply(302, {"Location": f"{hub.address}/x"}))
    hub.answer("GET /x", Reply(body=b"GGUF"))
    with pytest.raises(DownloadFailed, match="/x is not secure"):
        pull(config, other_host)
    assert list_used(config) == []


def test_a_damaged_file_is_pulled_again(config, hub):
    path = pull(config)
    path.write_bytes(path.read_bytes()[:-1])
    assert pull(config, NAME).read_bytes() == hub.repos[REPO][FILE]
    models = open_user_models(config)
    assert require(models.find(NAME).spec, config) == path
    assert isinstance(models, UserModels)
