"""Seeds from meaning, not from order: the same (seed, purpose, id) gives the same stream on any machine."""

import hashlib


def derive(*parts: object) -> int:
    """A 63-bit seed from any printable parts, for example `derive(seed, "tps", image_id)`.

    Stable across processes and Python versions (SHA-256 of the parts' text), and independent for different parts.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
