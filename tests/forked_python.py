"""
A `python` for the commands of tests that is ready at once: what it runs is forked from a server that has imported
torch, transformers, datasets and this package, which costs a fresh process seven seconds of computing. The fixture
`python` of conftest.py gives its path, which stands in a command in the place of `sys.executable`.

A program has a process of its own, with the arguments, environment, working folder and open files of its caller; it
gets the caller's signals and ends as Python ends. What it starts by its `sys.executable`, spawns by multiprocessing or
launches by torchrun is forked as well. It differs from a fresh process in this: modules are imported already, strings
have the same hashes in all processes, SIGINT is never ignored, its parent is the server, and a signal that nobody can
catch kills it a moment after its caller. Where the environment has other values than the server's of what libraries
read when they are imported, or Python is given other options than `-u` and `-B`, the process is a fresh one.

    forked_python.py serve SOCKET              the server, until its input ends
    forked_python.py run SOCKET ARGUMENT ...   what the path runs: hands over, and ends as the program ends
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import sys

# Read when Python starts or libraries are imported; and what of that is read again later, or is about what is shown.
_AT_IMPORT = ("HF_", "HUGGINGFACE", "TRANSFORMERS_", "TORCH", "PYTORCH", "TQDM_", "PYTHON", "OMP_", "MKL_", "OPENBLAS")
_LATER = ("TORCHELASTIC_", "TORCH_NCCL_", "PYTHONPATH", "PYTHONUNBUFFERED", "TQDM_DISABLE", "TRANSFORMERS_VERBOSITY")
_MODULES = ("accelerate.commands.launch", "aga_model.cli.main", "aga_model.training.run", "cv2", "matplotlib.pyplot")
_MODULES += ("torch.utils.tensorboard", "lance_namespace")  # most of what lancedb imports, which itself starts threads
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STARTED, _REFUSED = b"s", b"r"
_MEASURED = "COVERAGE_PROCESS_START"  # asks a process to be measured: each program by itself, the server never
_STATUS = []  # with which a program ends, when its code has ended


@contextlib.contextmanager
def started(folder):
    """The path of such a `python`, whose server ends with this block; `folder` is an empty one of this user alone."""
    import subprocess

    path, address, interpreter = os.path.join(folder, "python"), os.path.join(folder, "socket"), sys.executable
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec "{interpreter}" -IS "{__file__}" run "{address}" "$@"\n')
    os.chmod(path, 0o700)
    left_out = ("PYTHONPATH", "PYTHONUNBUFFERED", _MEASURED)
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    # In a session of its own an interruption from the keyboard reaches programs through their callers, once.
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen([interpreter, __file__, "serve", address], env=environment, **options) as server:
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError("the server of forked_python.py did not start; its error is above")
        yield path  # then the server's input is closed


# --- what the path runs -------------------------------------------------------------------------------------------


def run(address, arguments):
    """Hand the arguments and all that a program inherits to the server, wait, and end as the program does."""
    descriptors = []
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing itself
            descriptors += [number] if os.get_inheritable(number) else []
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "numbers": descriptors}
    content = json.dumps(request).encode()
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    socket.send_fds(server, [len(content).to_bytes(8)], descriptors)
    server.sendall(content)
    if server.recv(1) != _STARTED:
        os.execv(sys.executable, [sys.executable, *arguments])
    for number in _SIGNALS:
        signal.signal(number, lambda sent, _: server.send(bytes([sent])))
    for number in descriptors:
        os.close(number)
    answer = server.recv(2)
    status = int.from_bytes(answer, signed=True) if answer else 1  # the server has gone
    _die(status)


# --- the server ---------------------------------------------------------------------------------------------------


def _at_import(environment):
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_AT_IMPORT) and not name.startswith(_LATER)
    }


def _program(arguments):
    """`-c CODE ...`, `-m MODULE ...` or `SCRIPT ...`, less the options before it; None for anything else."""
    rest = list(arguments)
    while rest and rest[0] in ("-u", "-B"):
        del rest[0]
    return rest if rest and (rest[0] in ("-c", "-m") or not rest[0].startswith("-")) else None


def _import_modules():
    """What starts threads at its import, as lancedb does, must not be here: forks have the thread that forks alone."""
    import gc
    import importlib

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name in _MODULES:
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    del sys.path[0]
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the memory of all of it


def serve(address):
    """
    Fork a process for each request, which starts the program and stays its parent. Returns in the process that is to
    be the program: the request and the descriptors that came with it.
    """
    atexit.register(_leave)  # before all others, to be the last
    before = _at_import(os.environ)
    _import_modules()
    known = before, _at_import(os.environ)  # libraries set some of it, in the caller as here
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _stay_with(caller, known)
        caller.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # parents of programs that have ended
                pass
    os._exit(0)


def _stay_with(caller, known):
    """Start the program, pass on the caller's signals, tell how it ended, and end; returns in the program alone."""
    header, descriptors, _, _ = socket.recv_fds(caller, 8, 250)
    with caller.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(header)))
    given = _at_import(request["environment"])
    same = all(given.get(name) in [one.get(name) for one in known] for name in {*given, *known[0], *known[1]})
    if not same or _program(request["arguments"]) is None:
        caller.send(_REFUSED)
        os._exit(0)
    if (program := os.fork()) == 0:
        caller.close()
        return request, descriptors
    for number in descriptors:
        os.close(number)
    end = os.pidfd_open(program)
    try:
        caller.send(_STARTED)
        while end not in select.select([caller, end], [], [])[0]:
            signal.pidfd_send_signal(end, caller.recv(1)[0])
        caller.send(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]).to_bytes(2, signed=True))
    except (OSError, IndexError):  # the caller has gone
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            signal.pidfd_send_signal(end, signal.SIGKILL)
            os.waitpid(program, 0)
    os._exit(0)


def become(path, request, descriptors):
    """Be the program of a request, with `path` as its Python: descriptors, environment, folder, arguments, code."""
    import fcntl
    import multiprocessing.spawn
    import runpy
    import tempfile
    import types

    above = max([*descriptors, *request["numbers"], 2]) + 1
    descriptors = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, above) for number in descriptors]
    os.closerange(0, above)
    for own, number in zip(descriptors, request["numbers"]):
        os.dup2(own, number)
        os.close(own)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    tempfile.tempdir = None  # where temporary files go is asked for again
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in a shell's background ignores
    sys.executable = path
    multiprocessing.spawn.set_executable(path)
    program = _program(request["arguments"])
    if "-u" in request["arguments"][: -len(program)] or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(line_buffering=True)
    folder = {"-c": "", "-m": os.getcwd()}.get(program[0], os.path.dirname(os.path.realpath(program[0])))
    sys.path[:0] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [program[0], *program[2:]] if program[0] in ("-c", "-m") else program
    if os.environ.get(_MEASURED):  # this environment's settings name the test
        import coverage

        coverage.process_startup(force=True)
    status = 0
    try:
        if program[0] == "-c":
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(program[1], "<string>", "exec"), vars(main))
        elif program[0] == "-m":
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BaseException as error:
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        raise
    finally:
        _STATUS.append(status)


def _leave():
    """The last that a program does; Python would take half a second to free all that was imported."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed
            stream.flush()
    if _STATUS:  # not the server itself, whose start failed
        _die(_STATUS[0])


def _die(status):
    """End this process with an exit status, or by a signal where it is negative."""
    if status < 0:
        with contextlib.suppress(OSError):  # of a signal that nobody can catch
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    role, address, *arguments = sys.argv[1:]
    if role == "run":
        run(address, arguments)
    become(os.path.join(os.path.dirname(address), "python"), *serve(address))
