"""Colours: one for each emotion, the same in the terminal, on the page and in a report."""

from collections.abc import Sequence

# Okabe and Ito's palette: told apart by colour-blind people too.
COLOURS = {
    "angry": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "happy": "#F0E442",
    "neutral": "#999999",
    "sad": "#0072B2",
    "surprise": "#56B4E9",
}
OTHER = "#E69F00"

# For labels of a user's own network: what the seven leave of the palette, then Paul Tol's "muted" one,
# then darker and lighter ones of the seven: fourteen, none of them twice.
FREE = (
    OTHER,
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#8A3D00",
    "#7FD1B9",
    "#B0C4DE",
    "#F4A582",
)
LOWEST, MIDDLE, HIGHEST = "#D55E00", "#999999", "#0072B2"  # of a sentiment: told apart by everybody, too


def palette(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label: the seven have theirs, others take the free ones in their order.

    Colours repeat only when there are more unknown labels than free colours.
    """
    unknown = [label for label in labels if label not in COLOURS]
    dealt = {label: FREE[index % len(FREE)] for index, label in enumerate(unknown)}
    return {label: COLOURS.get(label) or dealt[label] for label in labels}


def leaning(value: float, scale: tuple[float, float]) -> str:
    """The colour of a sentiment on its scale: grey at zero, the stronger the further from it."""
    bound = scale[1] if value > 0 else -scale[0]
    strength = min(abs(value) / bound, 1.0) if bound > 0 else 1.0
    end = HIGHEST if value > 0 else LOWEST
    parts = [(int(MIDDLE[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(grey + strength * (full - grey)):02X}" for grey, full in parts)
