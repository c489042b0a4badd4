"""What a node asks of the chain: to be let in, or out (rules 6, 7 and 26)."""

from dataclasses import dataclass, field, replace

from demo_protocol.admission import compute_hour
from demo_protocol.effects import Announce, Effect, MakeStamp
from demo_protocol.events import StampMade
from demo_protocol.identity import Kind, compute_stamp_seed
from demo_protocol.messages import Membership, seal_membership
from demo_protocol.roster import count_offered_places
from demo_protocol.validate import is_wish_usable
from demo_protocol.view import View


@dataclass(slots=True)
class Asking:
    """It is said in every round, until the chain says so too; where a join wants a stamp, with one.

    What was `said` counts for L rounds more. Where the newest record had no place left for a join,
    that is waited for: else a crowd that nobody can let in would cost everybody a message each, in
    every round. A stamp is made once an hour at most, and only while the node is not in.
    """

    view: View
    ordered_hour: int = field(init=False, default=-1)
    stamp: StampMade | None = field(init=False, default=None)
    said: Membership | None = field(init=False, default=None)

    def ask(self, round_: int, *, leaving: bool, never_drawn: bool) -> list[Effect]:
        """Say what the chain does not say of us yet. Who is removed asks in vain, and waits."""
        view = self.view
        known = view.head_state.known.get(view.me)
        if known is None or known.left:
            is_as_wished = leaving
        else:
            is_as_wished = not leaving and known.never_drawn == never_drawn
        if is_as_wished or (known is not None and known.removed_until > round_):
            return []
        wish = Membership(
            joins=not leaving,
            peer=view.me,
            round=round_,
            never_drawn=not leaving and never_drawn,
        )
        if self._waits(wish):
            return []
        if wish.joins and view.manifest.agreement.admission == "stamp":
            hour = compute_hour(view.manifest.schedule, round_)
            if self.stamp is None or self.stamp.hour != hour:
                return self._order_stamp(hour)
            wish = replace(wish, nonce=self.stamp.nonce)
        self.said = wish
        sealed = seal_membership(wish, view.run_id, view.sign)
        view.pool.add_wish(sealed)
        return [Announce(Kind.MEMBERSHIP, sealed.raw)]

    def _waits(self, wish: Membership) -> bool:
        """Was this join said before, and does that count still, and is there no place for it?"""
        view, said = self.view, self.said
        if said is None or not (wish.joins and said.joins):
            return False
        agreement, newest = view.manifest.agreement, view.chain[view.head]
        if (
            wish.never_drawn != said.never_drawn
            or newest.proposal is None
            or newest.parent not in view.chain
            or not is_wish_usable(said, newest.state, wish.round, agreement.late_rounds)
        ):
            return False
        places = count_offered_places(view.chain[newest.parent].state, agreement)
        return len(newest.proposal.body.joins) >= places

    def _order_stamp(self, hour: int) -> list[Effect]:
        """Everybody drops a join without its work (rule 26)."""
        if self.ordered_hour == hour:
            return []
        self.ordered_hour = hour
        seed = compute_stamp_seed(self.view.run_id, hour, self.view.me)
        return [MakeStamp(hour, seed, self.view.manifest.agreement.stamp_bits)]
