"""Scenario files: each key, and every error."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.sim.scenario import (
    FILE_BYTES_MAX,
    LIES,
    REQUIRED,
    Do,
    Event,
    Expect,
    Links,
    Mix,
    Scenario,
    churn,
    parse_scenario,
    read_scenario,
    standard_mix,
)
from demo_node.sim.scenario_keys import format_keys_table, get_keys, read_table
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Agreement

ROOT = Path(__file__).parents[2]

TABLES = {"": Scenario, "links": Links, "mix": Mix, "expect": Expect, "event": Event}

GOOD: dict[str, dict[str, tuple[str, Any]]] = {
    "": {
        "name": ('"cut and heal"', "cut and heal"),
        "nodes": ("12", 12),
        "rounds": ("400", 400),
        "seed": ("4294967295", 2**32 - 1),
        "round_seconds": ("2.5", 2.5),
        "contributors": ("0", 0),
        "learner": ('"real"', "real"),
        "from_genesis": ("true", True),
    },
    "links": {
        "latency_ms": ("0", 0.0),
        "jitter_ms": ("7.5", 7.5),
        "loss": ("1", 1.0),
        "duplicate": ("0.25", 0.25),
        "reorder": ("1e-3", 0.001),
        "up_mbit": ("0.5", 0.5),
        "down_mbit": ("1000", 1000.0),
    },
    "expect": {
        "records": ("0.95", 0.95),
        "included": ("0.9", 0.9),
        "by_liars": ("0.4", 0.4),
        "members": ("10", 10),
        "final_lag": ("8", 8),
        "clock_ms": ("500", 500),
    },
    "mix": {
        "leave": ("0.1", 0.1),
        "crash": ("0.1", 0.1),
        "power_cut": ("0.1", 0.1),
        "return_after": ("[2, 2]", (2, 2)),
        "join": ("0.1", 0.1),
        "cut": ("0.1", 0.1),
        "cut_rounds": ("[1, 30]", (1, 30)),
        "slow": ("0.1", 0.1),
        "clock_ms": ("2000", 2000.0),
        "drift_ppm": ("50", 50.0),
        "wrong_clock": ("0.1", 0.1),
        "full_disk": ("0.1", 0.1),
        "trainer_dies": ("0.1", 0.1),
        "mass_leave": ("0.1", 0.1),
        "withhold": ("0.1", 0.1),
        "liars": ("0.3", 0.3),
        "liar_kinds": ('["grind", "censor"]', ("grind", "censor")),
    },
    "event": {
        "do": ('"power_cut"', Do.POWER_CUT),
        "round": ("7", 7),
        "at": ("0.5", 0.5),
        "every": ("2", 2),
        "until": ("9", 9),
        "rounds": ("1.5", 1.5),
        "nodes": ("[3, 1]", (3, 1)),
        "count": ("2", 2),
        "share": ("0.5", 0.5),
        "sides": ("[[0], [2, 1]]", ((0,), (2, 1))),
        "one_way": ("true", True),
        "ms": ("-500", -500),
        "factor": ("2.5", 2.5),
        "how": ('"equivocate"', "equivocate"),
    },
}
"""Of every key a value as the file has it, and as we have it."""

COMPANIONS = {
    "until": ["every = 2"],
    "sides": ['do = "cut"'],
    "one_way": ['do = "cut"'],
    "ms": ['do = "clock"'],
    "factor": ['do = "slow"'],
    "how": ['do = "lie"'],
}
"""Keys that only go with others."""

STRANGE = [
    "-1000000001",
    "1e99",
    "nan",
    "inf",
    '"x\\ny"',
    '""',
    "[[0], [0]]",
    "[[0, 1]]",
    "[[], [1]]",
    "[[0], [1], [2]]",
    "[1, 1]",
    "[-1]",
    "[2, 1]",
    "[true, 3]",
    "[1.5, 2]",
    '["grind", "grind"]',
    '["bribe"]',
    "{}",
    "{a = 1}",
    "2026-11-21",
    "true",
]
"""Of which no key takes but a few."""

EACH_KEY = [(table, key) for table in TABLES for key in get_keys(TABLES[table])]


def write(table: str, key: str, raw: str) -> str:
    """A file with one key, and what goes with it."""
    lines = [f"{key} = {raw}", *COMPANIONS.get(key if table == "event" else "", [])]
    if table == "event":
        given = {line.split(" ")[0] for line in lines}
        lines += [f"{name} = {GOOD['event'][name][0]}" for name in REQUIRED if name not in given]
    head = {"": "", "event": "[[event]]"}.get(table, f"[{table}]")
    return "\n".join([head, *lines])


def find_fault(work: Callable[..., object], *arguments: object) -> str:
    """What a ValueError says; nothing where there is none."""
    try:
        work(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def get(scenario: Scenario, table: str, key: str) -> object:
    owner = {
        "": scenario,
        "links": scenario.links,
        "mix": scenario.mix,
        "expect": scenario.expect,
    }.get(table)
    return getattr(scenario.events[0] if owner is None else owner, key)


def test_the_lists_above_are_complete() -> None:
    assert {(table, key) for table, keys in GOOD.items() for key in keys} == set(EACH_KEY)


@pytest.mark.parametrize(("table", "key"), EACH_KEY)
def test_every_key_is_read(table: str, key: str) -> None:
    raw, value = GOOD[table][key]
    found = get(parse_scenario(write(table, key, raw)), table, key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("table", "key"), EACH_KEY)
def test_a_bad_value_is_one_line_with_the_key_and_what_is_wanted(table: str, key: str) -> None:
    wanted = get_keys(TABLES[table])[key].wanted
    where = {"": key, "event": f"event 1: {key}"}.get(table, f"{table}.{key}")
    sources = [write(table, key, raw) for raw in STRANGE]
    faults = [find_fault(parse_scenario, source) for source in sources]
    refused = [fault for fault in faults if fault]
    for fault in refused:
        assert fault.startswith(f"{where}: ")
        assert fault.endswith(f" is not {wanted}")
        assert "\n" not in fault
    assert len(refused) >= len(STRANGE) - 3


@pytest.mark.parametrize(("table", "key"), EACH_KEY)
def test_what_is_left_out_has_its_default(table: str, key: str) -> None:
    if (table, key) not in {("event", name) for name in REQUIRED}:
        empty = parse_scenario('[[event]]\ndo = "kill"\nround = 0')
        default = {field.name: field.default for field in fields(TABLES[table])}[key]
        assert get(empty, table, key) == default


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("nods = 3", "unknown key nods; did you mean nodes?"),
        ("event = 3", "event is not a list of tables; write [[event]] above each one's keys"),
        ("[event]\nround = 1", "event is not a list of tables"),
        ("links = 3", "links is not a table; write [links] above its keys"),
        ("[links]\nlatency = 3", "unknown key links.latency; did you mean latency_ms?"),
        ("[mix]\nqqqq = 3", "unknown key mix.qqqq; there are leave, crash"),
        ("[[event]]\nround = 1", "event 1: do is missing"),
        ('[[event]]\nround=1\ndo="heal"\n[[event]]\ndo = "kill"', "event 2: round is missing"),
        ('[[event]]\nround=1\ndo="kil"', "event 1: do: 'kil' is not one of kill, power_cut"),
        ('[[event]]\nround=1\ndo="kill"\ncount=1\nshare=0.1', "event 1: count and share: give one"),
        ('[[event]]\nround=1\ndo="kill"\nsides=[[0],[1]]', "event 1: sides is for do = 'cut'"),
        ('[[event]]\nround=1\ndo="kill"\none_way=true', "event 1: one_way is for do = 'cut'"),
        ('[[event]]\nround=1\ndo="kill"\nms=5', "event 1: ms is for do = 'clock'"),
        ('[[event]]\nround=1\ndo="kill"\nfactor=5', "event 1: factor is for do = 'slow'"),
        ('[[event]]\nround=1\ndo="kill"\nhow="grind"', "event 1: how is for do = 'lie'"),
        ('[[event]]\nround=1\ndo="join"\nrounds=2', "event 1: rounds: join is not undone"),
        ('[[event]]\nround=1\ndo="join"\nnodes=[9]', "event 1: nodes: a new node gets the next"),
        ('[[event]]\nround=1\ndo="heal"\nnodes=[9]', "event 1: nodes: heal ends every cut"),
        ('[[event]]\nround=1\ndo="clock"', "event 1: ms is missing"),
        ('[[event]]\nround=1\ndo="lie"', "event 1: how is missing: one of equivocate"),
        ('[[event]]\nround=1\ndo="kill"\nuntil=9', "event 1: until is for events with every"),
        ("[agreement]\nfinal = 3", "unknown key agreement.final; did you mean final_depth?"),
        ('[agreement]\nfinal_depth = "3"', "agreement.final_depth: '3' is not a whole number"),
        ("[agreement]\nfinal_depth = true", "agreement.final_depth: True is not a whole number"),
        ("[agreement]\nadmission = 3", "agreement.admission: 3 is not a text"),
        ("[agreement]\ncontributors = 3", "agreement.contributors: write contributors above all"),
        ("nodes = ", "Invalid value (at"),
    ],
)
def test_what_does_not_go_together_is_said(source: str, line: str) -> None:
    fault = find_fault(parse_scenario, source)
    assert fault.startswith(line)
    assert "\n" not in fault


def test_a_long_wrong_value_is_not_repeated_whole() -> None:
    with pytest.raises(ValueError, match=r"^nodes: 'x{50,60}\.\.\. is not a whole number"):
        parse_scenario(f'nodes = "{"x" * 1000}"')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.sampled_from(EACH_KEY), VALUES)
def test_any_value_is_taken_or_refused_with_one_line(place: tuple[str, str], raw: object) -> None:
    table, key = place
    taken: list[object] = []
    fault = find_fault(
        lambda: taken.extend(read_table(TABLES[table], {key: raw}, "here ").values())
    )
    assert bool(fault) != bool(taken)
    if fault:
        assert fault.startswith(f"here {key}: ")
        assert "\n" not in fault
    for value in taken:
        assert not isinstance(value, float) or math.isfinite(value)
        assert hash(value) is not None  # frozen all the way down


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "No such file or directory; name a scenario file"),
        (b"\xff\xfe", "not text in UTF-8; save it as that"),
        (b"x" * (FILE_BYTES_MAX + 1), "bytes, this is no scenario file"),
        (b"a = " + b"[" * 100_000, "this is no scenario file"),
        (b"nodes = 0", "nodes: 0 is not a whole number from 1 to 100000"),
    ],
)
def test_a_file_that_is_none_is_the_operators_to_change(
    tmp_path: Path, content: bytes | None, line: str
) -> None:
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_scenario(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(line)
    assert caught.value.exit_code == 78


def test_a_folder_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory; name a scenario file"):
        read_scenario(tmp_path)


def test_the_agreement_differs_from_a_manifests_where_the_file_says_so() -> None:
    scenario = parse_scenario('contributors = 7\n[agreement]\nfinal_depth = 5\nadmission = "stamp"')
    default = Agreement()
    assert scenario.adjust(default) == replace(
        default, contributors=7, final_depth=5, admission="stamp"
    )
    assert parse_scenario("").adjust(default) == default


def test_the_standard_mix_has_every_fault_and_churn_is_balanced() -> None:
    mix = standard_mix().mix
    assert all(getattr(mix, f.name) for f in fields(Mix) if f.name != "withhold")
    assert mix.liar_kinds == LIES  # withheld payloads come from liars
    assert churn(0.05).mix.leave + churn(0.05).mix.crash == pytest.approx(0.05)
    assert replace(churn().mix, leave=0.0, crash=0.0, join=0.0) == Mix()


@pytest.mark.parametrize("path", sorted((ROOT / "tests/scenarios").glob("*.toml")), ids=str)
def test_every_file_kept_here_is_a_scenario_in_which_something_happens(path: Path) -> None:
    scenario = read_scenario(path)
    assert scenario.name
    is_quiet = not scenario.plan() and scenario.mix == Mix()
    assert is_quiet == (path.stem == "quiet")


def test_the_page_has_every_key_and_every_event() -> None:
    page = (ROOT / "docs/scenarios.md").read_text()
    for table in (Scenario, Links, Mix, Expect):
        assert format_keys_table(table) in page
    assert format_keys_table(Event, REQUIRED) in page
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    assert all(any(f"`{do}`" in cell for cell in cells) for do in Do)


def test_the_example_of_the_page_works() -> None:
    page = (ROOT / "docs/scenarios.md").read_text()
    source = page.split("```toml\n", 1)[1].split("```", 1)[0]
    plan = [(e.round, e.do) for e in parse_scenario(source).plan()]
    assert plan == [(5, Do.CUT), (12, Do.KILL), (14, Do.KILL), (16, Do.KILL)]
