"""E-mail addresses: what is written like one, with a dot in its domain."""

from __future__ import annotations

import re
from collections.abc import Iterator

# RFC 5322's atoms, in any script (RFC 6531); quotes and brackets in front are no part of it. The
# lookbehind gives each run of characters one start, so that time is linear in the text's length.
SYMBOLS = r"!#$%&'*+/=?^`{|}~."
ADDRESS = re.compile(
    rf"""(?<![\w{SYMBOLS}-]) [{SYMBOLS}-]*+
    (?P<address> \w [\w{SYMBOLS}-]*+ @
        (?!\dx\.)  # image@2x.png
        (?:\w[\w-]*+\.)+ (?:xn--[a-z0-9-]++ | [^\W\d_]{{2,}}+) )""",
    re.VERBOSE | re.IGNORECASE,
)


def find_emails(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each address."""
    if "@" in text:
        for found in ADDRESS.finditer(text):
            yield found.span("address")
