"""One object of a JSON file, read key by key; every refusal names the file, the key and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .errors import CheckpointError, quote_names, quote_value


@dataclass(frozen=True)
class Section:
    """The keys of one object. A method raises CheckpointError when its key holds what it does not accept."""

    file: str  # for messages
    prefix: str  # dotted path of this object inside the file: "" or "text_config."
    values: Mapping[str, object]

    def error(self, key: str, problem: str) -> CheckpointError:
        """The exception that says what is wrong with a key."""
        return CheckpointError(f"{self.file}: {self.prefix}{key} {problem}")

    def section(self, key: str) -> Section:
        """The object under a key, which must be there."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "must be an object" if key in self.values else "is missing")
        return Section(self.file, f"{self.prefix}{key}.", value)

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """A whole number from low to high; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None and key not in self.values:
            raise self.error(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"is {quote_value(value)}; it must be an integer from {low} to {high}")
        return value

    def positive(self, key: str, default: float, high: float) -> float:
        """A number above zero and at most high."""
        value = self.values.get(key, default)
        # Whole numbers stand for reals in JSON; the bound comes first, since float() of a huge one overflows.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= high:
            raise self.error(
                key, f"is {quote_value(value)}; it must be a number above 0 and at most {high:g}"
            )
        if not math.isfinite(number := float(value)):
            raise self.error(key, "is not finite")
        return number

    def positive_or_null(self, key: str, default: float, high: float) -> float | None:
        """A number above zero, or None where the file says null (absent means the default)."""
        if key in self.values and self.values[key] is None:
            return None
        return self.positive(key, default, high)

    def must_be(self, accepted: Mapping[str, tuple[object, ...]]) -> None:
        """Refuse keys whose value would ask for arithmetic that is not implemented; absent is accepted."""
        for key, choices in accepted.items():
            if key in self.values and not any(_same(self.values[key], choice) for choice in choices):
                only = " or ".join(quote_value(choice) for choice in choices)
                raise self.error(key, f"is {quote_value(self.values[key])}; only {only} is implemented")

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Refuse keys nobody reads, unless they are null, which says nothing."""
        unknown = [key for key, value in self.values.items() if key not in known and value is not None]
        if unknown:
            where = self.prefix.rstrip(".") or "the file"
            raise CheckpointError(
                f"{self.file}: {where} has keys that are not understood: {quote_names(unknown)}"
            )


def _same(value: object, choice: object) -> bool:
    """Equality that keeps 1, 1.0 and true apart."""
    return type(value) is type(choice) and value == choice
