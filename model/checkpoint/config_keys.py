"""Which keys of config.json are read, which values of them are implemented, and which keys are passed over.

Why unknown keys are errors in the towers' sections: a misspelt or new key there (`sliding_windw`, a second
rotary base) could change what the model computes. The top level describes the whole and not a tower; what
matters there is checked by name, and the rest (`_vocab_size`, `ignore_index`, notes of trainers) is passed
over unseen. Accepted by these lists are the files that transformers 4.41 to 5.23 write.
"""

from __future__ import annotations

# Bounds on what a file may ask for, so that even a product of three stays far from the largest tensor size.
MAX_DIMENSION = 1 << 20  # of any width or vocabulary; the largest published is 257,216
MAX_LAYERS = 1 << 8  # the largest published is 46
MAX_SIDE = 1 << 14  # pixels, of image and patch; the largest published is 896
MAX_REAL = 1e9  # of rotary base, soft caps and scalars; the largest published is 10,000

# Written into every section by transformers' PretrainedConfig: generation, classification, bookkeeping.
_GENERIC = {
    *("_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal"),
    *("_commit_hash", "_experts_implementation_internal", "_name_or_path", "_output_attentions"),
    *("add_cross_attention", "architectures", "attn_implementation", "auto_map", "bad_words_ids"),
    *("begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward", "cross_attention_hidden_size"),
    *("decoder_start_token_id", "diversity_penalty", "do_sample", "dtype", "early_stopping"),
    *("encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty"),
    *("finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "is_decoder"),
    *("is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "model_type"),
    *("name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels"),
    *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores"),
    *("pad_token_id", "prefix", "problem_type", "remove_invalid_values", "repetition_penalty"),
    *("return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens"),
    *("task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder"),
    *("tie_last_hidden_states", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript"),
    *("transformers_version", "typical_p", "use_bfloat16"),
}
# Training, caching, and copies of what other keys decide.
_TEXT_IGNORED = {
    *("attention_dropout", "cache_implementation", "initializer_range", "use_cache"),
    *("num_image_tokens", "num_positions", "projection_dim"),
}
# `projector_hidden_act` names an activation that PaliGemma's projector (one linear layer) does not have.
_VISION_IGNORED = {
    *("attention_dropout", "initializer_factor", "initializer_range", "projector_hidden_act"),
    *("num_image_tokens", "num_positions", "projection_dim", "tie_word_embeddings", "vocab_size"),
}

# Values that are implemented, for keys whose other values would ask for other arithmetic.
TOP_ACCEPTED: dict[str, tuple[object, ...]] = {
    "model_type": ("paligemma",),
    "tie_word_embeddings": (True,),
    "quantization_config": (None,),
    "per_layer_config": (None,),
}
TEXT_ACCEPTED: dict[str, tuple[object, ...]] = {
    # "gelu" is a legacy value of the first Gemma files, which their readers take for the tanh form.
    "hidden_act": ("gelu_pytorch_tanh", "gelu", None),
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "attention_bias": (False,),
    "use_bidirectional_attention": (True, None),  # None: PaliGemma's own default, True
    "tie_word_embeddings": (True,),
    "quantization_config": (None,),
    "per_layer_config": (None,),
    "pruned_heads": ({}, None),
}
VISION_ACCEPTED: dict[str, tuple[object, ...]] = {
    "model_type": ("siglip_vision_model",),
    "hidden_act": ("gelu_pytorch_tanh",),
    "num_channels": (3,),
    # The pooling head would come after the features that PaliGemma takes, so either value is the same to us;
    # a file that stores that head's tensors is refused, for holding more than the model.
    "vision_use_head": (False, True),
    "quantization_config": (None,),
    "per_layer_config": (None,),
    "pruned_heads": ({}, None),
}

_SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
GEMMA_KEYS = frozenset(_GENERIC | _TEXT_IGNORED | TEXT_ACCEPTED.keys() | _SIZES) | {
    *("vocab_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters"),
}
GEMMA2_KEYS = GEMMA_KEYS | {
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("sliding_window", "sliding_window_size", "layer_types"),
}
VISION_KEYS = frozenset(_GENERIC | _VISION_IGNORED | VISION_ACCEPTED.keys() | _SIZES) | {
    *("image_size", "patch_size", "layer_norm_eps"),
}
