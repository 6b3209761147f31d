"""An app that ``etui --web`` could run in a tab: it says what it is sent, or misbehaves.

Run as ``python web_app.py BEHAVIOUR``.
"""

from __future__ import annotations

import json
import os
import signal
import sys

FILE = b"a file of the app"


def write(kind: bytes, payload: bytes) -> None:
    data = kind + len(payload).to_bytes(4, "big") + payload
    while data:
        data = data[os.write(1, data) :]


def read_packets() -> None:
    """Answer every packet with a line that shows it."""
    while head := sys.stdin.buffer.read(5):
        payload = sys.stdin.buffer.read(int.from_bytes(head[1:], "big"))
        write(b"D", head[:1] + payload + b"\n")
        if head[:1] == b"M" and json.loads(payload)["type"] == "deliver_chunk_request":
            key = json.loads(payload)["key"].encode()
            for chunk in (FILE, b""):
                parts = (b"s13:deliver_chunk", b"s%d:%s" % (len(key), key))
                write(b"P", b"t%s%d:%se" % (b"".join(parts), len(chunk), chunk))


def main(behaviour: str) -> None:
    if behaviour == "crash":
        sys.stderr.write("x" * 100_000 + "\nit broke \x1b[31m\n")
        sys.exit(3)
    if behaviour in ("stubborn", "busy"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"__GANGLION__\n")
    size = f"{os.environ['COLUMNS']}x{os.environ['ROWS']}"
    write(b"D", f"size {size} pid {os.getpid()} end\n".encode())
    if behaviour == "exit":
        write(b"M", json.dumps({"type": "exit"}).encode())
        return
    if behaviour == "file":
        start = {"type": "deliver_file_start", "key": "0123", "path": "/x/a.svg", "name": None}
        start |= {"open_method": "download", "mime_type": "image/svg+xml", "encoding": ""}
        write(b"M", json.dumps(start).encode())
    if behaviour == "busy":
        while True:
            write(b"D", b"." * 60_000)
    if behaviour == "stubborn":
        while True:
            signal.pause()
    read_packets()


if __name__ == "__main__":
    main(sys.argv[1])
