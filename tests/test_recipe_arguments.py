"""Arguments of recipes that do not exist here: what they are called, and where they belong."""

from __future__ import annotations

import pytest

import chreode as ch
from chreode.errors import InputError
from chreode.recipe import named, parse, registry

CALLED = {
    "n_latent": "dim",
    "latent_dim": "dim",
    "n_hidden": "hidden",
    "hidden_dims": "hidden",
    "n_components": "components",
    "n_clusters": "components",
    "gene_likelihood": "likelihood",
    "lr": "code_lr",
}
ELSEWHERE = {
    "batch_key": r"chreode\.read\(\.\.\., batch=\)",
    "labels_key": r"chreode\.read\(\.\.\., label=\)",
    "max_epochs": r"chreode\.fit\(\.\.\., epochs=\)",
    "n_epochs": r"chreode\.fit\(\.\.\., epochs=\)",
}


@pytest.mark.parametrize("name", CALLED)
def test_other_libraries_names_are_known(name: str) -> None:
    with pytest.raises(InputError, match=f"found '{name}'. It is called '{CALLED[name]}' here"):
        ch.recipes.scdgd(**{name: 10})


@pytest.mark.parametrize("name", ELSEWHERE)
def test_arguments_of_other_functions_are_sent_there(name: str) -> None:
    with pytest.raises(InputError, match=f"found '{name}'. Give {ELSEWHERE[name]}"):
        ch.recipes.scdgd(**{name: 10})


def test_an_argument_that_a_recipe_lacks_is_not_offered() -> None:
    with pytest.raises(InputError, match=r"found 'n_components'\. Give one of these"):
        ch.recipes.autodecoder(n_components=10)
    with pytest.raises(InputError, match="Did you mean 'hidden'"):
        ch.recipes.autodecoder(hiden=(10,))


def test_an_argument_without_a_default_is_asked_for() -> None:
    missing = (
        r"'background' for contrastivevi, .* found none\. Give background='ctrl', .*--set background=ctrl"
    )
    with pytest.raises(InputError, match=missing):
        ch.recipes.contrastivevi(dim=3)
    with pytest.raises(InputError, match=missing):
        named("contrastivevi")
    with pytest.raises(InputError, match=r"found 3: Input should be a valid string\. Give background='ctrl'"):
        ch.recipes.contrastivevi(background=3)


def test_one_name_stands_for_a_tuple_of_it() -> None:
    assert ch.recipes.patches(attributes="condition") == ch.recipes.patches(attributes=("condition",))
    assert ch.recipes.invae(batches="donor").arguments["batches"] == ("donor",)
    made = named("trvae", parse(["attributes=condition"]))
    assert made.arguments["attributes"] == ("condition",)
    with pytest.raises(InputError, match="valid tuple"):
        ch.recipes.patches(hidden="128")
    with pytest.raises(InputError, match="Expected a valid 'attributes'"):
        ch.recipes.patches(attributes=3)


def test_every_argument_has_a_meaning() -> None:
    for recipe in ("scdgd", "dgd", "autodecoder"):
        definition = registry[recipe]
        assert set(definition.meanings) == set(definition.defaults)
        assert all(text and "`" not in text for text in definition.meanings.values())
