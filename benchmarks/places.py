"""Where things are, found from this file, whatever the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SMALL_MODEL = ROOT / "checkpoints" / "aga-small-rendered"
