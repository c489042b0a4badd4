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


class GossipAllowance:
    """Of one peer, whatever connections it has."""

    def __init__(self, now_s: float) -> None:
        self._frames = Allowance(bounds.GOSSIP_FRAMES_BURST, bounds.GOSSIP_FRAMES_PER_S, now_s)
        self._own = Allowance(bounds.OWN_MESSAGES_BURST, bounds.OWN_MESSAGES_PER_S, now_s)
        self._beyond = 0

    def take(self, count: int, now_s: float) -> float:
        """So many messages and frames have come. Seconds to wait before the next is read."""
        self._frames.take(count, now_s)
        return self._frames.debt_s(now_s)

    def take_own(self, now_s: float) -> bool:
        """It has published one itself: is that one too many by far?"""
        if not self._own.debt_s(now_s):
            self._own.take(1, now_s)
            self._beyond = max(0, self._beyond - 1)  # not forgotten at once: a flood is steady
            return False
        self._beyond += 1
        return self._beyond % bounds.OWN_MESSAGES_BEYOND == 0
