"""The recipes of docs/studies.md, run as they are written.

Those of several machines run in namespaces of their own, where nothing of the network of this
machine is reached, and where `ray stop` sees no process of others.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from etui.bench.folder import read_run
from tests.cluster.ray_fixtures import require_ray

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs" / "studies.md"
NAMESPACES = ("unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc")


def read_recipe(first: str) -> str:
    """Return the block of the page with this line."""
    (found,) = [
        block
        for block in re.findall(r"^```sh\n(.*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE)
        if first in block.splitlines()
    ]
    return found


@pytest.fixture
def home(starter_model):
    """A short folder for all that a recipe writes, with the paths of sockets in it."""
    require_ray()
    with TemporaryDirectory(prefix="et-", dir="/tmp") as folder:
        place = Path(folder)
        (place / "models").mkdir()
        (place / "models" / starter_model.name).symlink_to(starter_model)
        yield place


def run(home: Path, script: str, *around: str, **variables: str) -> str:
    """Run a script of the shell in a folder, and return what it prints."""
    folder = home / "bin"
    folder.mkdir(exist_ok=True)
    etui = folder / "etui"
    etui.write_text(f'#!/bin/sh\nexec {sys.executable} -m etui "$@"\n')
    etui.chmod(0o755)
    environ = {
        "PATH": os.pathsep.join(
            [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "ETUI_HOME": str(home / "etui"),
        "ETUI_MODELS": str(home / "models"),
        "RAY_TMPDIR": str(home),
        **variables,
    }
    with subprocess.Popen(
        [*around, "bash", "-euo", "pipefail", "-c", script],
        cwd=home, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=280)
        finally:
            process.kill()
    (home / "log").write_text(out)
    if keep := os.environ.get("ETUI_RECIPE_LOGS"):
        with (Path(keep) / "recipes.log").open("a") as log:
            log.write(f"$ {script}\n{out}\n")
    assert process.returncode == 0, out
    return out


def require_namespaces():
    """Skip a test where a user may make no namespaces."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("needs `ip` and `unshare`")
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no namespaces")


def check_run(folder: Path, machines: int) -> None:
    """Check that a run is complete, and that each machine gave an answer once."""
    recorded = read_run(folder)
    keys = [sample.key for sample in recorded.samples]
    assert len(keys) == len(set(keys)) == recorded.config.questions
    assert len(recorded.config.machines) == machines


def find_runs(home: Path) -> list[Path]:
    return sorted((home / "etui" / "runs").iterdir(), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
def test_one_machine(home):
    recipe = read_recipe("etui bench --cluster local --suite sample -m smollm2-135m --limit 12")
    out = run(home, recipe)
    one, two = find_runs(home)
    check_run(one, 1)
    check_run(two, 2)
    assert "are on one host: they share its meter" in out


@pytest.mark.slow
def test_two_machines_of_a_network(home):
    require_namespaces()
    recipe = read_recipe("ray start --address=192.168.1.10:6379 --object-store-memory=100000000")
    out = run(home, f"ip link set lo up\nip addr add 192.168.1.10/24 dev lo\n{recipe}", *NAMESPACES)
    (folder,) = find_runs(home)
    check_run(folder, 2)
    assert "Stopped all" in out


SLURM = """
mount -t tmpfs none /run
mkdir /run/netns /run/bin
printf '10.9.0.1 n1\\n10.9.0.2 n2\\n127.0.0.1 localhost\\n' > /run/hosts
mount --bind /run/hosts /etc/hosts
ip netns add n1
ip netns add n2
ip link add v1 type veth peer name v2
for at in 1 2; do
    ip link set v$at netns n$at
    ip -n n$at addr add 10.9.0.$at/24 dev v$at
    ip -n n$at link set v$at up
    ip -n n$at link set lo up
done
printf '#!/bin/sh\\nprintf "n1\\\\nn2\\\\n"\\n' > /run/bin/scontrol
cat > /run/bin/srun <<'END'
#!/bin/bash
nodes=(n1 n2)
while [[ $1 == -* ]]; do
    [[ $1 == -w ]] && { nodes=($2); shift; }
    shift
done
for node in "${nodes[@]}"; do
    ip netns exec $node unshare --uts --pid --fork --mount-proc \\
        sh -c 'hostname $0; exec "$@"' $node env RAY_TMPDIR=$RAY_TMPDIR/$node "$@" &
done
failed=0
for job in $(jobs -p); do wait $job || failed=1; done
exit $failed
END
chmod +x /run/bin/*
mkdir $RAY_TMPDIR/n1 $RAY_TMPDIR/n2
export PATH=/run/bin:$PATH SCRATCH=$HOME
export SLURM_JOB_ID=7 SLURM_JOB_NODELIST='n[1-2]' SLURM_CPUS_ON_NODE=1
"""


@pytest.mark.slow
def test_a_job_of_slurm(home):
    require_namespaces()
    recipe = read_recipe("#SBATCH --nodes=2 --exclusive --tasks-per-node=1 --time=12:00:00")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("ab" * 32)
    out = run(home, f"{SLURM}\n{recipe}", *NAMESPACES)
    check_run(home / "run", 2)
    assert "Ray cluster is ready!" in out
