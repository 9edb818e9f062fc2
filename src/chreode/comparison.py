"""What a comparison found: a table with spread, paired intervals, and who wins for a purpose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from chreode.errors import InputError
from chreode.evaluate import ari
from chreode.evaluate.paired import interval
from chreode.words import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["NOISE", "PURPOSES", "Comparison", "Purpose", "Result", "Verdict"]

Result = tuple[dict[str, Any], dict[str, np.ndarray]]
"""Facts of a run as JSON values, and its arrays."""


@dataclass(frozen=True)
class Purpose:
    """What a recipe may be wanted for.

    Parameters
    ----------
    scores
        What judges it: the first of them that the data allow.
    needs
        What there must be for any.
    by_label
        Whether the label judges, so that a recipe which was taught the label cannot win.
    """

    scores: tuple[str, ...]
    needs: str
    by_label: bool


PURPOSES = {
    "reconstruction": Purpose(("gain", "nats_per_value"), "held-out molecules", by_label=False),
    "clustering": Purpose(("clustering",), "a label of two levels or more", by_label=True),
    "integration": Purpose(
        ("integration",), "a label and a batch, each of two levels or more", by_label=True
    ),
}
NOISE = (
    "± is the standard deviation of one recipe over its seeds. A verdict's interval is Student's, of the "
    "paired difference of two over seeds and parts of the cells: cells can leave within noise what seeds "
    "tell apart."
)
LOWER = frozenset({"nats_per_molecule", "nats_per_value", "batch_accuracy"})


@dataclass(frozen=True)
class Verdict:
    """Who wins for a purpose.

    Parameters
    ----------
    purpose, score
        What for, and by which score.
    leader
        The best mean; empty when nothing was scored.
    tied
        Those whose difference from the leader is within noise.
    excluded
        Those that cannot be judged, since they were taught the label.
    sentence
        All of it in words.
    """

    purpose: str
    score: str
    leader: str
    tied: tuple[str, ...]
    excluded: tuple[str, ...]
    sentence: str

    @property
    def winner(self) -> str | None:
        """The leader, where every other is behind by more than noise; else None."""
        return self.leader if self.leader and not self.tied else None


class Comparison:
    """The results of several recipes on the same cells; made by `chreode.compare`.

    Parameters
    ----------
    results
        Facts and arrays of each run, in the order of the recipes.
    purposes
        What winners are asked for.
    data
        What is known of the cells: ``source``, ``cells``, ``label``, ``batch``, ...
    """

    def __init__(
        self, results: Sequence[Result], *, purposes: Sequence[str], data: Mapping[str, Any]
    ) -> None:
        self.results, self.purposes, self.data = list(results), tuple(purposes), dict(data)

    def __repr__(self) -> str:
        failed = sum(bool(facts.get("error")) for facts, _ in self.results)
        return f"Comparison({_and(self.names)}; {len(self.results)} runs, {failed} failed)"

    @property
    def names(self) -> list[str]:
        """Recipes and embeddings, as asked for."""
        return list(dict.fromkeys(facts["trial"]["name"] for facts, _ in self.results))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run: what was fitted, why it failed if it did, every score, time and memory."""
        import pandas as pd

        rows = []
        for facts, _ in self.results:
            trial = facts["trial"]
            of = {"recipe": trial["name"], "seed": trial["seed"] if trial["recipe"] else pd.NA}
            of |= {"cells": "subset" if trial["subset"] else "all", "failed": facts.get("error", "")}
            costs = {name: facts.get(name) for name in ("seconds", "memory", "epochs", "dimensions")}
            rows.append({**of, **facts.get("scores", {}), **costs})
        frame = pd.DataFrame(rows)
        return frame.astype({"seed": "Int64"} | dict.fromkeys(frame.columns[4:], float))

    def _scored(self, name: str) -> list[dict[str, Any]]:
        """Facts of the finished runs on all cells."""
        return [
            facts
            for facts, _ in self.results
            if facts["trial"]["name"] == name and not facts["trial"]["subset"] and not facts.get("error")
        ]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a recipe: the mean of every score over the seeds, and ``_sd``, its standard deviation."""
        import pandas as pd

        rows: dict[str, Any] = {}
        whole: Any = self.runs[self.runs["cells"] == "all"]
        scores = [c for c in whole.columns[4:] if whole[c].notna().any()]
        for name in self.names:
            mine = whole[whole["recipe"] == name]
            done = mine[mine["failed"] == ""]
            row: dict[str, Any] = {"runs": len(done)}
            for score in scores:
                row[score], row[f"{score}_sd"] = done[score].mean(), done[score].std(ddof=1)
            row |= self.stability(name)
            every = self.runs.loc[self.runs["recipe"] == name, "failed"]
            row["failed"] = "; ".join(dict.fromkeys(reason for reason in every if reason))
            rows[name] = row
        frame: Any = pd.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")
        return frame[[c for c in frame.columns if c != "failed"] + ["failed"]]

    def stability(self, name: str) -> dict[str, float]:
        """How well the fits of a recipe agree with each other, on the same cells.

        Parameters
        ----------
        name
            Of the recipe.

        Returns
        -------
        Means over the pairs of fits: ``seeds_clusters`` and ``subset_clusters``, the adjusted Rand index of
        their Leiden clusters, between seeds, and between the fits of all cells and of a subset;
        ``seeds_neighbours`` and ``subset_neighbours``, the share of a cell's 15 nearest that both find;
        ``seeds_components`` and ``subset_components``, the adjusted Rand index of the models' own components,
        where they have some. What has no pair is left out.
        """
        mine = [
            (facts, arrays)
            for facts, arrays in self.results
            if facts["trial"]["name"] == name and not facts.get("error")
        ]
        whole = [arrays for facts, arrays in mine if not facts["trial"]["subset"]]
        some = [arrays for facts, arrays in mine if facts["trial"]["subset"]]
        pairs = {"seeds": list(combinations(whole, 2)), "subset": [(a, b) for a in whole for b in some]}
        found = {}
        for between, of in pairs.items():
            for what, agree in {"clusters": ari, "neighbours": _overlap, "components": ari}.items():
                values = [agree(a[what], b[what]) for a, b in of if what in a and what in b]
                if values:
                    found[f"{between}_{what}"] = float(np.mean(values))
        return found

    def score_of(self, purpose: str) -> str | None:
        """The score that judges a purpose, or a score of this name; None where no run has it.

        Raises
        ------
        InputError
            For a name that is neither.
        """
        scores = PURPOSES[purpose].scores if purpose in PURPOSES else (purpose,)
        there = [score for score in scores if any(score in f.get("parts", {}) for f, _ in self.results)]
        if there or purpose in PURPOSES:
            return there[0] if there else None
        known = list(dict.fromkeys(score for f, _ in self.results for score in f.get("parts", {})))
        msg = f"Expected a purpose ({', '.join(PURPOSES)}) or a score; found {purpose!r}."
        raise InputError(msg + nearest(purpose, known) + " See comparison.runs.columns.")

    def differences(self, purpose: str) -> pd.DataFrame:
        """Paired differences between recipes, with 95 % intervals over seeds and cells.

        Parameters
        ----------
        purpose
            ``reconstruction``, ``clustering``, ``integration``, or the name of a score.

        Returns
        -------
        A row for each pair, the better of them first: ``recipe``, ``against``, ``difference`` (above 0: the
        first is better), ``low``, ``high`` (missing where one seed says nothing of noise), ``seeds``
        compared, and whether the difference is ``within_noise``. See `chreode.evaluate.paired.interval`.
        """
        import pandas as pd

        columns = ["recipe", "against", "difference", "low", "high", "seeds", "within_noise"]
        score = self.score_of(purpose)
        if score is None:
            return pd.DataFrame(columns=pd.Index(columns))
        rows = []
        for a, b in combinations(self._ranked(score), 2):
            pairs = _paired(self._scored(a), self._scored(b), score)
            if not pairs:
                continue
            sign = -1.0 if score in LOWER else 1.0
            fixed = all(f["trial"]["recipe"] is None for f in (*self._scored(a), *self._scored(b)))
            by_seed = sign * np.array([x["scores"][score] - y["scores"][score] for x, y in pairs])
            by_part = sign * np.array(
                [np.subtract(x["parts"][score], y["parts"][score]) for x, y in pairs], dtype=float
            )
            difference, low, high = interval(by_seed, by_part, repeatable=fixed)
            within = not (low > 0 or high < 0)
            rows.append([a, b, difference, low, high, len(pairs), within])
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def _ranked(self, score: str) -> list[str]:
        """Those that have a score, the best mean first."""
        means = {
            name: np.mean([f["scores"][score] for f in self._scored(name) if score in f["scores"]])
            for name in self.names
            if any(score in f["scores"] for f in self._scored(name))
        }
        return sorted(means, key=lambda name: means[name], reverse=score not in LOWER)

    def winner(self, purpose: str) -> Verdict:
        """Who wins for a purpose.

        Parameters
        ----------
        purpose
            ``reconstruction``, ``clustering`` or ``integration``.

        Returns
        -------
        The best mean wins where the interval of its difference from every other excludes 0; else there is no
        winner, and ``tied`` names those within noise of the leader.
        """
        if purpose not in PURPOSES:
            msg = f"Expected a purpose ({', '.join(PURPOSES)}); found {purpose!r}. Name one of these."
            raise InputError(msg)
        score, wanted = self.score_of(purpose), PURPOSES[purpose]
        if score is None:
            return Verdict(
                purpose, "", "", (), (), f"For {purpose} nothing could be scored: it needs {wanted.needs}."
            )
        ranked = self._ranked(score)
        taught = [n for n in ranked if wanted.by_label and any(f.get("taught") for f in self._scored(n))]
        ranked = [name for name in ranked if name not in taught]
        aside = f" {_and(taught)} saw the label, which cannot judge what was taught it." if taught else ""
        if not ranked:
            return Verdict(
                purpose, score, "", (), tuple(taught), f"For {purpose} nothing can be judged.{aside}"
            )
        rows: Any = self.differences(purpose)
        rows = rows[(rows["recipe"] == ranked[0]) & rows["against"].isin(ranked)]
        ahead = set(rows.loc[rows["low"] > 0, "against"])
        tied = tuple(name for name in ranked[1:] if name not in ahead)
        words = _sentence(purpose, ranked, rows, tied=tied)
        return Verdict(purpose, score, ranked[0], tied, tuple(taught), words + aside)

    @property
    def verdicts(self) -> list[Verdict]:
        """Of every purpose asked for."""
        return [self.winner(purpose) for purpose in self.purposes]


def _and(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _sentence(purpose: str, ranked: Sequence[str], rows: pd.DataFrame, *, tied: Sequence[str]) -> str:
    best, *others = ranked
    if not others:
        return f"For {purpose} only {best} was scored."
    near = rows.iloc[int(np.argmin(rows["difference"]))] if len(rows) else None
    if near is not None and np.isnan(near["low"]):
        why = "parts of so few cells cannot tell a difference from noise: compare on more cells."
        if near["seeds"] < 2:
            why = "a single seed cannot tell a difference from noise: compare with 2 seeds or more."
        return f"For {purpose} {best} leads {near['against']} by {near['difference']:.2g}, but {why}"
    if not tied and near is not None:
        return f"For {purpose} {best} wins: it is ahead of {near['against']}, the next, by {_within(near)}."
    behind = [name for name in others if name not in tied]
    words = f"For {purpose} there is no winner: {best} leads, within noise of {_and(tied)}"
    closest = rows[rows["against"].isin(tied)]
    if len(closest):
        first = closest.iloc[0]
        words += f" (ahead{'' if len(tied) == 1 else f' of {first.against}'} by {_within(first)})"
    return f"{words}; behind by more than noise: {_and(behind)}." if behind else f"{words}."


def _within(row: Any) -> str:
    """A difference with its interval; an end near zero keeps its sign."""
    difference, low, high = (f"{row[k]:.2g}" for k in ("difference", "low", "high"))
    return f"{difference}, 95 % interval {low} to {high}"


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share of each cell's neighbours that two searches both found."""
    n = len(a)
    left, right = (rows + n * np.arange(n)[:, None] for rows in (a.astype(np.int64), b.astype(np.int64)))
    return float(np.isin(left, right).mean())


def _paired(
    a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]], score: str
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Runs of the same seed; an embedding that was given has no seed and goes with every one."""
    of_a, of_b = ([f for f in runs if score in f["scores"]] for runs in (a, b))
    return [
        (x, y)
        for x in of_a
        for y in of_b
        if x["trial"]["recipe"] is None
        or y["trial"]["recipe"] is None
        or x["trial"]["seed"] == y["trial"]["seed"]
    ]
