from datetime import UTC, datetime

import pytest

from aga_model.gallery import read_time


def test_a_date_is_its_beginning_or_its_end_and_a_moment_is_itself():
    assert read_time("2026-01-31", "--since") == datetime(2026, 1, 31)
    assert read_time("2026-01-31", "--until", end_of_day=True) == datetime(2026, 2, 1)
    for end_of_day in (False, True):
        assert read_time("2026-01-31T18:30", "--until", end_of_day) == datetime(2026, 1, 31, 18, 30)
        zoned = read_time("2026-01-31T18:30:00+00:00", "--until", end_of_day)
        assert zoned == datetime(2026, 1, 31, 18, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "31.1.2026", "2026-02-30", "", "9999-12-31"])
def test_what_is_no_date_is_named(text):
    with pytest.raises(ValueError, match=f"--until {text}: give a date like 2026-01-31"):
        read_time(text, "--until", end_of_day=True)
