#!/usr/bin/env bash
# The first `import transformers` in two threads at a time leaves one of them with a module that has no models.
#
# One would expect what Python promises of imports: they are safe in threads, and whoever comes second waits until the module is
# whole. But the package puts a lazy module into its own place in `sys.modules` at the end of its own import. A thread that
# came second has waited for the plain module that stood there before, and gets that one: `transformers.AutoModel` is an
# AttributeError in this thread, for as long as it holds the module, while the others go on. Services that load a model in each of
# several worker threads meet it at their start, now and then. An import in the main thread, before the others, is safe.
#
# Prints the version and how often it was so in 30 processes; ends with 1 if it was so in none, or also after an import in the
# main thread.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cat > "$place/threads.py" <<'PYTHON'
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

if sys.argv[1] == "first in the main thread":
    import transformers
start = Barrier(4)


def use(name: str) -> bool:
    start.wait()
    import transformers

    return hasattr(transformers, name)


with ThreadPoolExecutor(4) as pool:
    sys.exit(0 if all(pool.map(use, ["AutoConfig", "AutoTokenizer", "PreTrainedConfig", "AutoConfig"])) else 1)
PYTHON
python="$place/venv/bin/python"
"$python" -c 'from importlib.metadata import version; print("transformers", version("transformers"))'
declare -A lacking=(["first in threads"]=0 ["first in the main thread"]=0)
for where in "first in threads" "first in the main thread"; do
  for _ in $(seq 30); do
    "$python" "$place/threads.py" "$where" 2> /dev/null || lacking[$where]=$((lacking[$where] + 1))
  done
  echo "imported $where: names are missing in ${lacking[$where]} of 30 processes"
done
[ "${lacking["first in threads"]}" -gt 0 ] && [ "${lacking["first in the main thread"]}" -eq 0 ]
