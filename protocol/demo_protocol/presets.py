"""Model sizes by name, with the learning defaults that go with them."""

from dataclasses import dataclass
from typing import Final

from demo_protocol.manifest import Learning, Model


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's shape and how to train it. `demo-node init --preset NAME` starts from it."""

    model: Model
    learning: Learning


PRESETS: Final[dict[str, Preset]] = {
    # 147,776 parameters: an ordinary laptop core does a step in some ten milliseconds.
    "tiny": Preset(
        Model(layers=2, width=64, hidden=256, heads=4, context=64),
        # By trial (docs/benchmarks.md). Bytes are free at this size: k 128 learns faster.
        Learning(k=128, inner_lr_ppb=4_500_000, lr_warmup_rounds=5, samples_start=1024),
    ),
    # 1,082,496 parameters.
    "small": Preset(
        Model(layers=4, width=128, hidden=512, heads=4, context=128),
        Learning(k=64, lr_ppb=5_000_000, samples_start=512),
    ),
    # 10,245,440 parameters: many hours on a laptop, minutes on a graphics card.
    "base": Preset(
        Model(layers=8, width=320, hidden=896, heads=5, context=512),
        Learning(k=32, lr_ppb=2_000_000, inner_lr_ppb=1_000_000, samples_start=256),
    ),
    # 123,985,472 parameters: one graphics card per node.
    "gpu": Preset(
        Model(layers=14, width=832, hidden=2432, heads=13, context=1024),
        Learning(k=32, lr_ppb=1_000_000, inner_lr_ppb=600_000, micro_batch=16, samples_start=1024),
    ),
}
"""By name. All widths are multiples of 64. Heads are 16 to 64 wide."""
