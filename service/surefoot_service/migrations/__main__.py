"""Bring the database that the settings name to this version, and end: `python -m surefoot_service.migrations`.

The control plane does so itself when it starts. This is for whoever wants it done, or refused, before the new version takes over.
"""

from __future__ import annotations

import sys

from surefoot.errors import SurefootError
from surefoot_service.settings import Settings
from surefoot_service.store.database import Database


def main() -> int:
    database = Database(Settings().database)
    try:
        database.migrate()
    except SurefootError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
