"""How much gossip is taken from one peer."""

from demo_node.mesh import bounds


class Allowance:
    """So much at once, then so much a second. It may be overdrawn. Times are in seconds."""

    def __init__(self, burst: float, rate: float, now_s: float) -> None:
        self._burst, self._rate = burst, rate
        self._level, self._at_s = burst, now_s

    def take(self, count: float, now_s: float) -> None:
        """So much has come."""
        self._refill(now_s)
        self._level -= count

    def debt_s(self, now_s: float) -> float:
        """For how long nothing more is due; 0 while something is."""
        self._refill(now_s)
        return max(0.0, -self._level / self._rate)

    def _refill(self, now_s: float) -> None:
        self._level = min(self._burst, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s


class Patience:
    """Takes from an allowance, and counts what is beyond it until that is a flood."""

    def __init__(self, allowance: Allowance, flood: int) -> None:
        self._allowance = allowance
        self._flood = flood
        self._beyond = 0

    def take(self, now_s: float) -> bool:
        """One has come: is it within the allowance?"""
        if self._allowance.debt_s(now_s):
            self._beyond += 1
            return False
        self._allowance.take(1, now_s)
        return True

    @property
    def is_exhausted(self) -> bool:
        """Asked after one that was not: is that one too many by far?"""
        return self._beyond % self._flood == 0


class GossipAllowance:
    """Of one peer, whatever connections it has."""

    def __init__(self, now_s: float) -> None:
        self._frames = Allowance(bounds.GOSSIP_FRAMES_BURST, bounds.GOSSIP_FRAMES_PER_S, now_s)
        own = Allowance(bounds.OWN_MESSAGES_BURST, bounds.OWN_MESSAGES_PER_S, now_s)
        self._own = Patience(own, bounds.OWN_MESSAGES_BEYOND)
        self.joins = make_join_patience(now_s)

    def take(self, count: int, now_s: float) -> float:
        """So many messages and frames have come. Seconds to wait before the next is read."""
        self._frames.take(count, now_s)
        return self._frames.debt_s(now_s)

    def take_own(self, now_s: float) -> bool:
        """It has published one itself: is that one too many by far?"""
        return not self._own.take(now_s) and self._own.is_exhausted


def make_join_patience(now_s: float) -> Patience:
    """With joins and leaves: those that one peer hands over, or those of all."""
    return Patience(Allowance(bounds.JOINS_BURST, bounds.JOINS_PER_S, now_s), bounds.JOINS_BEYOND)
