"""SHA-256 without OpenSSL.

`import hashlib` loads libcrypto: 3.6 MiB of the 23.7 that an agent has when it greets, on every host, for a few short
digests. CPython's own implementation is a module of its own, which some builds lack (Red Hat's).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # since Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256

__all__ = ["sha256"]
