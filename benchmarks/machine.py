"""What a bench ran on: the machine and the versions of the software, the same for every report."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from aga_model.version import __version__

# Names in reports -> of the module and of the distribution, where they differ.
_MODULES = {"opencv": "cv2"}
_DISTRIBUTIONS = {"opencv": "opencv-python-headless"}


def processor() -> str:
    """Name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerator() -> str | None:
    """Name of the GPU; None without one."""
    import torch  # not by all benches, and it counts the cores when it is imported

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def device(**more: Any) -> dict[str, Any]:
    """The machine: `processor`, `cores`, and what the bench knows of it, such as `threads` and `accelerator`."""
    return {"processor": processor(), "cores": cores(), **more}


def in_words(device: dict[str, Any]) -> str:
    """A [`device`] for the title of a table: what computed, with its threads or else its cores."""
    what = "thread" if "threads" in device else "core"
    number = device[f"{what}s"]
    return f"{device.get('accelerator') or device['processor']}, {number} {what}{'s' * (number != 1)}"


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package, of others by their names, and of Python."""
    return {
        "aga_model": __version__,
        **{name: _version(name) for name in packages},
        "python": platform.python_version(),
    }


def _version(name: str) -> str:
    """As the module tells it where it is imported, for that names the build too (2.13.0+cpu)."""
    own = getattr(sys.modules.get(_MODULES.get(name, name)), "__version__", None)
    return str(own) if own else importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
