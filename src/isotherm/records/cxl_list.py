"""What ``cxl list -M -H -i`` says of memory devices: JSON to rows.

Fields as util_cxl_memdev_to_json() and util_cxl_memdev_health_to_json() of ndctl
write them (cxl/json.c). A field that the device does not fill is left out there and
None here.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

#: Media states that are told only when they hold, in words for people.
MEDIA: Final = {
    "media_not_ready": "media not ready",
    "media_persistence_lost": "persistence lost",
    "media_data_lost": "data lost",
    "media_powerloss_persistence_loss": "persistence lost at the next power loss",
    "media_shutdown_persistence_loss": "persistence lost at the next shutdown",
    "media_persistence_loss_imminent": "loss of persistence imminent",
    "media_powerloss_data_loss": "data lost at the next power loss",
    "media_shutdown_data_loss": "data lost at the next shutdown",
    "media_data_loss_imminent": "loss of data imminent",
}
NEEDS: Final = {
    "maintenance_needed": "maintenance needed",
    "performance_degraded": "performance degraded",
    "hw_replacement_needed": "replacement needed",
}
LEVELS: Final = {
    "ext_life_used": "life used",
    "ext_temperature": "temperature",
    "ext_corrected_volatile": "corrected volatile errors",
    "ext_corrected_persistent": "corrected persistent errors",
}


Count = Annotated[int, Meta(ge=0)]


class Health(msgspec.Struct, frozen=True):
    """Health of a device (CXL, Get Health Info).

    ``ext_*`` are ``normal``, ``warning``, ``critical`` or ``unknown``; life used is
    in percent, temperature in degrees Celsius, the rest are counts.
    """

    maintenance_needed: bool | None = None
    performance_degraded: bool | None = None
    hw_replacement_needed: bool | None = None
    media_normal: bool | None = None
    media_not_ready: bool | None = None
    media_persistence_lost: bool | None = None
    media_data_lost: bool | None = None
    media_powerloss_persistence_loss: bool | None = None
    media_shutdown_persistence_loss: bool | None = None
    media_persistence_loss_imminent: bool | None = None
    media_powerloss_data_loss: bool | None = None
    media_shutdown_data_loss: bool | None = None
    media_data_loss_imminent: bool | None = None
    ext_life_used: str | None = None
    ext_temperature: str | None = None
    ext_corrected_volatile: str | None = None
    ext_corrected_persistent: str | None = None
    life_used_percent: Count | None = None
    temperature: Count | None = None
    dirty_shutdowns: Count | None = None
    volatile_errors: Count | None = None
    pmem_errors: Count | None = None

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is not as it should be, in words; empty where nothing is."""
        found = [
            words
            for table in (NEEDS, MEDIA)
            for name, words in table.items()
            if getattr(self, name)
        ]
        found += [
            f"{words} {getattr(self, name)}"
            for name, words in LEVELS.items()
            if getattr(self, name) in ("warning", "critical")
        ]
        if self.volatile_errors:
            found.append(f"{self.volatile_errors} volatile errors")
        if self.pmem_errors:
            found.append(f"{self.pmem_errors} persistent errors")
        return tuple(found)

    @property
    def degrees(self) -> int | None:
        """Temperature, signed: the tool prints the device's 16 bits as they are."""
        if self.temperature is None or self.temperature < 1 << 15:
            return self.temperature
        return self.temperature - (1 << 16)


class Memdev(msgspec.Struct, frozen=True):
    """A memory device, ``mem0``. A serial number is not kept."""

    memdev: str
    ram_size: Count | None = None
    pmem_size: Count | None = None
    numa_node: int | None = None
    host: str | None = None
    state: str | None = None
    health: Health | None = None

    @property
    def enabled(self) -> bool:
        """Whether a driver has it: the tool says only ``disabled``."""
        return self.state != "disabled"


class _Group(msgspec.Struct):
    """What the tool makes of several kinds of object, or of one with a parent."""

    memdevs: list[Memdev]


def parse_cxl_list(text: str | bytes) -> tuple[Memdev, ...]:
    """Return the memory devices in a listing, as it lists them.

    A list of devices, one device alone, or groups that hold ``memdevs``.

    Raises:
        ValueError: It is no such listing; the message names the field, what it
            holds and what was expected.
    """
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"expected the JSON of cxl list -M -H -i, got none: {error}"
        ) from None
    items = document if isinstance(document, list) else [document]
    found: list[Memdev] = []
    for i, item in enumerate(items):
        try:
            if isinstance(item, dict) and "memdev" in item:
                found.append(msgspec.convert(item, Memdev))
            elif isinstance(item, dict) and "memdevs" in item:
                found.extend(msgspec.convert(item, _Group).memdevs)
            elif isinstance(item, dict) and item:
                continue  # a bus, a port, a region: asked for beside the devices
            else:
                raise ValueError(f"[{i}]: expected a device, got {item!r:.60}")
        except msgspec.ValidationError as error:
            raise ValueError(_words(error, i)) from None
    return tuple(found)


def _words(error: msgspec.ValidationError, index: int) -> str:
    what, _, where = str(error).partition(" - at `$")
    path = f"[{index}]{where.rstrip('`')}"
    text = f"{path}: {what[:1].lower()}{what[1:]}"
    if "_size" in path and "`str`" in what:
        text += "; list without -u"
    return text
