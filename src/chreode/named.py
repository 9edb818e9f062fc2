"""Modules by the names that users give, whatever these are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, KeysView, Mapping

__all__ = ["Named", "module_name"]


def module_name(name: str) -> str:
    """The name under which a module is registered: without dots, and not one that modules themselves use.

    Different names stay different.

    Examples
    --------
    >>> module_name("cell"), module_name("orig.ident"), module_name("type")
    ('cell', 'orig%2Eident', 'type%')
    """
    plain = name.replace("%", "%25").replace(".", "%2E")
    return f"{plain}%" if hasattr(Named, plain) or plain in ("training", "_names") else plain


class Named(nn.Module):
    """Modules by name, as a `torch.nn.ModuleDict` that takes every name.

    Parameters
    ----------
    modules
        By name: of a latent, a modality or a column.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._names = {name: module_name(name) for name in modules}
        for name, module in modules.items():
            self.add_module(self._names[name], module)

    def __getitem__(self, name: str) -> Any:
        return self._modules[self._names[name]]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._names.keys()

    def values(self) -> list[Any]:
        """The modules."""
        return [self[name] for name in self._names]

    def items(self) -> list[tuple[str, Any]]:
        """Names and modules."""
        return [(name, self[name]) for name in self._names]
