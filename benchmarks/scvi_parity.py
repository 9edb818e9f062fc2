"""Write the small models of scvi-tools that `tests/test_scvi_tools.py` holds chreode's `scvi` to.

python benchmarks/scvi_parity.py --peers-python peers/bin/python --out tests/fixtures/scvi.safetensors
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers-python", default="peers/bin/python")
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/scvi.safetensors"))
    options = parser.parse_args()
    script = Path(__file__).with_name("scvi_parity_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made.npz")
        subprocess.run([options.peers_python, str(script), str(made)], check=True)
        with np.load(made) as stored:
            kept = {name: stored[name] for name in stored.files}
    words = {name: value for name, value in kept.items() if value.dtype.kind == "U"}
    facts = {name: json.dumps(value.tolist()) for name, value in words.items()}
    arrays = {name: np.ascontiguousarray(value) for name, value in kept.items() if name not in words}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, options.out, metadata=facts)


if __name__ == "__main__":
    main()
