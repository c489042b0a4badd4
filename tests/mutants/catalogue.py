"""The mutations: those that PROTOCOL.md lists, then our own. Each is a likely mistake."""

from tests.mutants.mutation import Mutation

ADVANCE = "protocol/demo_protocol/advance.py"
ASTRAY = "protocol/demo_protocol/astray.py"
COMMON_TIME = "protocol/demo_protocol/common_time.py"
FINALITY = "protocol/demo_protocol/finality.py"
FORKCHOICE = "protocol/demo_protocol/forkchoice.py"
PROPOSE = "protocol/demo_protocol/propose.py"
RECONCILE = "protocol/demo_protocol/reconcile.py"
REPLICA = "protocol/demo_protocol/replica.py"
ROSTER = "protocol/demo_protocol/roster.py"
ROUND = "protocol/demo_protocol/round.py"
SENT = "protocol/demo_protocol/sent.py"
VIEW = "protocol/demo_protocol/view.py"
FRAMES = "node/demo_node/store/frames.py"
JOURNAL = "node/demo_node/store/journal.py"

LISTED = (
    Mutation(
        name="voters-are-members",
        rule="7: who expired on the other side of a cut still counts where something is final",
        file=ROSTER,
        old="        derived.voters = derived.members | former\n",
        new="        derived.voters = derived.members\n",
        scenario="halves",
    ),
    Mutation(
        name="order-seeded-by-parent",
        rule="11: nothing that a proposer writes decides who proposes next",
        file=ROSTER,
        old="key=lambda p: (compute_rank_hash(known[p].key, round_), p)",
        new="key=lambda p: (compute_rank_hash(state.record + known[p].key, round_), p)",
        scenario="grinders",
    ),
    Mutation(
        name="all-is-usable",
        rule="16: a record whose payloads are withheld is nobody's head",
        file=VIEW,
        old="        if not step.payloads <= held:\n            self.lacking",
        new="        if False:\n            self.lacking",
        scenario="withholders",
    ),
    Mutation(
        name="all-is-covered",
        rule="17: a record that leaves most contributions out is nobody's choice",
        file=VIEW,
        old="        return 2 * sum(held in listed for held in mine) >= len(mine)\n",
        new="        return True\n",
        scenario="censors",
    ),
    Mutation(
        name="anything-that-came-will-do",
        rule="12: a later slot steps in where what came is not covered",
        file=PROPOSE,
        old="        record.round == view.round and view.is_usable(record.hash)"
        " and view.is_covered(record)\n",
        new="        record.round == view.round\n",
        scenario="censors",
    ),
    Mutation(
        name="expire-by-records",
        rule="7: members expire by rounds, or a run most of which vanished stands still",
        file=ADVANCE,
        old="turns = parent.turns + (proposal.round - parent.round) * per_round",
        new="turns = parent.turns + per_round",
        scenario="vanish",
    ),
    Mutation(
        name="votes-expire",
        rule="18: votes do not expire, or nobody comes to the chain that a majority made final",
        file=FORKCHOICE,
        old="    away, records = votes.equivocators.keys(), chain.records\n",
        new="    newest = max((r for r, _ in votes.newest.values()), default=0)\n"
        "    away = {p for p, (r, _) in votes.newest.items() if r < newest - 6}\n"
        "    away, records = votes.equivocators.keys() | away, chain.records\n",
        scenario="survivors",
    ),
    Mutation(
        name="one-peer-is-enough",
        rule="19: final_min_peers 1 lets a lone node finish a run for itself",
        file=FINALITY,
        old="max(-(-2 * committee.size // 3), agreement.final_min_peers)",
        new="max(-(-2 * committee.size // 3), 1)",
        scenario="lone",
    ),
    Mutation(
        name="no-probation",
        rule="6: who never contributed is no member",
        file=ADVANCE,
        old="is_candidate(m) and m.included >= agreement.probation]",
        new="is_candidate(m)]",
        scenario="sybils",
    ),
)
"""Named at the end of PROTOCOL.md section 3."""

