"""From files to cells and back."""

from chreode.io.loader import minibatches, stream, thin
from chreode.io.read import read
from chreode.io.write import atomic_path, write_csv, write_h5ad

__all__ = ["atomic_path", "minibatches", "read", "stream", "thin", "write_csv", "write_h5ad"]
