"""Files of results, as they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ..runtime.errors import DataError
from ..runtime.files import read_regular_file

_MOST_BYTES: Final = 1 << 28


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        what: names it in messages: "result".

    Raises:
        DataError: it cannot be read, is too long, or is no JSON object.
    """
    try:
        body = json.loads(read_regular_file(path, what, _MOST_BYTES, DataError))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error or 'it is nested too deep'}") from error
    if not isinstance(body, dict):
        raise DataError(f"{path} is not a {what}: no JSON object")
    return body
