"""MiniGPT-4: a Q-Former that BLIP-2 has trained, frozen, and one linear map (Zhu et al. 2023).

The linear map is all that is new and all that is trained, in both of its stages. So it is what
LLaVA's W is, applied to 32 query states in place of 256 patches.
"""

from .qformer import QFormerConnector


class MiniGPT4Connector(QFormerConnector):
    """The modules and names of a QFormerConnector; only `linear` is trained."""

    frozen_prefixes = ("norm_patches.", "queries", "qformer.")
