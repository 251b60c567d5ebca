"""The text tower of an open_clip model: token ids in, an embedding and tokens out.

CLIP keeps the tower's layers on the model itself, later families in `model.text`; both are read through open_clip's
`forward_intermediates`. Towers of other libraries (Hugging Face's) return an embedding only.
"""

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

CLIP_VOCABULARY = 49408


def text_shape(model: nn.Module) -> tuple[int, int]:
    """L, the context length, and V, the width of a text's tokens; zeros if the tower's tokens are inaccessible."""
    if isinstance(model, open_clip.CLIP):
        return model.context_length, model.ln_final.weight.shape[0]
    text = getattr(model, "text", None)
    if isinstance(text, TextTransformer):
        return text.context_length, text.width
    return 0, 0


def read_text(model: nn.Module, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Run a text tower that has a `text_shape` on int64 [n, L], as the model's tokenizer makes them.

    Gives the embedding, float32 [n, D], L2-normalised, and the tokens, float32 [n, L, V], after the final norm, before
    pooling, zeros after a text's end.
    """
    outputs = model.forward_intermediates(text=token_ids, text_indices=1, normalize_intermediates=True)  # type: ignore[operator]
    tokens = outputs["text_intermediates"][0]
    return outputs["text_features"].float(), (tokens * _within(model, token_ids)[:, :, None]).float()


def has_clip_tokens(tokenizer: object) -> bool:
    """Whether a tokenizer returns CLIP's own ids of the whole, lower-cased text."""
    return (
        isinstance(tokenizer, SimpleTokenizer)
        and tokenizer.vocab_size == CLIP_VOCABULARY
        and tokenizer.reduction_fn is None
        and tokenizer.clean_fn("It's &amp; A") == "it's & a"
    )


def _within(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Which positions belong to the text, bool [n, L].

    Where the tower pools at the end token, these are the positions up to it (CLIP pads with 0, which is also the id of
    a "!" inside a word); otherwise all that are not padding.
    """
    text = getattr(model, "text", None)
    if isinstance(text, TextTransformer) and text.pool_type != "argmax":
        return torch.ne(token_ids, text.pad_id)
    places = torch.arange(token_ids.shape[1], device=token_ids.device)
    return torch.le(places, token_ids.argmax(dim=-1, keepdim=True))
