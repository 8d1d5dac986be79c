"""The letters in the formulas of the notebooks, and what they mean.

Notebook 0 has the table of symbols. Here is every other letter, so that none gets a second meaning
unnoticed. A letter counts without its indices: W_q is a W.
"""

import re

# The same in all notebooks, without a row in a table.
EVERYWHERE = {
    "i": "an index",
    "j": "an index",
    "t": "a position in a sequence, as in x_t",
    "e": "Euler's number",
    "p": "a probability, as in p(x_t | x_<t)",
    "\\pi": "the circle's number",
    "\\phi": "the weights of the language model, as in f_phi",
    "\\ell": "the number of a block, as in z^(l)",
}

# Letters of notebook 0's table that a notebook uses with the same meaning and no row of its own.
AS_IN_NOTEBOOK_0 = {
    "01": "g k q u v",
    "02": "D g",
    "03": "D g z",
    "04": "X",
    "05": "P W \\mu \\nu g",
    "06": "D V \\mathcal_A z",
    "09": "W \\mathcal_L",
    "10": "W",
    "11": "W",
    "13": "H W Z k q",
    "14": "D P W \\mathcal_A \\mu \\nu",
    "15": "E k q v",
    "16": "Z",
}

# Letters that mean something else: letter -> notebooks -> meaning.
BORROWED = {
    "A": {"14": "one of LoRA's matrices"},
    "B": {"14": "one of LoRA's matrices"},
    "C": {"00 02": "the softmax over columns"},
    "F": {"00 04 10": "the width of the MLP", "00 09 16": "the F1 score"},
    "I": {"02": "the identity matrix"},
    "M": {"00 04": "the mask", "10 14": "any matrix of weights"},
    "N": {"06": "the number of steps", "15": "a number of images"},
    "Q": {"06": "a rotation of the features"},
    "R": {"02": "the softmax over rows"},
    "S": {"04": "the number of keys"},
    "W": {"01 02 04 12 15": "with an index: a matrix of a layer, as in W_q"},
    "X": {"10": "the inputs of a matrix"},
    "Y": {"10": "the outputs of a matrix"},
    "a": {"08": "an answer", "11": "a token", "13": "a result", "15": "a gate"},
    "b": {
        "01 03 06": "the bias of a layer",
        "02": "the bias of SigLIP's scores",
        "09": "a resample",
        "11": "a token",
        "13": "a result",
        "15": "a gate",
    },
    "c": {
        "01": "the class embedding",
        "09": "an option",
        "15": "the number of images before a word",
    },
    "d": {"04": "a distance of positions", "09": "a difference of two shares"},
    "f": {"04": "attention or MLP, inside a block"},
    "g": {"04": "the key-value head of a query head"},
    "h": {"03 06": "a projected patch", "12": "the height of an image"},
    "k": {"02": "a class", "12": "the bicubic kernel"},
    "m": {"00 04": "a position, as in R_m"},
    "n": {
        "00 04 07": "a position",
        "06": "the number of a step",
        "08": "the number of a turn",
        "09 16": "the size of a sample",
        "10": "a number of parameters",
    },
    "o": {"07": "the output of attention"},
    "p": {
        "00 01 03 06": "the number of a patch; with an index, a position embedding",
        "07": "the threshold of top-p",
        "15": "with an index, positions",
    },
    "r": {"10": "a rank, one of the G processes", "14": "LoRA's rank"},
    "s": {"15": "a score of an image with a text"},
    "u": {"15": "the unit vector of a query"},
    "w": {
        "06 10": "any weight",
        "11": "a word",
        "12": "the width of an image",
        "15": "the unit vector of a text",
    },
    "x": {"01 03 04 12 13 14 15": "any vector or number that a function gets"},
    "y": {"14": "what a layer returns"},
    "z": {"15": "queries or latents", "16": "a quantile of the normal distribution"},
    "t": {"02 15": "states of the text"},
    "e": {"01": "the embedding of a patch", "03": "the embedding of a word", "09": "an error"},
    "\\ell": {"00 07": "a logit", "13": "the loss of a token"},
    "\\mathcal_L": {"02": "the contrastive loss"},
    "\\Gamma": {"02": "the gradient of the scores"},
    "\\Delta": {"09": "the difference between two models"},
    "\\Phi": {"03": "the normal distribution"},
    "\\alpha": {"04": "an angle", "14": "LoRA's factor"},
    "\\beta": {"01": "the offset of LayerNorm", "04": "an angle", "06": "AdamW's decay"},
    "\\gamma": {"01 04": "the scale of a norm"},
    "\\delta": {"06": "weight decay"},
    "\\epsilon": {"06 14": "AdamW's small number"},
    "\\varepsilon": {"01 04": "the small number of a norm"},
    "\\theta": {"04": "the angle of a rotation"},
    "\\rho": {"16": "the margin of yes over no"},
    "\\sigma": {"01 02 04 13": "the sigmoid", "09": "a standard deviation"},
    "\\tau": {"15": "the temperature of a contrastive loss"},
}

GREEK = (
    "alpha beta gamma delta epsilon varepsilon eta theta lambda mu nu pi rho sigma tau phi ell "
    "Gamma Delta Phi"
)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)  # on its own lines, or in a sentence
WORD = re.compile(r"\\(?:text|mathrm|texttt|operatorname\*?|begin|end)\{[^{}]*\}|\\mathbb\W*R")
INDEX = re.compile(r"[_^]\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[A-Za-z]+|.)")
TOKEN = re.compile(r"\\mathcal\W*[A-Z]|\\[A-Za-z]+|[A-Za-z]")  # a symbol, or a command like \frac


def letters(text: str) -> set[str]:
    """The letters of all formulas of a text, without words, indices, exponents and accents."""
    found = set()
    for display, inline in FORMULA.findall(text):
        formula = WORD.sub(" ", display or inline)
        formula = INDEX.sub(" ", formula)
        for token in TOKEN.findall(formula):
            if token.startswith("\\mathcal"):
                found.add(f"\\mathcal_{token[-1]}")
            elif len(token) == 1 or token[1:] in GREEK.split():
                found.add(token)
    return found
