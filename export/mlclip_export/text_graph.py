"""The text tower becomes an ONNX file: token ids in, embedding and tokens out, zeros without a text."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from mlclip.encoders.clip import Encoder
from mlclip.encoders.features import TEXT_KINDS
from mlclip.encoders.text_tower import has_clip_tokens, read_text
from mlclip.errors import ExportError
from mlclip_export.graphs import write_graph
from mlclip_export.parity import BATCHES

END = 49407  # CLIP's id of a text's end, the largest id


class ServedTextEncoder(nn.Module):
    """The text tower as it is served: all-zero ids mean that there is no text, and give zeros."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.model = encoder.model

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids int64 [B, L] to text_embedding [B, D] and text_tokens [B, L, V]."""
        embedding, tokens = read_text(self.model, token_ids)
        present = (token_ids.amax(dim=1, keepdim=True) > 0).float()
        return embedding * present, tokens * present[:, :, None]


def write_text_encoder(encoder: Encoder, folder: Path) -> None:
    """Write `model.onnx` of an encoder's text tower, after `check_served_text`; errors as for `write_graph`."""
    ids = torch.zeros(2, encoder.text_token_count, dtype=torch.int64)
    write_graph(ServedTextEncoder(encoder), (ids,), ("token_ids",), TEXT_KINDS, folder)


@torch.no_grad()
def text_cases(encoder: Encoder) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Run the text tower on random words, drawn with a fixed seed; every third text is missing.

    Yields token ids and torch's outputs, for each batch size of BATCHES.
    """
    draw = torch.Generator().manual_seed(0)
    places = torch.arange(encoder.text_token_count)
    served = ServedTextEncoder(encoder)
    for batch in BATCHES:
        ids = torch.randint(1, END - 1, (batch, encoder.text_token_count), generator=draw)
        ends = torch.randint(2, encoder.text_token_count, (batch, 1), generator=draw)
        ids = torch.where(places < ends, ids, torch.where(places == ends, END, 0))
        ids[1::3] = 0
        yield {"token_ids": ids}, dict(zip(TEXT_KINDS, served(ids), strict=True))


def check_served_text(encoder: Encoder) -> None:
    """Raise ExportError if the text tower is not open_clip's own, or its tokenizer is not CLIP's."""
    try:
        served = encoder.text_token_count and has_clip_tokens(encoder.tokenizer)
    except Exception as error:  # tokenizers of some families come from a hub, whose failures are of many types
        raise ExportError(f"the tokenizer of {encoder.name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not served:
        raise ExportError(
            f"texts of {encoder.name} cannot be served: the server has CLIP's tokenizer, and this encoder uses "
            "another; train heads with text on an encoder of the CLIP family"
        )
