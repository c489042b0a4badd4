"""Numbers and names that both processes share; ../bounds.py has those of every mesh."""

from typing import Final

BLOB: Final = "/demo-node/blob/1"
LINK: Final = "/demo-node/link/1"
PROTOCOLS: Final = (BLOB, LINK)
"""What p2pd hands to us; hivemind's own protocols are the DHT's."""

ADDRESSES_MAX: Final = 8
"""Addresses of one peer."""

PLACE_BYTES_MAX: Final = 256
"""Of one address: one by way of a relay has both peers' ids."""

FOUND_MAX: Final = 64
"""Members told to the node at once."""

RECORD_S: Final = 60.0
"""How long a member's record lives in the DHT."""

ANNOUNCE_S: Final = 15.0
"""How often it is renewed, and how often the DHT is asked who else is there."""

ANNOUNCE_FIRST_S: Final = 1.0
"""How often while this node knows nobody, and just after it began."""

LOOK_S: Final = 2.0
"""How often p2pd is asked whether it lives, and the process beside the node."""

HUNG_S: Final = 15.0
"""So long without an answer, and it is ended and started again."""

RESTART_MIN_S: Final = 0.2
RESTART_MAX_S: Final = 10.0
"""Pause after a death. It doubles until a life has lasted for RESTART_MAX_S."""
