"""Prints the occurrences of calendars as other implementations find them: for tests/discovery/others.rs.

Usage: compare.py recurring|ical PACKAGES FROM UNTIL FILE... A line for each file: its name, a tab, and a JSON list of
[uid, start, end] in UTC; or its name, a tab, and an error.
"""

import datetime
import json
import pathlib
import sys
import zoneinfo

implementation, packages, begin, until, *files = sys.argv[1:]
sys.path.insert(0, packages)
UTC = datetime.timezone.utc
WINDOW = [datetime.datetime.fromisoformat(text) for text in (begin, until)]
# Days and floating times are in UTC, as in a calendar that names no zone.


def moment(value):
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def recurring(text):
    import icalendar
    import recurring_ical_events

    calendar = icalendar.Calendar.from_ical(text)
    for event in recurring_ical_events.of(calendar).between(*WINDOW):
        yield str(event["UID"]), event.start, event.end


def ical(text):
    from ical.calendar_stream import IcsCalendarStream

    calendar = IcsCalendarStream.calendar_from_ics(text)
    for event in calendar.timeline_tz(UTC).overlapping(*WINDOW):
        yield event.uid, event.start, event.end


for name in files:
    path = pathlib.Path(name)
    try:
        found = {"recurring": recurring, "ical": ical}[implementation](path.read_text())
        rows = sorted([uid, moment(start).isoformat(), moment(end).isoformat()] for uid, start, end in found)
        answer = json.dumps(rows)
    except Exception as error:  # what it cannot read, it is not asked about
        answer = f"{type(error).__name__}: {error}".replace("\n", " ")
    print(f"{path.stem}\t{answer}")
