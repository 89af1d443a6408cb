#!/usr/bin/env bash
# LanceDB's `take_row_ids` and `take_offsets` give rows in the order in which they are stored, and fewer than were asked for.
#
# One would expect of a function that takes a list of rows, as of numpy's and Arrow's `take`, one row for each entry of the
# list, in its order. Here rows come in the order of the table, and a number that no row has is left out without an
# error. Who pairs the result with a ranked list, as a search that scores candidates again does, gives each row
# another one's score. The numbers have to be selected beside the rows, and joined.
#
# Prints the version, what was asked for and what came; ends with 1 if that changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check lancedb==0.40.0 pyarrow==26.0.1
cat > "$place/main.py" <<'PYTHON'
import sys
from importlib.metadata import version

import lancedb
import pyarrow as pa

table = lancedb.connect(sys.argv[1]).create_table("people", pa.table({"rank": list(range(10))}))
numbers = table.search().select(["rank"]).with_row_id(True).to_arrow()["_rowid"].to_pylist()
asked = [7, 2, 5]
by_id = table.take_row_ids([numbers[place] for place in asked]).select(["rank"]).to_arrow()["rank"].to_pylist()
by_offset = table.take_offsets(asked).select(["rank"]).to_arrow()["rank"].to_pylist()
unknown = table.take_row_ids([numbers[7], 999]).select(["rank"]).to_arrow()["rank"].to_pylist()
print("lancedb", version("lancedb"))
print("asked for", asked, "by row id:", by_id, "by offset:", by_offset)
print("asked for row 7 and one that is not there:", unknown)
sys.exit(0 if (by_id, by_offset, unknown) == ([2, 5, 7], [2, 5, 7], [7]) else 1)
PYTHON
"$place/venv/bin/python" "$place/main.py" "$place/table"
