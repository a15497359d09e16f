"""Timestamps. `ok` is the instant in milliseconds since 1970 (a finer part cut off), and the one form
in which it is written again."""

from protocol.primitives import format_time, parse_time

from .cases import agreed, ok, refused

ACCEPTED = {
    "milliseconds": "2026-01-02T03:04:05.678Z",
    "no fraction": "2026-01-02T03:04:05Z",
    "one digit": "2026-01-02T03:04:05.6Z",
    "two digits": "2026-01-02T03:04:05.67Z",
    "four digits, cut off": "2026-01-02T03:04:05.6789Z",
    "nine digits, cut off": "2026-01-02T03:04:05.678999999Z",
    "nine zeros": "2026-01-02T03:04:05.000000000Z",
    "the epoch": "1970-01-01T00:00:00.000Z",
    "before the epoch": "1969-12-31T23:59:59.999Z",
    "before the epoch, cut off towards the past": "1969-12-31T23:59:59.9995Z",
    "a leap day": "2024-02-29T23:59:59.999Z",
    "the leap day of 2000": "2000-02-29T00:00:00.000Z",
    "the last millisecond of year 9999": "9999-12-31T23:59:59.999Z",
}
REFUSED = {
    "empty": "",
    "only a date": "2026-01-02",
    "no zone": "2026-01-02T03:04:05.678",
    "zone +00:00": "2026-01-02T03:04:05.678+00:00",
    "zone +01:00": "2026-01-02T03:04:05.678+01:00",
    "zone -00:00": "2026-01-02T03:04:05.678-00:00",
    "a lower-case z": "2026-01-02T03:04:05.678z",
    "a lower-case t": "2026-01-02t03:04:05.678Z",
    "a space for T": "2026-01-02 03:04:05.678Z",
    "ten digits": "2026-01-02T03:04:05.6789999999Z",
    "a dot without digits": "2026-01-02T03:04:05.Z",
    "a comma": "2026-01-02T03:04:05,678Z",
    "two fractions": "2026-01-02T03:04:05.67.8Z",
    "a sign in the fraction": "2026-01-02T03:04:05.+78Z",
    "a space in the fraction": "2026-01-02T03:04:05. 78Z",
    "month 0": "2026-00-02T03:04:05.678Z",
    "month 13": "2026-13-02T03:04:05.678Z",
    "day 0": "2026-01-00T03:04:05.678Z",
    "day 32": "2026-01-32T03:04:05.678Z",
    "30 February": "2026-02-30T03:04:05.678Z",
    "29 February of a common year": "2026-02-29T03:04:05.678Z",
    "29 February 2100": "2100-02-29T03:04:05.678Z",
    "hour 24": "2026-01-02T24:00:00.000Z",
    "minute 60": "2026-01-02T03:60:05.678Z",
    "second 60": "2026-01-02T03:04:60.000Z",
    "a leap second": "2016-12-31T23:59:60Z",
    "no leading zeros": "2026-1-2T3:4:5.678Z",
    "a year of five digits": "12026-01-02T03:04:05.678Z",
    "a year with a sign": "+2026-01-02T03:04:05.678Z",
    "a negative year": "-026-01-02T03:04:05.678Z",
    "a year of three digits": "202-01-02T03:04:05.678Z",
    "the basic form": "20260102T030405.678Z",
    "a week date": "2026-W01-5T03:04:05.678Z",
    "a space before": " 2026-01-02T03:04:05.678Z",
    "a space after": "2026-01-02T03:04:05.678Z ",
    "a line feed after": "2026-01-02T03:04:05.678Z\n",
    "a NUL after": "2026-01-02T03:04:05.678Z\0",
    "two Z": "2026-01-02T03:04:05.678ZZ",
    "Arabic digits": "\u0662\u0660\u0662\u0666-01-02T03:04:05.678Z",
    "full-width digits in the fraction": "2026-01-02T03:04:05.\uff16\uff17\uff18Z",
    "a minus sign of typography": "2026\u221201\u221202T03:04:05.678Z",
    "seconds since 1970": "1767323045",
    "a plain word": "now",
}


def vectors():
    """All cases: accepted ones first."""
    accepted = [(name, text, ok(_facts(text))) for name, text in ACCEPTED.items()]
    wrong = [(name, text, refused("InvalidMessage")) for name, text in REFUSED.items()]
    return [
        agreed({"name": name, "text": text, "expect": expect}, lambda text=text: _facts(text))
        for name, text, expect in accepted + wrong
    ]


def _facts(text):
    nanoseconds = parse_time(text)
    return {"unixMillis": nanoseconds // 10**6, "written": format_time(nanoseconds)}
