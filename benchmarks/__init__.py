"""Benchmarks of speed and memory, compared with other systems and with the limits of the hardware.

Run them from a clone of the repository: `python -m benchmarks.real_size --work DIR`. They need the extras
`export` and `dev`.
"""

import os

# Other systems are measured in environments without this package, which would set the variable.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
