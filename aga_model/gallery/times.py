"""Dates and times as people write them."""

from datetime import datetime, timedelta

_ONE_DAY = timedelta(days=1)


def read_time(text: str, name: str, end_of_day: bool = False) -> datetime:
    """
    A date or a date with time in ISO 8601, local without a time zone.

    Args:
        name: what errors call it, such as an option of a command.
        end_of_day: a date alone means its end, not its beginning.

    Raises:
        ValueError: it is neither; names it.
    """
    try:
        time = datetime.fromisoformat(text)
        return time + _ONE_DAY if end_of_day and len(text) <= len("2026-01-31") else time
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} {text}: give a date like 2026-01-31 or a time like 2026-01-31T18:30") from error
