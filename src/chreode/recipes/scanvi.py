"""Semi-supervised recipes: a label that some cells have says where codes are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval, MinLen

from chreode.decoders import MLP
from chreode.errors import InputError
from chreode.events import count_labels
from chreode.likelihoods import heads
from chreode.objective import classification
from chreode.priors import LabelHierarchy
from chreode.recipe import Build, recipe
from chreode.recipes.vae import Counts, Dim, Dropout, Share, Width, built, of_counts

if TYPE_CHECKING:
    from chreode.layout import Layout

__all__ = ["scanvi"]


@recipe(code="cell", cite=("scanvi", "scvi"))
def scanvi(
    layout: Layout,
    *,
    dim: Dim = 20,
    hidden: Annotated[tuple[Width, ...], MinLen(1)] = (128,),
    likelihood: Counts = "nb",
    classifier: tuple[Width, ...] | None = None,
    labels_weight: Annotated[float, Interval(ge=0)] = 1.0,
    dropout: Dropout = 0.1,
    encode_batch: bool = False,
    warm_up: Share = 0.25,
) -> Build:
    r"""Semi-supervised variational inference: a label that some cells have says where their codes are.

    .. math::
        y_i \sim \mathrm{Cat}(\tfrac1k), \quad u_i \sim N(0, I), \quad
        z_i \sim N\big(m(u_i, y_i), \mathrm{diag}\,v(u_i, y_i)\big), \quad
        x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(f(z_i, b_i))_j,\ \theta_j\big)

    with a classifier :math:`q(y \mid z)`, over which cells without a label are averaged. Read the cells with
    ``label=``, and with ``unlabelled="Unknown"`` where that level means that there is none. The page *scanvi*
    of the documentation says more (doi:10.15252/msb.20209620).

    Parameters
    ----------
    dim, likelihood, dropout, encode_batch, warm_up
        As of `scvi`.
    hidden
        Widths of the decoder's hidden layers, and in reverse of the encoder's; and of those of the prior.
    classifier
        Widths of the classifier's hidden layers; those of the others by default, none makes it linear.
    labels_weight
        Weight of the mean negative log probability of the labels that are known. A great one teaches the
        encoder the labelled cells by heart, and the others are named worse.

    Raises
    ------
    InputError
        When the cells were read without a label, or with one level of it.
    """
    label = layout.in_role("label")
    if label is None or len(label.levels) < 2:
        found = "none" if label is None else f"{len(label.levels)}"
        msg = f"Expected a label of at least two levels; found {found}. Read the cells with label=COLUMN."
        raise InputError(msg)
    modality = next(iter(layout.modalities))
    head = {modality: heads[likelihood]}
    decoder = MLP(layout, {"cell": dim}, heads=head, hidden=hidden, norm="batch", columns=(), deep=True)
    encoder = of_counts(layout, dim, hidden[::-1], dropout=dropout, encode_batch=encode_batch)
    how = {"hidden": hidden, "classifier": hidden if classifier is None else classifier, "dropout": dropout}
    prior = LabelHierarchy(label.column, len(label.levels), dim, **how)
    terms, events = (classification("cell", weight=labels_weight),), (count_labels("cell"),)
    build = built(layout, encoder, prior, decoder, warm_up=warm_up, terms=terms, events=events)
    return replace(build, plan=replace(build.plan, lr={**build.plan.lr, "prior": 1e-3}))
