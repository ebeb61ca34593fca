"""Why a URL gave no image: img2dataset's free texts as a short list of kebab-case reasons.

The reasons are what a histogram, a ledger and a retry can work with; the text itself is kept as `detail`.
"""

from __future__ import annotations

import re

# first match wins; a group in the pattern fills the reason
PATTERNS: tuple[tuple[str, str], ...] = (
    (r"Egress (?:refused|failed): ([a-z-]+)", "{0}"),
    (r"redirect error", "redirect-loop"),
    (r"HTTP Error (\d+)", "http-{0}"),
    (r"X-Robots-Tag", "opted-out"),
    (r"timed out|Timeout", "timeout"),
    (r"IncompleteRead", "truncated"),
    (r"MAX_IMAGE_PIXELS|image area too large|pixels <= ", "too-many-pixels"),
    (r"image too small", "too-small"),
    (r"aspect ratio too large", "extreme-aspect"),
    (r"Image decoding error|imdecode|OpenCV", "not-an-image"),
    (r"unknown url type|URL can't contain|nonnumeric port|no host given|Invalid URL|ascii' codec", "malformed-url"),
    (r"EOF occurred", "connection"),
    (r"SSL|CERTIFICATE|certificate", "tls"),
    # the proxy answers for hosts that refuse: only the proxy itself can be refused
    (r"Connection refused", "proxy-lost"),
    (r"Errno|reset by peer|closed connection", "connection"),
)
# worth another pass: the next try may well succeed
TRANSIENT = frozenset({"timeout", "dns", "connection", "truncated", "not-reported", "proxy-lost"})
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def reason_of(message: str) -> str:
    """The reason behind an error message of img2dataset."""
    for pattern, reason in PATTERNS:
        if match := re.search(pattern, message):
            return reason.format(*match.groups())
    return "other"


def is_transient(reason: str) -> bool:
    """Whether a failure may heal by itself."""
    kind, _, status = reason.partition("-")
    return reason in TRANSIENT or (kind == "http" and status.isdigit() and int(status) in TRANSIENT_STATUS)


def histogram(reasons: dict[str, int], total: int) -> str:
    """The reasons as lines of a message, the most frequent first."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return "\n".join(f"  {reason:<18} {count:>8}  {100 * count / max(1, total):5.1f} %" for reason, count in ranked)
