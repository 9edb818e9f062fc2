"""The linear family: codes in closed form under linear Gaussian models, and a linear readout of counts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from chreode.decoders import Linear
from chreode.errors import InputError
from chreode.events import centre_decoder, learn_factors
from chreode.infer import LinearGaussian, PrincipalComponents, likelihood_factors, sparse_factors
from chreode.likelihoods import DroppedNormal, Normal, heads
from chreode.model import Latent, LatentModel
from chreode.objective import Objective, reconstruction
from chreode.plan import Plan
from chreode.priors import Flat, StandardNormal
from chreode.recipe import Build, recipe
from chreode.words import listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from chreode.layout import Layout

__all__ = ["factor_analysis", "mofa", "pca", "zifa"]

Dim = Annotated[int, Interval(ge=1, le=512)]
Total = Annotated[float, Interval(gt=0)]
Counts = Literal["nb", "poisson"]
_STEPS = 1500  # of the readout, at least, however few cells there are
_NORMAL = partial(Normal, learned=True)


@recipe(code="cell", cite=("pca",))
def pca(layout: Layout, *, dim: Dim = 20, per: Total = 1e4, likelihood: Counts = "nb") -> Build:
    r"""Principal components of log-normalised counts, and a linear readout that gives counts back.

    .. math::
        u_{ij} = \log(1 + c\,x_{ij}/s_i), \quad z_i = V^\top (u_i - \bar u), \quad
        x_{ij} \sim \mathrm{NB}\big(s_i\,\mathrm{softmax}(W z_i + a + o_i)_j,\ \theta_j\big)

    The components are those that everyone uses; the readout is fitted to them, so that held-out molecules can
    be scored. Continuous values have the components themselves for a readout. The page *pca* of the
    documentation says more.

    Parameters
    ----------
    dim
        Components.
    per
        The total that the counts of every cell are scaled to.
    likelihood
        Of the readout of counts.
    """
    return _built(layout, dim, PrincipalComponents(layout, dim, per=per), likelihood, prior=Flat(dim))


@recipe(code="cell", cite=("factor_analysis",))
def factor_analysis(layout: Layout, *, dim: Dim = 20, per: Total = 1e4, likelihood: Counts = "nb") -> Build:
    r"""Factor analysis: principal components in which each feature has noise of its own.

    .. math:: z_i \sim N(0, I), \qquad u_{ij} \sim N(w_j^\top z_i + m_j,\ \psi_j)

    of log-normalised counts, or of continuous values as they are. Loadings and noise maximise the marginal
    likelihood, and the embedding is the mean of the exact posterior. Counts have a linear readout as in
    `pca`. The page *factor_analysis* of the documentation says more (doi:10.1007/BF02293851).

    Parameters
    ----------
    dim
        Factors.
    per, likelihood
        As of `pca`.
    """
    part = LinearGaussian(layout, dim, rule=likelihood_factors, per=per)
    return _built(layout, dim, part, likelihood)


@recipe(code="cell", cite=("zifa",))
def zifa(layout: Layout, *, dim: Dim = 10, per: Total = 1e4, likelihood: Counts = "nb") -> Build:
    r"""Zero-inflated factor analysis: small values are measured as zero the more often the smaller they are.

    .. math::
        z_i \sim N(0, I), \quad y_{ij} \sim N(w_j^\top z_i + m_j,\ \psi_j), \quad
        u_{ij} = 0 \text{ with probability } \exp(-\lambda y_{ij}^2), \text{ else } y_{ij}

    fitted by expectation-maximisation with an exact posterior. Counts have a linear readout as in `pca`. The
    page *zifa* of the documentation says more (doi:10.1186/s13059-015-0805-z).

    Parameters
    ----------
    dim
        Factors.
    per, likelihood
        As of `pca`.
    """
    part = LinearGaussian(layout, dim, rule=likelihood_factors, per=per, dropout=True)
    return _built(layout, dim, part, likelihood, continuous=DroppedNormal)


@recipe(code="cell", cite=("mofa",), joint=True)
def mofa(
    layout: Layout,
    *,
    dim: Dim = 15,
    per: Total = 1e4,
    likelihood: dict[str, Literal["nb", "nb_free", "poisson", "bernoulli", "accessibility"]] | None = None,
) -> Build:
    r"""Multi-omics factor analysis: factors of several modalities, each relevant to some of them.

    .. math::
        z_i \sim N(0, I), \quad u_{imj} \sim N(w_{mj}^\top z_i + b_{mj},\ \psi_{mj}), \quad
        w_{mjk} = s_{mjk} \hat w_{mjk}, \quad s_{mjk} \sim \mathrm{Bernoulli}(\theta_{mk}), \quad
        \hat w_{mjk} \sim N(0, \alpha_{mk}^{-1})

    of log-normalised counts, and of other values as they are; a cell may miss values or whole modalities.
    Relevance is found by evidence: factors that no modality needs are zero. Modalities that are not
    continuous have a linear readout of these codes. `chreode.variance_explained` says what each factor is
    worth. The page *mofa* of the documentation says more (doi:10.1186/s13059-020-02015-1).

    Parameters
    ----------
    dim
        Factors at most.
    per
        As of `pca`.
    likelihood
        Of the readout, by modality; None takes those that the values ask for: negative binomial for counts,
        accessibility for zeros and ones. Continuous values need none.
    """
    part = LinearGaussian(layout, dim, rule=sparse_factors, modalities=list(layout.modalities), per=per)
    return _built(layout, dim, part, likelihood or {})


def _built(
    layout: Layout,
    dim: int,
    part: Any,
    likelihood: str | Mapping[str, str],
    *,
    prior: nn.Module | None = None,
    continuous: Any = _NORMAL,
) -> Build:
    """Codes of a part that learns before the first epoch, and a linear readout fitted to them.

    What such a part expects of continuous values is the model already: there the readout stays as it is.
    """
    chosen = _heads(layout, part.modalities, likelihood, continuous)
    decoder = Linear(layout, {"cell": dim}, heads=chosen)
    for m in part.modalities:
        if layout.modalities[m].kind == "continuous":
            decoder.readout.outputs[m].requires_grad_(requires_grad=False)
            decoder.readout.heads[m].requires_grad_(requires_grad=False)
    model = LatentModel({"cell": Latent(part, prior or StandardNormal(dim))}, decoder)
    plan = Plan(events=(centre_decoder(), learn_factors())).with_steps(_STEPS, n_cells=layout.n_cells)
    if not any(p.requires_grad for p in model.parameters()):
        plan = replace(plan, epochs=1)
    return Build(model, Objective(reconstruction()), plan)


def _heads(
    layout: Layout, modalities: Sequence[str], likelihood: str | Mapping[str, str], continuous: Any
) -> dict[str, Any]:
    """The head of each modality: what was asked of it, or of all counts; else what its values ask for."""
    binary = "bernoulli" if isinstance(likelihood, str) else "accessibility"
    counts = likelihood if isinstance(likelihood, str) else "nb"
    named = {} if isinstance(likelihood, str) else likelihood
    if unknown := [name for name in named if name not in modalities]:
        msg = (
            f"Expected likelihoods of the modalities {listing(modalities)}; found one of {listing(unknown)}. "
            "Name one that was read."
        )
        raise InputError(msg)
    usual = {"counts": heads[counts], "binary": heads[binary], "continuous": continuous}
    return {m: heads[named[m]] if m in named else usual[layout.modalities[m].kind] for m in modalities}
