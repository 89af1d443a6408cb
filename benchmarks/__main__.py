"""List the benches, or run one: `python -m benchmarks`, `python -m benchmarks NAME --help`."""

import sys

from benchmarks.runner import main

if __name__ == "__main__":
    sys.exit(main())
