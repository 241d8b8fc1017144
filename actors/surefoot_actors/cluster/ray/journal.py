"""The journal in Ray's control store."""

from __future__ import annotations

import json
from typing import Any

from surefoot_actors.cluster.ray.gcs import retry_until_gcs_answers
from surefoot_actors.journal.journal import Journal

__all__ = ["RayJournal"]


class RayJournal(Journal):
    """In Ray's control store (GCS): as durable as Ray's own knowledge of the actors."""

    _NAMESPACE = b"surefoot"

    def __init__(self, attempt: str) -> None:
        super().__init__()
        self._prefix = f"journal:{attempt}:"

    def _get(self, name: str) -> Any:
        from ray.experimental.internal_kv import _internal_kv_get

        found = retry_until_gcs_answers(lambda: _internal_kv_get(self._key(name), namespace=self._NAMESPACE))
        return json.loads(found or b"null")

    def _put(self, name: str, value: Any) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        body = json.dumps(value).encode()
        retry_until_gcs_answers(
            lambda: _internal_kv_put(self._key(name), body, overwrite=True, namespace=self._NAMESPACE)
        )

    def _remove(self, name: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        retry_until_gcs_answers(lambda: _internal_kv_del(self._key(name), namespace=self._NAMESPACE))

    def _names(self, prefix: str) -> list[str]:
        from ray.experimental.internal_kv import _internal_kv_list

        found = retry_until_gcs_answers(lambda: _internal_kv_list(self._key(prefix), namespace=self._NAMESPACE))
        return [key.decode().removeprefix(self._prefix) for key in found]

    def forget(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        retry_until_gcs_answers(lambda: _internal_kv_del(self._prefix, del_by_prefix=True, namespace=self._NAMESPACE))
        self._written.clear()

    def _key(self, name: str) -> bytes:
        return (self._prefix + name).encode()
