"""Meters of the speed bench: peak memory, floating-point operations, the machine's matmul ceiling, time by part."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from benchmarks.meters import forget_peak, knows_peak, memory_mib

PREFIX = "speed: "
OTHER = "other"
_BACKWARD = "autograd::engine::evaluate_function: "
aten = torch.ops.aten


def synchronize(device: str) -> None:
    """Wait for the work that was given to a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()


class PeakMemory:
    """Peak of this process's memory from now on, in MiB: of the GPU, or resident (Linux; None elsewhere)."""

    def __init__(self, device: str):
        self.device = device
        self.known = device != "cpu" or knows_peak()
        self.held: float | None = None
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            self.held = torch.cuda.memory_allocated() / 2**20
        elif self.known:
            forget_peak()
            self.held = memory_mib("VmRSS")

    def mib(self) -> float | None:
        """The peak since then."""
        if not self.known:
            return None
        return memory_mib("VmHWM") if self.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


def _backward_flop(gradient, query, key, value, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_backward_flop(gradient, query, key, value)


def _forward_flop(query, key, value, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop(query, key, value)


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add is two."""
    # The counter of torch does not know the CPU's attention kernel.
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _forward_flop,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flop,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def matmul_ceiling(device: str, dtype: torch.dtype, size: int, repeats: int = 5) -> float:
    """Floating-point operations a second of the best of several products of square matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    inner = 1 if device == "cpu" else 20
    best = float("inf")
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(inner):
            left @ right
        synchronize(device)
        best = min(best, (time.perf_counter() - began) / inner)
    return 2 * size**3 / best


@contextmanager
def labelled(parts: list[tuple[Any, str, str]]) -> Iterator[None]:
    """
    Name parts of a computation for [`time_by_part`] while inside.

    Args:
        parts: (owner, attribute, part) of functions, such as a module's `forward`.
    """
    before = []
    for owner, attribute, part in parts:
        own = attribute in vars(owner)
        before.append((owner, attribute, vars(owner)[attribute] if own else None, own))
        setattr(owner, attribute, _named(getattr(owner, attribute), part))
    try:
        yield
    finally:
        for owner, attribute, value, own in reversed(before):
            if own:
                setattr(owner, attribute, value)
            else:
                delattr(owner, attribute)


def _named(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with record_function(PREFIX + part):
            return function(*args, **kwargs)

    return wrapper


def time_by_part(run: Callable[[], Any], device: str) -> dict[str, float]:
    """
    Seconds of a computation by the part that `labelled` or a `record_function` names, forward and backward together.

    An operation belongs to the innermost part around it, and what the backward pass does for it too, which the
    profiler knows by its sequence number. On a GPU these are the seconds of its kernels.
    """
    activities = [ProfilerActivity.CPU] + ([] if device == "cpu" else [ProfilerActivity.CUDA])
    with profile(activities=activities) as profiler:
        run()
        synchronize(device)
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CPU]
    parts: dict[int, str] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        part = _forward_part(event)
        if part is not None and event.sequence_nr >= 0:
            parts[event.sequence_nr] = part  # the last one with a number is the operation that made the graph's node
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        own = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
        seconds[_part(event, parts)] += own / 1e6
    return dict(seconds)


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _forward_part(event: Any) -> str | None:
    """The innermost part around an operation of the forward pass."""
    part = None
    for one in _ancestors(event):
        if one.name.startswith(_BACKWARD):
            return None
        if part is None and one.name.startswith(PREFIX):
            part = one.name.removeprefix(PREFIX)
    return part


def _part(event: Any, parts: dict[int, str]) -> str:
    for one in _ancestors(event):
        if one.name.startswith(PREFIX):
            return one.name.removeprefix(PREFIX)
        if one.name.startswith(_BACKWARD):
            return parts.get(one.sequence_nr, OTHER)
    return OTHER
