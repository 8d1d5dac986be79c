"""Stage 1 of BLIP-2: a Q-Former learns from images and captions, without a language model.

One body, three objectives, three masks. q are the queries, t the text; rows attend to columns:

    ITC  contrast      q to q, t to t        queries and text run apart
    ITM  matching      everything to everything
    ITG  captioning    q to q, t to q and to its own past

The sum of the three losses is trained. B images and their B captions; the other captions of the
batch are the negatives. Source: BLIP-2 (Li et al. 2023, section 3.2).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..config import IGNORE_INDEX
from .qformer import INIT_STD, NORM_EPS, QFormer, initialize

LABEL_SMOOTHING = 0.1
INITIAL_TEMPERATURE = 0.07
MAX_TEXT = 128  # positions of a caption


class Losses(NamedTuple):
    """The three objectives."""

    itc: torch.Tensor  # the mean over images and captions
    itm: torch.Tensor  # the mean over the 3 B pairs
    itg: torch.Tensor  # the mean over the captions' tokens


class QFormerPretraining(nn.Module):
    """A Q-Former with all that stage 1 needs besides the query path.

    `norm_patches`, `queries` and `qformer` have the names and the place that they have in a
    QFormerConnector. `vocab_size` counts the tokenizer's ids; one more, [DEC], is the first token
    of captions in the captioning objective.
    """

    def __init__(
        self,
        vision_width: int,
        vocab_size: int,
        num_queries: int = 32,
        num_layers: int = 12,
        width: int = 768,
        contrast_width: int = 256,
    ):
        super().__init__()
        self.norm_patches = nn.LayerNorm(vision_width)
        self.queries = nn.Parameter(INIT_STD * torch.randn(num_queries, width))
        self.qformer = QFormer(width, vision_width, num_layers, has_text=True)
        self.decode_id = vocab_size  # [DEC]
        self.word_embedding = nn.Embedding(vocab_size + 1, width)
        self.position_embedding = nn.Embedding(MAX_TEXT, width)
        self.image_proj = nn.Linear(width, contrast_width)
        self.text_proj = nn.Linear(width, contrast_width)
        self.temperature = nn.Parameter(torch.tensor([INITIAL_TEMPERATURE]))
        self.match_head = nn.Linear(width, 2)  # logits of "no match" and "match"
        # BERT's head: a layer, a norm, and the word embeddings again.
        self.word_layer = nn.Linear(width, width)
        self.word_norm = nn.LayerNorm(width, NORM_EPS)
        self.word_bias = nn.Parameter(torch.zeros(vocab_size + 1))
        for module in (self.word_embedding, self.position_embedding):
            nn.init.normal_(module.weight, std=INIT_STD)
        for module in (self.image_proj, self.text_proj, self.match_head, self.word_layer):
            initialize(module)

    def forward(
        self,
        Z_v: torch.Tensor,
        input_ids: torch.Tensor,
        is_text: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """The losses of image features Z_v (B, P, vision_width) and captions input_ids (B, T).

        A caption begins with a class token and ends with an end token; `is_text` (B, T) is False at
        the padding after it. `generator` draws the hard negatives.
        """
        patches = self.norm_patches(Z_v)
        image_states = self.image_states(patches)
        similarity = self.similarity(image_states, self.class_states(input_ids, is_text))
        negatives = draw_negatives(similarity.detach(), generator)
        return Losses(
            contrastive_loss(similarity),
            self.matching_loss(patches, input_ids, is_text, *negatives),
            self.captioning_loss(patches, input_ids, is_text),
        )

    def image_states(self, patches: torch.Tensor) -> torch.Tensor:
        """Query states (B, Q, D) without text."""
        return self.qformer(self.expand_queries(patches), patches=patches)

    def class_states(self, input_ids: torch.Tensor, is_text: torch.Tensor) -> torch.Tensor:
        """The state of each caption's class token (B, D), without an image."""
        mask = is_text[:, None, None, :]  # (B, 1, 1, T)
        return self.qformer(text=self.embed_text(input_ids), mask=mask)[:, 0]

    def similarity(self, image_states: torch.Tensor, class_states: torch.Tensor) -> torch.Tensor:
        """s_ij = max_q (u_iq . w_j) / temperature: image i and caption j, (B, B).

        u_iq and w_j are unit vectors of query q and of the class token. The query that fits best
        speaks for the image.
        """
        u = F.normalize(self.image_proj(image_states), dim=-1)  # (B, Q, d)
        w = F.normalize(self.text_proj(class_states), dim=-1)  # (B, d)
        every_query = torch.einsum("iqd,jd->ijq", u, w)  # (B, B, Q)
        return every_query.amax(-1) / self.temperature

    def matching_loss(
        self,
        patches: torch.Tensor,
        input_ids: torch.Tensor,
        is_text: torch.Tensor,
        other_image: torch.Tensor,
        other_text: torch.Tensor,
    ) -> torch.Tensor:
        """Does the caption describe the image? The cross-entropy of three pairs per sample.

        They are: the sample itself; another image, by its index `other_image` (B,), with the
        sample's caption; the sample's image with another caption, by its index `other_text` (B,).
        The last two do not match, unless there is only one sample.
        """
        pair_patches = torch.cat([patches, patches[other_image], patches])  # (3 B, P, vision_width)
        pair_ids = torch.cat([input_ids, input_ids, input_ids[other_text]])
        pair_is_text = torch.cat([is_text, is_text, is_text[other_text]])
        num_queries = len(self.queries)
        states = self.qformer(
            self.expand_queries(pair_patches),
            self.embed_text(pair_ids),
            pair_patches,
            matching_mask(num_queries, pair_is_text),
        )
        logits = self.match_head(states[:, :num_queries]).mean(1)  # (3 B, 2): mean over the queries
        own = torch.arange(len(patches), device=logits.device)
        is_own = torch.ones_like(own, dtype=torch.bool)  # the sample itself
        is_match = torch.cat([is_own, other_image == own, other_text == own])  # (3 B,)
        return F.cross_entropy(logits.float(), is_match.long())

    def captioning_loss(
        self, patches: torch.Tensor, input_ids: torch.Tensor, is_text: torch.Tensor
    ) -> torch.Tensor:
        """The cross-entropy of each token, given the queries and the tokens before it."""
        inputs = input_ids.clone()
        inputs[:, 0] = self.decode_id
        num_queries = len(self.queries)
        states = self.qformer(
            self.expand_queries(patches),
            self.embed_text(inputs),
            patches,
            captioning_mask(num_queries, is_text),
        )
        # The state at t predicts the token at t + 1.
        words = F.gelu(self.word_layer(states[:, num_queries:-1]))
        logits = F.linear(self.word_norm(words), self.word_embedding.weight, self.word_bias)
        target = input_ids[:, 1:].masked_fill(~is_text[:, 1:], IGNORE_INDEX)
        return F.cross_entropy(
            logits.float().flatten(0, 1), target.flatten(), label_smoothing=LABEL_SMOOTHING
        )

    def embed_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Word and position embeddings (B, T, D). The body applies the first norm."""
        T = input_ids.shape[1]
        return self.word_embedding(input_ids) + self.position_embedding.weight[:T]

    def expand_queries(self, patches: torch.Tensor) -> torch.Tensor:
        """The queries once per image, (B, Q, D)."""
        return self.queries.to(patches.dtype).expand(len(patches), -1, -1)


def contrastive_loss(similarity: torch.Tensor) -> torch.Tensor:
    """Each image finds its caption, each caption its image: mean of both cross-entropies."""
    target = torch.arange(len(similarity), device=similarity.device)  # the diagonal is right
    similarity = similarity.float()
    of_images = F.cross_entropy(similarity, target, label_smoothing=LABEL_SMOOTHING)
    of_captions = F.cross_entropy(similarity.T, target, label_smoothing=LABEL_SMOOTHING)
    return (of_images + of_captions) / 2


def draw_negatives(
    similarity: torch.Tensor, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every caption another image, and for every image another caption, each (B,).

    Drawn with the probabilities softmax(s) of the wrong ones: those that look right come most often
    (hard negatives). A single pair, which has no wrong ones, gets itself. Drawn on the CPU, so they
    are the same on every device.
    """
    B = len(similarity)
    similarity = torch.nan_to_num(similarity.float().cpu())  # such a loss is the loop's to report
    if B > 1:
        similarity.fill_diagonal_(-torch.inf)
    images = torch.multinomial(similarity.T.softmax(-1), 1, generator=generator)
    captions = torch.multinomial(similarity.softmax(-1), 1, generator=generator)
    return images.squeeze(1), captions.squeeze(1)


def matching_mask(num_queries: int, is_text: torch.Tensor) -> torch.Tensor:
    """(B, 1, 1, Q + T): everything attends to everything but the padding."""
    B = len(is_text)
    is_query = torch.ones(B, num_queries, dtype=torch.bool, device=is_text.device)
    return torch.cat([is_query, is_text], dim=1)[:, None, None, :]


def captioning_mask(num_queries: int, is_text: torch.Tensor) -> torch.Tensor:
    """(B, 1, Q + T, Q + T): queries attend to queries; text to queries and to its own past."""
    T = is_text.shape[1]
    S = num_queries + T
    causal = torch.ones(S, S, dtype=torch.bool, device=is_text.device).tril()
    causal[:num_queries, :num_queries] = True  # queries see each other, and no text
    return causal & matching_mask(num_queries, is_text)
