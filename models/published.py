"""What the paper published: its Tables 1 to 4, and the authors' hyperparameters for both data sets.

Numbers: Li, Wang, Cui, "Decoupled Multimodal Distilling for Emotion Recognition", CVPR 2023, pages 6636 and
6637 (openaccess.thecvf.com, arXiv 2303.13802). Hyperparameters: config/config.json, run.py and
trains/singleTask/DMD.py of github.com/mdswyz/DMD.
"""

from __future__ import annotations

from typing import Any

CORPORA = {"mosi": "CMU-MOSI", "mosei": "CMU-MOSEI"}
SEEDS = (1111, 1112, 1113, 1114, 1115)  # the defaults of the authors' run.py

# Methods, setting, and percents: ACC7, ACC2, F1. A star marks language features of BERT; others are GloVe's.
COMPARISON: dict[str, tuple[tuple[str, str, str, str, str], ...]] = {
    "mosi": (  # Table 1
        ("EF-LSTM", "Aligned", "33.7", "75.3", "75.2"),
        ("LF-LSTM", "Aligned", "35.3", "76.8", "76.7"),
        ("TFN", "Aligned", "32.1", "73.9", "73.4"),
        ("LMF", "Aligned", "32.8", "76.4", "75.7"),
        ("MFM", "Aligned", "36.2", "78.1", "78.1"),
        ("RAVEN", "Aligned", "33.2", "78.0", "76.6"),
        ("MCTN", "Aligned", "35.6", "79.3", "79.1"),
        ("MulT", "Aligned", "40.0", "83.0", "82.8"),
        ("PMR", "Aligned", "40.6", "83.6", "83.4"),
        ("DMD (paper)", "Aligned", "41.4", "84.5", "84.4"),
        ("MISA*", "Aligned", "42.3", "83.4", "83.6"),
        ("FDMER*", "Aligned", "44.1", "84.6", "84.7"),
        ("DMD* (paper)", "Aligned", "45.6", "86.0", "86.0"),
        ("EF-LSTM", "Unaligned", "31.0", "73.6", "74.5"),
        ("LF-LSTM", "Unaligned", "33.7", "77.6", "77.8"),
        ("RAVEN", "Unaligned", "31.7", "72.7", "73.1"),
        ("MCTN", "Unaligned", "32.7", "75.9", "76.4"),
        ("MulT", "Unaligned", "39.1", "81.1", "81.0"),
        ("PMR", "Unaligned", "40.6", "82.4", "82.1"),
        ("MICA", "Unaligned", "40.8", "82.6", "82.7"),
        ("DMD (paper)", "Unaligned", "41.9", "83.5", "83.5"),
    ),
    "mosei": (  # Table 2
        ("EF-LSTM", "Aligned", "47.4", "78.2", "77.9"),
        ("LF-LSTM", "Aligned", "48.8", "80.6", "80.6"),
        ("Graph-MFN", "Aligned", "45.0", "76.9", "77.0"),
        ("RAVEN", "Aligned", "50.0", "79.1", "79.5"),
        ("MCTN", "Aligned", "49.6", "79.8", "80.6"),
        ("MulT", "Aligned", "51.8", "82.5", "82.3"),
        ("PMR", "Aligned", "52.5", "83.3", "82.6"),
        ("DMD (paper)", "Aligned", "53.7", "85.0", "84.9"),
        ("MISA*", "Aligned", "52.2", "85.5", "85.3"),
        ("FDMER*", "Aligned", "54.1", "86.1", "85.8"),
        ("DMD* (paper)", "Aligned", "54.5", "86.6", "86.6"),
        ("EF-LSTM", "Unaligned", "46.3", "76.1", "75.9"),
        ("LF-LSTM", "Unaligned", "48.8", "77.5", "78.2"),
        ("RAVEN", "Unaligned", "45.5", "75.4", "75.7"),
        ("MCTN", "Unaligned", "48.2", "79.3", "79.7"),
        ("MulT", "Unaligned", "50.7", "81.6", "81.6"),
        ("PMR", "Unaligned", "51.8", "83.1", "82.8"),
        ("MICA", "Unaligned", "52.4", "83.7", "83.3"),
        ("DMD (paper)", "Unaligned", "54.6", "84.8", "84.7"),
    ),
}

# Table 3: the parts that are there (FD, HomoGD, CA, HeteroGD); unaligned ACC7 and F1 on MOSI and on MOSEI.
ABLATION: tuple[tuple[tuple[bool, bool, bool, bool], dict[str, tuple[str, str]]], ...] = (
    ((True, True, True, True), {"mosi": ("41.9", "83.5"), "mosei": ("54.6", "84.7")}),
    ((True, True, True, False), {"mosi": ("38.8", "81.1"), "mosei": ("53.2", "84.1")}),
    ((True, True, False, True), {"mosi": ("37.5", "80.6"), "mosei": ("52.4", "83.8")}),
    ((True, True, False, False), {"mosi": ("37.2", "80.8"), "mosei": ("52.4", "84.3")}),
    ((True, False, False, False), {"mosi": ("34.7", "79.3"), "mosei": ("51.6", "82.8")}),
    ((False, False, False, False), {"mosi": ("32.4", "79.0"), "mosei": ("50.0", "81.9")}),
)

# Table 4, MOSEI: ACC2 / F1 without and with FD; then ACC2 with HomoGD, from the text of section 4.2.
UNIMODAL: dict[str, tuple[str, str, str]] = {
    "L only": ("81.2 / 81.4", "82.7 / 82.5", "82.4"),
    "V only": ("58.2 / 52.2", "62.8 / 60.0", "61.8"),
    "A only": ("53.4 / 54.0", "64.9 / 62.5", "64.1"),
    "Mean": ("64.3 / 62.5", "70.1 / 68.3", "–"),
    "STD": ("12.1 / 13.4", "8.9 / 10.1", "–"),
}

# Fields of DMDConfig, the same aligned and unaligned; sizes come from the data.
NETWORK: dict[str, dict[str, Any]] = {
    "mosi": {
        "width": 50,
        "heads": 10,
        "levels": 4,
        "text_dropout": 0.5,
        "embedding_dropout": 0.2,
        "output_dropout": 0.5,
        "text": {"kernel": 5, "attention_dropout": 0.3},
        "audio": {"kernel": 5, "attention_dropout": 0.2},
        "vision": {"kernel": 5, "attention_dropout": 0.0},
    },
    "mosei": {
        "width": 30,
        "heads": 6,
        "levels": 4,
        "text_dropout": 0.3,
        "embedding_dropout": 0.0,
        "output_dropout": 0.5,
        "text": {"kernel": 5, "attention_dropout": 0.4},
        "audio": {"kernel": 1, "attention_dropout": 0.0},
        "vision": {"kernel": 3, "attention_dropout": 0.0},
    },
}

# Fields of Optimisation. The paper trains for 30 passes; config.json stops 10 after the last progress. Its
# weight decay (0.005 and 0.001) is never handed to Adam, so here it is none. BERT learns at the same rate.
OPTIMISATION: dict[str, Any] = {
    "optimiser": "adam",
    "batch": 16,
    "accumulate": 10,
    "rate": 1e-4,
    "schedule": "plateau",
    "weight_decay": 0.0,
    "clip": 0.6,
    "epochs": 30,
    "patience": 10,
    "plateau": 5,
}
BERT_RATE = 1e-4
