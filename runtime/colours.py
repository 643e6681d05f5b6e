"""Colours: one for each emotion, the same in the terminal, on the page and in a report."""

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
