"""Delays between places on all continents, from where they are: no figure here was looked up.

Light in glass does 200 km in a millisecond, and cables are half as long again as the great circle.
"""

import math
from typing import Final

EARTH_KM: Final = 6371.0
GLASS_KM_MS: Final = 200.0
DETOUR: Final = 1.5

CITIES: Final = {
    "Frankfurt": (50.1, 8.7),
    "New York": (40.7, -74.0),
    "Sao Paulo": (-23.6, -46.6),
    "Johannesburg": (-26.2, 28.0),
    "Mumbai": (19.1, 72.9),
    "Singapore": (1.4, 103.8),
    "Tokyo": (35.7, 139.7),
    "Sydney": (-33.9, 151.2),
}
"""Degrees north and east."""


def compute_delay_ms(one: str, other: str) -> float:
    """One way."""
    (north, east), (other_north, other_east) = (
        tuple(map(math.radians, CITIES[name])) for name in (one, other)
    )
    cosine = math.sin(north) * math.sin(other_north)
    cosine += math.cos(north) * math.cos(other_north) * math.cos(east - other_east)
    return math.acos(min(1.0, cosine)) * EARTH_KM * DETOUR / GLASS_KM_MS
