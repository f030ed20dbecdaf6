"""The keys of config.json: bounds of sizes, values that are implemented, and keys that are ignored.

An unknown key in a tower's section is an error, because a misspelt or new key (`sliding_windw`, a second
rotary base) could change what the model computes. Three kinds of keys are ignored: the keys listed here, keys
whose value leaves a setting off (null, false, or an empty text, list or object), and keys that begin with an
underscore, which transformers uses for internal notes. The
lists cover the files that transformers 4.41 to 5.24 write. The top level describes no tower, and transformers
ignores unknown keys there. They are accepted and named in a note.
"""

from __future__ import annotations

# Upper bounds, so that even a product of three sizes stays far below the largest possible tensor.
MAX_DIMENSION = 1 << 20  # any width or vocabulary size; the largest published value is 257,216
MAX_LAYERS = 1 << 8  # the largest published model has 46
MAX_SIDE = 1 << 14  # side of an image or patch in pixels; the largest published image has 896
MAX_REAL = 1e9  # rotary base, soft caps and scalars; the largest published value is 10,000

# Settings of generation and classification, and notes: transformers' PretrainedConfig writes them into every
# section. Settings of training and caching. Copies of values that other keys determine.
_IGNORED = {
    *("add_cross_attention", "architectures", "attention_dropout", "attn_implementation", "auto_map"),
    *("bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward"),
    *("cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype"),
    *("early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty"),
    *("finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range"),
    *("is_decoder", "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length"),
    *("model_type", "name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams"),
    *("num_image_tokens", "num_labels", "num_positions", "num_return_sequences", "output_attentions"),
    *("output_hidden_states", "output_scores", "pad_token_id", "prefix", "problem_type", "projection_dim"),
    *("remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate"),
    *("sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss"),
    *("tie_encoder_decoder", "tie_last_hidden_states", "tokenizer_class", "top_k", "top_p", "torch_dtype"),
    *("torchscript", "transformers_version", "typical_p", "use_bfloat16"),
}

# Keys that affect the arithmetic, each with the values that are implemented. None stands for null in JSON.
_EVERYWHERE: dict[str, tuple[object, ...]] = {"per_layer_config": (None,)}
# How a model was quantised. Dequantised models keep the key. If the weights are still quantised, their dtypes
# or names are refused, so the key itself has no effect.
QUANTIZATION = "quantization_config"
TOP_ACCEPTED = {"model_type": ("paligemma",), "tie_word_embeddings": (True, False), **_EVERYWHERE}
TEXT_ACCEPTED = {
    # The first Gemma files say "gelu", and transformers reads this value as the tanh form.
    "hidden_act": ("gelu_pytorch_tanh", "gelu", None),
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "attention_bias": (False,),
    "use_bidirectional_attention": (True, None),  # None: PaliGemma's default, which is True
    "tie_word_embeddings": (True, False),  # transformers 5 reads only the key of the top level
    "pruned_heads": ({}, None),
    **_EVERYWHERE,
}
VISION_ACCEPTED = {
    "model_type": ("siglip_vision_model",),
    "hidden_act": ("gelu_pytorch_tanh",),
    "num_channels": (3,),
    # PaliGemma takes its features before the pooling head, so both values mean the same model.
    "vision_use_head": (False, True),
    "pruned_heads": ({}, None),
    **_EVERYWHERE,
}

_SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
GEMMA_KEYS = {
    *(*_IGNORED, *TEXT_ACCEPTED, *_SIZES, QUANTIZATION),
    *("vocab_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters", "cache_implementation", "use_cache"),
}
GEMMA2_KEYS = GEMMA_KEYS | {
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("sliding_window", "sliding_window_size", "layer_types"),
}
# `projector_hidden_act` names an activation that PaliGemma's projector (one linear layer) does not have.
VISION_KEYS = {
    *(*_IGNORED, *VISION_ACCEPTED, *_SIZES, QUANTIZATION),
    *("image_size", "patch_size", "layer_norm_eps", "initializer_factor", "projector_hidden_act"),
    *("tie_word_embeddings", "vocab_size"),
}
# Sizes of the top level are copies, some of them wrong, of those in the towers' sections.
TOP_KEYS = {
    *(*_IGNORED, *TOP_ACCEPTED, *_SIZES, QUANTIZATION),
    *("text_config", "vision_config", "image_token_index", "image_token_id", "ignore_index", "vocab_size"),
    *("use_cache", "cache_implementation", "pruned_heads", "processor_class"),
    *("unsloth_version", "unsloth_fixed"),
}
