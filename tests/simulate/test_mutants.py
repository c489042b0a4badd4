"""Mistakes that are planted into the sources: each still fits them, and cheap ones are caught.

All of them, fifty seeds each where it takes so many: `make mutants`.
"""

from pathlib import Path

import pytest

from demo_node.sim.scenario import read_scenario
from tests.mutants.catalogue import LISTED, MUTATIONS, OWN
from tests.mutants.mutation import ROOT, SCENARIOS, Mutation, copy_sources, play

CHEAP = ("digest-of-the-head", "credited-again", "nothing-is-added-back", "half-is-enough")
"""Those that one seed shows after a few rounds, each to another invariant."""


def get_named(name: str) -> Mutation:
    return next(mutation for mutation in MUTATIONS if mutation.name == name)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_the_sources_and_changes_a_program_that_runs(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    mutated = mutation.mutate(source)
    assert mutated != source
    compile(mutated, mutation.file, "exec")  # raises SyntaxError


def test_the_nine_of_the_protocol_are_there_and_enough_of_our_own() -> None:
    assert len(LISTED) == 9
    assert len(OWN) >= 20
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_every_scenario_is_read_and_used() -> None:
    used = {mutation.scenario for mutation in MUTATIONS}
    assert used == {path.stem for path in SCENARIOS.glob("*.toml")}
    for name in used:
        read_scenario(SCENARIOS / f"{name}.toml")


@pytest.mark.parametrize("name", CHEAP)
def test_a_cheap_one_is_caught_and_nothing_is_without_it(name: str, tmp_path: Path) -> None:
    mutation = get_named(name)
    assert play(ROOT, mutation.scenario, seed=0) == ""
    copy_sources(tmp_path)
    mutation.plant(tmp_path)
    how = play(tmp_path, mutation.scenario, seed=0)
    assert how.startswith("round ")  # not the last line of a traceback


def test_a_text_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    path = tmp_path / MUTATIONS[0].file
    path.write_text(path.read_text().replace(MUTATIONS[0].old, ""))
    with pytest.raises(ValueError, match=f"{MUTATIONS[0].name}: .* has the text 0 times, not once"):
        MUTATIONS[0].plant(tmp_path)
