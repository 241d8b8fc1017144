"""What schemathesis cannot make from the document alone: packages. Read by it, not by the tests."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import schemathesis
from hypothesis import strategies as st

_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            member = zipfile.ZipInfo("x")
            member.filename = name  # as it is: the constructor cuts names at NUL
            archive.writestr(member, content)
    return buffer.getvalue()


ZIPS = st.dictionaries(_NAMES, st.binary(max_size=200), max_size=5).map(_zip) | st.binary(max_size=300)
schemathesis.openapi.media_type("application/zip", ZIPS)


@schemathesis.serializer("application/zip")
def _as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
