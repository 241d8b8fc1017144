"""A call of the Kubernetes API, with this pod's own token."""

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
API = os.environ.get("KUBERNETES_API", "https://kubernetes.default.svc")
NAMESPACE = os.environ["NAMESPACE"]


def call(method, path, body=None, kind="application/json"):
    """Return (status, answer) of the namespace's `path`. What is not there is a status, not an error."""
    token = (ACCOUNT / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{API}{path}", data, headers, method=method)
    trust = ssl.create_default_context(cafile=ACCOUNT / "ca.crt") if API.startswith("https") else None
    try:
        with urllib.request.urlopen(request, context=trust, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (404, 409):
            return error.code, {}
        raise SystemExit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:1000]}") from None
