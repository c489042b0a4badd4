"""A second implementation, of the fork choice and of finality: see second.py."""

import hashlib
from typing import Any

Case = dict[str, Any]


def _name(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()


class Tree:
    """A case's records by label."""

    def __init__(self, case: Case, rules: dict[str, int]) -> None:
        self.case, self.rules = case, rules
        self.rows = {row["record"]: row for row in case["records"]}
        self.votes: dict[int, tuple[int, str]] = {}
        for voter, round_, record in case["votes"]:
            if voter not in self.votes or round_ > self.votes[voter][0]:
                self.votes[voter] = (round_, record)

    def up(self, label: str) -> list[str]:
        """A record and its ancestors."""
        way = [label]
        while way[-1] != "genesis":
            way.append(self.rows[way[-1]]["parent"])
        return way

    def children(self, label: str) -> list[str]:
        return [
            r
            for r, row in self.rows.items()
            if row["parent"] == label and r not in self.case["unusable"]
        ]

    def members(self, label: str) -> set[int]:
        return set() if label == "genesis" else set(self.case["members"])

    def supporters(self, child: str, parent: str) -> set[int]:
        counting = self.members(parent) - set(self.case["equivocators"])
        return {v for v in counting if v in self.votes and child in self.up(self.votes[v][1])}

    def work(self, label: str) -> int:
        below = max((self.work(child) for child in self.children(label)), default=0)
        return int(self.rows[label]["contributions"]) + below

    def begin(self) -> str:
        if self.case["final"]:
            return str(self.case["final"])
        voters = set(self.votes) - set(self.case["equivocators"])
        ways = [self.up(self.votes[v][1]) for v in voters]
        return next(r for r in self.up(self.case["head_before"]) if all(r in w for w in ways))

    def choose(self) -> str:
        at = self.begin()
        while (below := self._best(at)) is not None:
            at = below
        return at

    def _best(self, p: str) -> str | None:
        children, members = self.children(p), self.members(p)
        if not children:
            return None
        way = self.up(self.case["head_before"])
        is_built_on = p in way and way.index(p) >= self.rules["final_min_records"]
        has_peers = len(self.members(way[0])) >= self.rules["final_min_peers"]
        if not members and is_built_on and has_peers:
            return way[way.index(p) - 1]
        support = {c: len(self.supporters(c, p)) for c in children}
        most = max(support.values())
        best = [c for c in children if support[c] == most]
        if most == 0:
            best = [c for c in best if not self._prefers(p, c)]
        if len(best) < 2:
            return best[0] if best else None
        if any(self.children(c) for c in best):
            return min(best, key=lambda c: (-self.work(c), self.rows[c]["rank"], _name(c)))
        uncovered = self.case["uncovered"]
        return min(best, key=lambda c: (c in uncovered, self.rows[c]["rank"], _name(c)))

    def _prefers(self, p: str, child: str) -> bool:
        after = int(self.rows[child]["round"] + self.case["overlap_rounds"])
        stay = self.members(p) - set(self.case["equivocators"])
        stay = {v for v in stay if v in self.votes and self.votes[v][1] == p}
        return 2 * sum(self.votes[v][0] > after for v in stay) > len(self.members(p))


def find_final(case: Case, rules: dict[str, int]) -> int | None:
    """Of a chain without forks, where record h has height h."""
    head = int(case["head"])
    members, voters = set(case["members"]), {*case["members"], *case["former_members"]}
    committee, size = voters, len(voters)
    due = [case["due"].get(str(r)) for r in range(head - 8, head)]
    if 0 < case["contributors"] < len(members) and None not in due:
        committee = members & {n for names in due for n in names}
        size = -(-len(committee) * len(voters) // len(members))
    needed = max(-(-2 * size // 3), rules["final_min_peers"])
    stands = {v: int(r) for v, _, r in case["votes"] if v not in case["equivocators"]}
    for c in range(head, 0, -1):
        if sum(stands.get(v, 0) >= c for v in committee) >= needed:
            final = min(c - 1, head - rules["final_depth"])
            return final if final >= rules["final_min_records"] else None
    return None
