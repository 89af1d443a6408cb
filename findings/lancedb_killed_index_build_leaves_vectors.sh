#!/usr/bin/env bash
# A process that is killed while LanceDB builds a vector index leaves vectors outside of the table's folder.
#
# One would expect that all that LanceDB writes of a table lies in the table's folder, so that who removes rows there, runs
# `optimize` with `delete_unverified`, or removes the whole folder has removed them. But `create_index` writes a copy of the
# vectors, as floats, into the system's folder for temporary files (TMPDIR, else /tmp), and takes it away only at its
# own end. If the process is killed before, it stays there: the files' names say nothing of LanceDB, and no later call on
# the table, nor dropping the table, removes them. For embeddings of people these are personal data that a deletion does
# not reach.
#
# Prints the version, where vectors were found, and what was done afterwards; ends with 1 if that changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check lancedb==0.40.0 numpy==2.4.6 pyarrow==26.0.1
mkdir "$place/tmp"
cat > "$place/build.py" <<'PYTHON'
import sys

import lancedb
from lancedb.index import IvfFlat

lancedb.connect(sys.argv[1]).open_table("people").create_index("embedding", config=IvfFlat(distance_type="dot"))
PYTHON
cat > "$place/main.py" <<'PYTHON'
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa

place = Path(sys.argv[1])
temporary, folder = place / "tmp", place / "table"
vectors = np.random.default_rng(0).normal(size=(200_000, 64)).astype(np.float32)
column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 64)
people = pa.table({"person": [f"p{number}" for number in range(len(vectors))], "embedding": column})
table = lancedb.connect(folder).create_table("people", people)


def files() -> list[Path]:
    """Below the folder for temporary files."""
    return [path for path in temporary.rglob("*") if path.is_file()]


def found() -> tuple[int, int]:
    """How many files there are, and how many of the first 200 vectors stand in them as floats."""
    content = b"".join(path.read_bytes() for path in files())
    return len(files()), sum(vector.tobytes() in content for vector in vectors[:200])


environment = os.environ | {"TMPDIR": str(temporary)}
process = subprocess.Popen([sys.executable, str(place / "build.py"), str(folder)], env=environment)
while process.poll() is None and not any(path.stat().st_size > vectors.nbytes // 2 for path in files()):
    time.sleep(0.002)
process.send_signal(signal.SIGKILL)
process.wait()
print("lancedb", version("lancedb"))
print("after the kill: files in TMPDIR %d, of 200 vectors of people %d stand in them" % found())
before = found()
table = lancedb.connect(folder).open_table("people")
table.delete("true")
table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
lancedb.connect(folder).drop_table("people")
after = found()
print("after deleting all rows, cleaning up and dropping the table: files %d, vectors %d" % after)
sys.exit(0 if before == after and after[1] > 0 else 1)
PYTHON
TMPDIR="$place/tmp" "$place/venv/bin/python" "$place/main.py" "$place"
