"""Where the fields of a hotness unit's registers stand, written down once more.

The driver and the device model read one layout, so neither shows a field that is
in the wrong place. The numbers here are those of the specification.
"""

import pytest

from isotherm.records import cxl_hmu_registers as reg
from isotherm.records.cxl_hmu_registers import Bits, Operation, Reporting, Tracked

#: Offset, lowest bit, width: CXL 3.2, section 8.2.8.
FIELDS = {
    "VERSION": (0x00, 0, 4),
    "NUM_INSTANCES": (0x00, 8, 8),
    "INSTANCE_LENGTH": (0x08, 0, 16),
    "CAP_MSI": (0x00, 0, 4),
    "CAP_OVERFLOW_INTERRUPT": (0x00, 4, 1),
    "CAP_FILL_INTERRUPT": (0x00, 5, 1),
    "CAP_EPOCH_TYPE": (0x00, 6, 2),
    "CAP_TRACKED": (0x00, 8, 6),
    "CAP_MAX_EPOCH_SCALE": (0x00, 16, 4),
    "CAP_MAX_EPOCH_MULTIPLE": (0x00, 20, 12),
    "CAP_MIN_EPOCH_SCALE": (0x00, 32, 4),
    "CAP_MIN_EPOCH_MULTIPLE": (0x00, 36, 12),
    "CAP_HOT_LIST_SIZE": (0x00, 48, 16),
    "CAP_UNIT_SIZES": (0x08, 0, 32),
    "CAP_DOWN_SAMPLING": (0x08, 32, 16),
    "CAP_EPOCH_BASED": (0x08, 48, 1),
    "CAP_ALWAYS_ON": (0x08, 49, 1),
    "CAP_RANDOM_DOWN_SAMPLING": (0x08, 50, 1),
    "CAP_OVERLAPPING": (0x08, 51, 1),
    "CAP_POSTPONED": (0x08, 52, 1),
    "CAP_BITMAP_OFFSET": (0x10, 0, 64),
    "CAP_HOT_LIST_OFFSET": (0x18, 0, 64),
    "TRACK": (0x40, 0, 8),
    "RANDOM_DOWN_SAMPLING": (0x40, 8, 1),
    "INTERRUPT_ON_OVERFLOW": (0x40, 9, 1),
    "INTERRUPT_ON_FILL": (0x40, 10, 1),
    "ENABLE": (0x40, 16, 1),
    "RESET": (0x40, 17, 1),
    "THRESHOLD": (0x40, 32, 32),
    "UNIT_SIZE": (0x48, 0, 32),
    "DOWN_SAMPLING": (0x48, 32, 8),
    "REPORTING": (0x48, 40, 8),
    "EPOCH_SCALE": (0x48, 48, 4),
    "EPOCH_MULTIPLE": (0x48, 52, 12),
    "NOTIFY_AT": (0x50, 0, 16),
    "ENABLED": (0x60, 0, 1),
    "OPERATION": (0x60, 16, 16),
    "COUNTER_WIDTH": (0x60, 32, 8),
    "OVERFLOW": (0x60, 40, 1),
    "FILL": (0x60, 41, 1),
}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_fields(name: str) -> None:
    """Each where the specification has it."""
    field = getattr(reg, name)
    assert FIELDS[name] == (field.offset, field.low, field.width)


def test_no_field_is_left_out() -> None:
    """A field that is added is written down here, too."""
    assert set(FIELDS) == {n for n, v in vars(reg).items() if isinstance(v, Bits)}


def test_offsets_and_values() -> None:
    """Registers of 16 bits, what lies before an instance, and values of fields."""
    assert (0x10, 0x68, 0x6A) == (reg.COMMON_BYTES, reg.HEAD, reg.TAIL)
    assert (256 << 20, 8) == (reg.BITMAP_BYTES, reg.UNIT_SHIFT_LEAST)
    assert [1, 2, 3, 4, 5, 6] == [
        Tracked.NON_TEE_READS,
        Tracked.NON_TEE_WRITES,
        Tracked.NON_TEE,
        Tracked.READS,
        Tracked.WRITES,
        Tracked.ALL,
    ]
    assert [0, 1] == [Reporting.EPOCH, Reporting.ALWAYS_ON]
    assert [0, 1, 2, 3] == [
        Operation.NONE,
        Operation.ENABLE,
        Operation.DISABLE,
        Operation.RESET,
    ]
