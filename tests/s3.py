"""An object store on a real S3 wire, in this process, that can be told to refuse for a while."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

__all__ = ["BUCKET", "Wire", "s3_wire"]

BUCKET = "runs"


class Wire:
    """An S3 server, which can be told to answer 503 for a while."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.away = threading.Event()
        self.num_refused = 0

    def start(self) -> str:
        # a line a request, of which a failed test would show hundreds
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._server.start()
        host, port = self._server.get_host_and_port()
        app = self._server._server.app  # type: ignore[union-attr]

        def sometimes(environ, start_response):  # type: ignore[no-untyped-def]
            if self.away.is_set():
                self.num_refused += 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return [b""]
            return app(environ, start_response)

        self._server._server.app = sometimes  # type: ignore[union-attr]
        return f"http://{host}:{port}"

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def s3_wire() -> Iterator[Wire]:
    """Serve an empty bucket; meanwhile this process, and what it starts, find it by their environment."""
    wire = Wire()
    environment = {
        "AWS_ENDPOINT_URL": wire.start(),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        # the client's own attempts, some ten seconds of them, would hide what is done about a refusal
        "AWS_MAX_ATTEMPTS": "1",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield wire
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        wire.stop()
