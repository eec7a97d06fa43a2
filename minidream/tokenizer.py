"""The tokenizer: byte-level BPE trained on the world's text, with DreamLLM's five special tokens.

Bytes are the base alphabet, so any text in any script encodes and decodes without loss. Taught in notebook 01.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<im_start>", "<im_patch>", "<im_end>", "<dream>", "<dream_end>")
BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 768, special_tokens: tuple[str, ...] = SPECIAL_TOKENS
) -> PreTrainedTokenizerFast:
    """Learn merges from `texts` until `vocab_size` tokens exist (256 bytes and all special tokens included).

    The result opens as a plain `PreTrainedTokenizerFast`; it puts <s> before and </s> after a text when asked to add
    special tokens, as CLIP's text tower expects.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        # Not in the order of use: transformers' CLIP takes an end token of id 2 for an old config and pools wrongly.
        special_tokens=[PAD, EOS, BOS, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(special_tokens),
    )