OWN = (
    # --- replay ---
    Mutation(
        name="payloads-in-ones-own-order",
        rule="T6: a record's payloads are combined in the order in which it lists them",
        file=REPLICA,
        old="        payloads = tuple(h.body.payload_hash for h in step.contributions"
        " if h.body.k)\n",
        new="        listed = (h.body.payload_hash for h in step.contributions if h.body.k)\n"
        "        mine = int.from_bytes(view.me, 'big')\n"
        "        payloads = tuple(sorted(listed, key=lambda p: int.from_bytes(p, 'big') ^ mine))\n",
        scenario="deaths",
    ),
    Mutation(
        name="replay-skips-records",
        rule="16: one state after the other",
        file=REPLICA,
        old="        step = view.chain.path(held, target)[0]\n",
        new="        step = view.chain.path(held, target)[-1]\n",
        scenario="deaths",
    ),
    Mutation(
        name="digest-of-the-head",
        rule="9: a header says the digest of the state that it trained from",
        file=ROUND,
        old="            digest=view.digests[done.base],\n",
        new="            digest=view.digests[view.head],\n",
        scenario="overlap",
    ),
    Mutation(
        name="samples-dealt-again",
        rule="T5: every record's samples begin where its parent's end",
        file=ADVANCE,
        old="        cursor=_advance_cursor(parent, proposal.round, manifest),\n",
        new="        cursor=parent.cursor,\n",
        scenario="deaths",
    ),
    # --- crediting ---
    Mutation(
        name="late-headers-are-lost",
        rule="8: late headers keep a member alive",
        file=PROPOSE,
        old="        late=_sorted(late),\n",
        new="        late=(),\n",
        scenario="late",
    ),
    Mutation(
        name="credited-again",
        rule="8: a header is credited at most once on one chain",
        file=ADVANCE,
        old="    credits = {c for c in parent.credits"
        " if c[0] > proposal.round - agreement.late_rounds}\n",
        new="    credits = set[tuple[int, bytes]]()\n",
        scenario="late",
    ),
    Mutation(
        name="proposer-forgets-credits",
        rule="8: what an honest node proposes is valid",
        file=PROPOSE,
        old="        if (round_, header.body.peer) not in parent.credits\n        and",
        new="        if",
        scenario="late",
    ),
    Mutation(
        name="every-round-is-a-turn",
        rule="7: who is drawn seldom expires by its own turns",
        file=ADVANCE,
        old="    return TURN * agreement.contributors // members\n",
        new="    return TURN\n",
        scenario="drawn",
    ),
    Mutation(
        name="slots-of-the-dead",
        rule="12: with every round without a record twice as many have a slot",
        file=ROSTER,
        old="    skipped = min(round_ - state.round - 1, 64)\n",
        new="    skipped = 0\n",
        scenario="vanish",
    ),
    # --- retention ---
    Mutation(
        name="pruned-too-early",
        rule="25: records are kept for forget_rounds while nothing is final",
        file=REPLICA,
        old="            window = max(agreement.forget_rounds, agreement.payload_window_rounds)\n",
        new="            window = agreement.late_rounds\n",
        scenario="long-cut",
    ),
    Mutation(
        name="no-way-back",
        rule="16, 25: what cannot be replayed any more is leapt over",
        file=ASTRAY,
        old="    return [leap] if leap else []\n",
        new="    return []\n",
        scenario="long-cut",
    ),
    Mutation(
        name="nothing-is-added-back",
        rule="24: what no record lists goes back into the residual",
        file=SENT,
        old="Release(round_) if counted else Restore(round_)",
        new="Release(round_)",
        scenario="lossy",
    ),
    # --- clock ---
    Mutation(
        name="clock-the-wrong-way",
        rule="3: a clock that is ahead is set back",
        file=COMMON_TIME,
        old="    return current_ms if distance_ms <= max(tolerance_ms, median.error_ms)"
        " else median.ahead_ms\n",
        new="    return current_ms if distance_ms <= max(tolerance_ms, median.error_ms)"
        " else 2 * current_ms - median.ahead_ms\n",
        scenario="clocks",
    ),
    Mutation(
        name="clock-of-the-fastest",
        rule="3: the median, or one wrong clock moves everybody's",
        file=COMMON_TIME,
        old="    return clocks[(len(clocks) - 1) // 2]\n",
        new="    return clocks[-1]\n",
        scenario="clocks",
    ),
    Mutation(
        name="clock-of-nobody",
        rule="3: clocks are corrected at all",
        file=COMMON_TIME,
        old="    if len(peers) < PEERS_MIN:\n        return None\n",
        new="    return None\n",
        scenario="clocks",
    ),
    # --- store order ---
    Mutation(
        name="announced-before-written",
        rule="10: on disk before it is sent",
        file=ROUND,
        old="            Persist(Kind.HEADER, header.round, sealed.hash, sealed.raw),\n"
        "            Announce(Kind.HEADER, sealed.raw),\n",
        new="            Announce(Kind.HEADER, sealed.raw),\n"
        "            Persist(Kind.HEADER, header.round, sealed.hash, sealed.raw),\n",
        scenario="same-round",
    ),
    Mutation(
        name="written-but-not-synced",
        rule="10: on the device before it is sent",
        file=JOURNAL,
        old="                self._writable().sync()\n",
        new="                self._writable()\n",
        scenario="same-round",
    ),
    Mutation(
        name="signed-log-is-not-asked",
        rule="10: nothing is signed for rounds of an earlier life",
        file=ROUND,
        old="        self.announced_round = self.signed_until.get(Kind.HEADER, -1)\n",
        new="        self.announced_round = -1\n",
        scenario="same-round",
    ),
    Mutation(
        name="torn-entries-are-read",
        rule="10, 25: of a log only whole entries count",
        file=FRAMES,
        old="    return payload if frame == compute_frame(position, payload) else None\n",
        new="    return payload\n",
        scenario="deaths",
    ),
    # --- agreement ---
    Mutation(
        name="leavers-stay",
        rule="7: who left is no member and no voter",
        file=ROSTER,
        old="        and not member.left\n        and state.turns",
        new="        and state.turns",
        scenario="leavers",
    ),
    Mutation(
        name="settle-is-not-awaited",
        rule="18: a record is chosen when the propose phase is over",
        file=REPLICA,
        old="            if view.chain[record].round >= view.round and not settles:\n"
        "                return False\n",
        new="",
        scenario="censors",
    ),
    Mutation(
        name="half-is-enough",
        rule="19: two thirds of the voters, so that two such sides share an honest one",
        file=FINALITY,
        old="-(-2 * committee.size // 3)",
        new="-(-committee.size // 2)",
        scenario="halves",
    ),
    Mutation(
        name="committee-of-this-side",
        rule="19: where contributors are drawn, voters of the other side of a cut count as well",
        file=ROSTER,
        old="    return Committee(peers, -(-len(peers) * len(voters) // len(members)))\n",
        new="    return Committee(peers, len(peers))\n",
        scenario="halves-drawn",
    ),
    Mutation(
        name="evidence-is-ignored",
        rule="26: who signs twice is removed",
        file=PROPOSE,
        old="    offences = _choose_offences(view)\n",
        new="    offences: list[Offence] = []\n",
        scenario="equivocators",
    ),
    Mutation(
        name="first-come-first-chosen",
        rule="18: ties are broken alike everywhere",
        file=FORKCHOICE,
        old="    return min(tied, key=lambda c: (not choice.covered(c), c.rank, c.hash))\n",
        new="    return tied[0]\n",
        scenario="censors",
    ),
    Mutation(
        name="nobody-compares",
        rule="23: gossip alone is not enough",
        file=RECONCILE,
        old="    lacking, holders = find_lacking(view, event.difference), (event.sender,)\n",
        new="    lacking, holders = Lacking((), {}), (event.sender,)\n",
        scenario="lossy",
    ),
)
"""Our own."""

MUTATIONS = LISTED + OWN
