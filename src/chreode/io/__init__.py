"""From files to cells and back: `chreode.read` is in `chreode.io.read`."""

from chreode.io.loader import minibatches, stream, thin
from chreode.io.write import atomic_path, write_csv, write_h5ad

__all__ = ["atomic_path", "minibatches", "stream", "thin", "write_csv", "write_h5ad"]
