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

# For labels of a user's own network: what the seven leave of the palette, then Paul Tol's "muted" one.
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
)


def palette(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label: the seven have theirs, others take the free ones in their order.

    Colours repeat only when there are more unknown labels than free colours.
    """
    unknown = [label for label in labels if label not in COLOURS]
    dealt = {label: FREE[index % len(FREE)] for index, label in enumerate(unknown)}
    return {label: COLOURS.get(label) or dealt[label] for label in labels}
