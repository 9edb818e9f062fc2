"""Cells that lack modalities: a copy in which some have lost one."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.io.simulate import draws_for

if TYPE_CHECKING:
    from mudata import MuData
    from pandas import DataFrame

__all__ = ["mosaic", "mudata_of"]


def mosaic(mdata: MuData, *, fraction: float = 0.5, modality: str | None = None, seed: int = 0) -> MuData:
    """A copy in which some cells, drawn at random, have lost one modality.

    Which cells: the first ``round(fraction * n)`` of a random order that depends on ``seed`` and the number
    of cells alone, so that a larger fraction takes the same ones and more.

    Parameters
    ----------
    mdata
        Cells that have every modality, of which there are at least two.
    fraction
        Fraction of the cells that lose one, in [0, 1].
    modality
        Which one they lose; ``None`` draws one for each cell.
    seed
        Non-negative integer.

    Returns
    -------
    MuData
        A cell is missing in the modality it lost. It stays in ``obs`` and in ``obsm``, in the same order;
        the boolean ``obsm[modality]`` says who has what.

    Raises
    ------
    InputError
        When the fraction is out of range, there is no such modality, a cell lacks one already, or a modality
        would be left without cells.

    Examples
    --------
    >>> from chreode.io.simulate_multiome import simulate_multiome
    >>> mdata = simulate_multiome(10, 50, 200, seed=1)
    >>> half = mosaic(mdata, modality="atac")
    >>> half.n_obs, half["rna"].n_obs, half["atac"].n_obs
    (10, 10, 5)
    """
    lost = _lost(mdata, fraction=fraction, modality=modality, seed=seed)
    kept = {name: part[mdata.obs_names[lost != m]].copy() for m, (name, part) in enumerate(mdata.mod.items())}
    out = mudata_of(kept, mdata.obs.copy(), mdata.var.copy())
    out.uns.update(deepcopy(dict(mdata.uns)))
    for table in ("obsm", "obsp", "varm", "varp"):
        # Under the name of a modality is who has it, which is no longer what it was.
        entries = {key: value for key, value in getattr(mdata, table).items() if key not in mdata.mod}
        getattr(out, table).update(deepcopy(entries))
    return out


def _lost(mdata: MuData, *, fraction: float, modality: str | None, seed: int) -> np.ndarray:
    """The number of the modality that each cell loses, and -1 for none."""
    names = list(mdata.mod)
    if not 0 <= fraction <= 1:
        msg = f"Expected a fraction in [0, 1]; found {fraction}. It is a share of the cells."
        raise InputError(msg)
    if len(names) < 2:
        msg = f"Expected at least two modalities; found {len(names)}. A cell cannot lose its only one."
        raise InputError(msg)
    if modality is not None and modality not in names:
        msg = f"Expected a modality of {', '.join(names)}; found {modality!r}. Name one of them, or None."
        raise InputError(msg)
    if short := [name for name in names if not mdata.obs_names.isin(mdata[name].obs_names).all()]:
        msg = f"Expected every cell in every modality; found some without {short[0]}. Take complete cells."
        raise InputError(msg)
    draws = draws_for(seed, "mosaic")
    chosen = draws.permutation(mdata.n_obs)[: round(fraction * mdata.n_obs)]
    which = draws.integers(len(names), size=mdata.n_obs)
    lost = np.full(mdata.n_obs, -1)
    lost[chosen] = which[chosen] if modality is None else names.index(modality)
    if empty := [name for m, name in enumerate(names) if (lost == m).all()]:
        msg = f"Expected a cell left in every modality; found none in {empty[0]}. Lower the fraction."
        raise InputError(msg)
    return lost


def mudata_of(modalities: dict[str, Any], obs: DataFrame, var: DataFrame | None = None) -> MuData:
    """Modalities under one ``obs`` (and ``var``), in its order, without columns copied up from each."""
    from mudata import MuData, set_options

    with set_options(pull_on_update=False):
        # The names alone: the constructor would change the types of columns.
        mdata = MuData(modalities, obs=obs[[]], var=None if var is None else var[[]])
    mdata.obs = obs
    if var is not None:
        mdata.var = var
    return mdata
