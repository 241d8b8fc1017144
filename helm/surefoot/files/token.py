"""Put the hash of the users' token where the control plane looks for it: the Secret is the truth, from one start to the next."""

import os
from pathlib import Path

from surefoot_service.data_folder import make_private
from surefoot_service.keys import digest, private_file

token = Path(os.environ["TOKEN_FILE"]).read_text().strip()
if len(token) < 32:
    raise SystemExit("the users' token in the Secret is too short to be random: 32 characters at least")
data = Path(os.environ["SUREFOOT_DATA"])
make_private(data)
private_file(data / "token.sha256", digest(token) + "\n")
