"""The tokenizer: byte-level BPE trained on the world's text, with DreamLLM's five special tokens.

Bytes are the base alphabet, so any text in any script encodes and decodes without loss. Taught in notebook 01.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<im_start>", "<im_patch>", "<im_end>", "<dream>", "<dream_end>")
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
# Messages as training wrote them: no tokens for the two sides, for a question ends with "Answer:" and an order with a
# full stop. `{% generation %}` marks what the assistant said, for `return_assistant_tokens_mask`.
_CHAT_TEMPLATE = """
{%- set seen = "<im_start>" + "<im_patch>" * NUM_PATCHES + "<im_end>" %}
{%- set dreamed = "<dream>" + "<im_patch>" * NUM_DREAM_QUERIES + "<dream_end>" + seen %}
{%- set now = namespace(after_text=false, written="") %}
{{- bos_token or eos_token }}
{%- for message in messages %}
    {%- set assistant = message.role == "assistant" %}
    {%- if message.role != ("assistant" if loop.index0 % 2 else "user") %}
        {{- raise_exception("the user begins, then user and assistant take turns") }}
    {%- endif %}
    {%- set parts = [{"type": "text", "text": message.content}] if message.content is string else message.content %}
    {%- set now.written = "" %}
    {%- for part in parts %}
        {%- if part.type == "image" %}
            {%- set now.written = now.written + (dreamed if assistant else seen) %}
        {%- else %}
            {%- set text = part.text | trim %}
            {%- if loop.last and not assistant and text.endswith("?") %}
                {%- set text = "Question: " + text + " Answer:" %}
            {%- endif %}
            {%- set now.written = now.written + (" " if now.after_text else "") + text %}
        {%- endif %}
        {%- set now.after_text = part.type != "image" %}
    {%- endfor %}
    {%- if assistant %}
        {%- generation %}{{ now.written }}{{ eos_token if loop.last else "" }}{% endgeneration %}
    {%- else %}
        {{- now.written }}
    {%- endif %}
{%- endfor %}
"""


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


def chat_template(num_dream_queries: int, num_patches: int) -> str:
    """The Jinja template by which `tokenizer.apply_chat_template` writes a conversation, pictures as whole blocks.

    Unlike `Chat`, it trusts its texts: one that spells a special token becomes one, as with every chat template.
    """
    return (
        _CHAT_TEMPLATE.strip()
        .replace("NUM_DREAM_QUERIES", f"{num_dream_queries}")
        .replace("NUM_PATCHES", f"{num_patches}")
    )
