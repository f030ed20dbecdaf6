"""The time limit of every wait in the tests."""

# Seconds after which a process or a wait hangs. No test depends on speed: a machine may run other programs.
HANG = 600.0
