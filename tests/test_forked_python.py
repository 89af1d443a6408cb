"""The `python` of the tests: what it runs sees, does and ends as in a fresh process."""

import json
import os
import select
import signal
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the fixture `python` is Python itself here"),
    pytest.mark.timeout(180),  # processes that may wait for each other
]

LOOK = """
import json, os, sys
sys.stderr.write("errors\\n")
modules = [name for name in ("torch", "transformers") if name in sys.modules]
seen = {"arguments": sys.argv, "folder": os.getcwd(), "name": __name__, "input": sys.stdin.read()}
seen |= {"own": os.environ["OWN"], "path": sys.path[:2], "threads": len(os.listdir("/proc/self/task"))}
seen |= {"open": sorted(os.listdir("/proc/self/fd"))}
print(json.dumps([seen, sys.executable, modules]))
sys.exit(7)
"""


def _seen(python, folder, arguments, **environment):
    own = os.environ | {"OWN": "1", "PYTHONPATH": "/somewhere"} | environment
    run = subprocess.run([python, *arguments], cwd=folder, env=own, input="words", capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (7, "errors\n")
    seen, executable, modules = json.loads(run.stdout)
    return seen, executable, modules


@pytest.mark.parametrize("kind", ["code", "module", "script"])
def test_a_program_sees_what_it_sees_in_a_fresh_process(python, tmp_path, kind):
    (tmp_path / "looks.py").write_text(LOOK)
    arguments = {"code": ["-c", LOOK], "module": ["-m", "looks"], "script": ["-u", "./looks.py"]}[kind] + ["a", "-b"]
    seen, executable, modules = _seen(python, tmp_path, arguments)
    assert (executable, modules) == (python, ["torch", "transformers"])
    fresh, executable, modules = _seen(sys.executable, tmp_path, arguments)
    assert (executable, modules) == (sys.executable, [])
    assert seen == fresh


def test_what_libraries_read_at_their_import_makes_a_fresh_process(python, tmp_path):
    for change in ({"HF_HOME": str(tmp_path)}, {"PYTHONHASHSEED": "1"}):
        _, executable, modules = _seen(python, tmp_path, ["-c", LOOK], **change)
        assert (executable, modules) == (sys.executable, [])
    _, executable, _ = _seen(python, tmp_path, ["-W", "ignore", "-c", LOOK])
    assert executable == sys.executable


@pytest.mark.parametrize(
    "code",
    [
        "",
        "raise SystemExit('words')",
        "1 / 0",
        "raise KeyboardInterrupt",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import atexit, threading, time; atexit.register(print, 'end')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
        "import subprocess, sys; raise SystemExit(subprocess.run([sys.executable, '-c', 'exit(5)']).returncode)",
    ],
)
def test_a_program_ends_as_a_fresh_process_does(python, code):
    ends = [subprocess.run([path, "-c", code], capture_output=True, text=True) for path in (python, sys.executable)]
    (first, last), (fresh, last_fresh) = [(run, run.stderr.splitlines()[-1:]) for run in ends]
    assert (first.returncode, first.stdout, last) == (fresh.returncode, fresh.stdout, last_fresh)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_program(python, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    program = os.pidfd_open(int(process.stdout.readline()))
    process.send_signal(number)
    assert process.wait(300) == -number
    assert select.select([program], [], [], 300)[0], "it goes on without its caller"
    os.close(program)
    process.stdout.close()
