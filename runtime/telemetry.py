"""Switch off the telemetry of onnxruntime.

Since 1.29 the official builds of onnxruntime write a device id and a database of events below the user's home
folder, and send the events to Microsoft. onnxruntime reads the environment variable when it is imported;
`onnxruntime.disable_telemetry_events()` comes too late.
"""

from __future__ import annotations

import os

VARIABLE = "ORT_DISABLE_TELEMETRY"
# Values that switch telemetry off, as onnxruntime 1.32 reads them.
DISABLING_VALUES = ("1", "true", "yes", "on")


def disable_telemetry() -> None:
    """Set the environment variable for this process and its children, unless the user has set it."""
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = "1"


def telemetry_is_disabled() -> bool:
    """Return whether the environment variable switches telemetry off."""
    return os.environ.get(VARIABLE, "").lower() in DISABLING_VALUES
