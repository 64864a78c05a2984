"""The names by which client certificates name participants: ``dns:HOST`` and ``uri:URI``.

A certificate states its names as subject alternative names (RFC 5280, 4.2.1.6). A participant is registered with such
names in one form each, so that equal names are equal texts:

- ``dns:`` and a host name (RFC 1123, 2.1) in lower case, without a dot at its end and without wildcards. Names of other
  scripts are in their ASCII form (``xn--…``, RFC 5890), as in certificates.
- ``uri:`` and a URI (RFC 3986), of visible ASCII characters, as the certificate has it: URIs are compared byte by byte.
"""

import re
from typing import Final

from consentd import limits
from consentd.errors import InvalidError

DNS: Final = "dns:"
URI: Final = "uri:"
_LABEL: Final = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_MAX_HOST: Final = 253  # RFC 1035, 2.3.4: 255 octets on the wire


def check_certificate_name(name: str) -> None:
    """Check that a name has the form of registered names.

    Raises:
        InvalidError: it has not; or (TOO_LARGE) it is too long.
    """
    if len(name) > limits.CERTIFICATE_NAME_CHARACTERS:
        most = limits.CERTIFICATE_NAME_CHARACTERS
        raise InvalidError(f"certificate name is over its limit of {most} characters: `{len(name)}`", "TOO_LARGE")
    if name.startswith(DNS) and is_host(name.removeprefix(DNS)):
        return
    if name.startswith(URI) and _URI.fullmatch(name.removeprefix(URI)):
        return
    raise InvalidError(
        f"certificate name is neither `dns:` and a host name in lower case nor `uri:` and a URI: `{name}`"
    )


def is_host(host: str) -> bool:
    """Return whether *host* is a host name in the form of registered names."""
    labels = host.split(".")
    if len(host) > _MAX_HOST or not all(map(_LABEL.fullmatch, labels)):
        return False
    # A last label of digits alone is that of an IPv4 address (RFC 3696, 2). Two hyphens in the third and fourth place
    # are for the ASCII forms of other scripts (RFC 5890, 2.3.1).
    return not labels[-1].isdecimal() and all(one[2:4] != "--" or one.startswith("xn--") for one in labels)
