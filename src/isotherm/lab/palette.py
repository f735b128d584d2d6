"""Colours of a report on dark paper, and what a chart needs to stand alone."""

from typing import Any, Final

Spec = dict[str, Any]

#: Light paper's colour, dark paper's: same hue, lighter, so that a line keeps its
#: name when the reader's screen is dark.
DARK: Final = {
    "#D55E00": "#FF8A3D",
    "#000000": "#FFFFFF",
    "#E69F00": "#F0B429",
    "#CC79A7": "#E39BC4",
    "#009E73": "#2DC79B",
    "#0072B2": "#4AA8E8",
    "#882255": "#D6679F",
    "#8A7A00": "#C2B02E",
    "#332288": "#9A8FF0",
    "#44AA99": "#5CC9B6",
    "#6A51A3": "#B09AEA",
    "#117733": "#57B870",
    "#1B7837": "#3FA858",
    "#5A4A00": "#B59B3A",
    "#A6761D": "#D0A04A",
    "#A50F15": "#F2686C",
    "#555555": "#AAB2BA",
    "#777777": "#9AA2AA",
    # Axes, shading, words.
    "#333": "#C9D1D9",
    "#222": "#E6EDF3",
    "#ececec": "#262C33",
    "#999": "#6E7681",
    "#dfe3e8": "#2B3139",
    "#eceff2": "#222831",
    "#d3d9e0": "#3B434D",
    # The parts of an access's time.
    "#c6ccd3": "#4A525C",
    "#3182bd": "#58A6E8",
    "#e6842a": "#FF9A45",
    "#7a5195": "#BE95DB",
}
#: Paper of exported charts.
PAPER: Final = "#ffffff"
EXPORT_WIDTH: Final = 640
VEGA_LITE: Final = "https://vega.github.io/schema/vega-lite/v6.json"
#: Channels and fields that get a legend where a chart stands alone; on a page the
#: key beside it does.
NAMED: Final = ("color", "shape", "strokeDash")
KEYED: Final = ("policy", "what")


def dark_of(color: str) -> str:
    """Return a colour for dark paper; its own where none is told.

    >>> dark_of("#000000"), dark_of("#56B4E9")
    ('#FFFFFF', '#56B4E9')
    """
    return DARK.get(color, color)


def standalone(spec: Spec, title: str) -> Spec:
    """Return a chart that needs no page around it: a width, a title, a legend."""
    legend: Spec = {"title": None, "symbolSize": 80}
    if _has_shape(spec):
        legend["symbolStrokeWidth"] = 0  # a mark's dashes would fray it
    made: Spec = {
        "$schema": VEGA_LITE,
        **_with_legend(spec, legend),
        "background": PAPER,
    }
    if made.get("width") == "container":
        made["width"] = EXPORT_WIDTH
    made.setdefault("title", {"text": title, "anchor": "start", "fontWeight": 600})
    made["padding"] = 12
    return made


def _has_shape(value: Any) -> bool:
    """Return whether any mark of a specification has a shape of its own."""
    if isinstance(value, dict):
        return "shape" in value or any(_has_shape(one) for one in value.values())
    return isinstance(value, list) and any(_has_shape(one) for one in value)


def _with_legend(value: Any, legend: Spec, channel: str = "") -> Any:
    """Return a specification in which colours and marks are named."""
    if isinstance(value, dict):
        made = {name: _with_legend(one, legend, name) for name, one in value.items()}
        named = channel in NAMED and made.get("field") in KEYED
        if named and made.get("legend", 0) is None:
            made["legend"] = legend
        return made
    if isinstance(value, list):
        return [_with_legend(one, legend) for one in value]
    return value
