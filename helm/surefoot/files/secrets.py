# Make the secrets that nobody has given, once: a key that is there stays as it is, whatever else changes.

import base64
import secrets
import sys

NAME, KEYS = os.environ["SECRET"], os.environ["KEYS"].split()
LABELS = json.loads(os.environ["LABELS"])
PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets"


def made(keys):
    return {key: base64.b64encode(secrets.token_urlsafe(32).encode()).decode() for key in keys}


status, found = call("GET", f"{PATH}/{NAME}")
if status == 404:
    metadata = {"name": NAME, "labels": LABELS}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": made(KEYS)}
    status, found = call("POST", PATH, body)
    if status != 409:
        sys.exit(print(f"made {NAME}: {', '.join(KEYS)}"))
    status, found = call("GET", f"{PATH}/{NAME}")
missing = [key for key in KEYS if not (found.get("data") or {}).get(key)]
if missing:
    # of this version of it alone: a key that somebody has put there meanwhile is not overwritten
    version = {"resourceVersion": found["metadata"]["resourceVersion"]}
    status, _ = call(
        "PATCH", f"{PATH}/{NAME}", {"metadata": version, "data": made(missing)}, "application/merge-patch+json"
    )
    if status != 200:
        sys.exit(f"{NAME} was changed by somebody else at the same time: try again")
print(f"{NAME} is there; made: {', '.join(missing) or 'nothing'}")
