"""IBANs: the country's form and both check digits right, which no other text has by chance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

SEPARATOR = "[ \u00a0\u202f\u2011-]"  # as few as one between two characters
START = re.compile(rf"(?<![^\W_])([A-Za-z]{{2}})[0-9]{{2}}(?={SEPARATOR}?[A-Za-z0-9])")


def find_ibans(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each IBAN, in groups or not."""
    end = 0
    for start in START.finditer(text):
        form = _form(start[1].upper())
        found = form.match(text, start.start()) if form and start.start() >= end else None
        if found and _is_iban(found[0]):
            end = found.end()
            yield found.span()


@cache
def _form(country: str) -> re.Pattern[str] | None:
    """As many letters and digits as an IBAN of that country has; None if none has."""
    from stdnum import numdb

    structure = numdb.get("iban").info(country)[0][1].get("bban", "")  # such as 8!n10!n
    length = sum(map(int, re.findall(r"(\d+)!", structure)))
    if not length:
        return None
    return re.compile(rf"[A-Za-z]{{2}}[0-9]{{2}}(?:{SEPARATOR}?[A-Za-z0-9]){{{length}}}")


def _is_iban(written: str) -> bool:
    from stdnum import iban

    # Not the country's own check: it refuses a bank that its list lacks.
    return iban.is_valid(re.sub(SEPARATOR, "", written), check_country=False)
