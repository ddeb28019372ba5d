"""Tiny random models of MoE families of Hugging Face, made from a configuration."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 3,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "olmoe": ("Olmoe", {"num_experts": 8, "num_experts_per_tok": 3}),
    "qwen2_moe": (
        "Qwen2Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 8, "num_experts_per_tok": 2}),
    "deepseek_v2": (
        "DeepseekV2",
        {
            **_LATENT,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "topk_method": "group_limited_greedy",
            "n_group": 2,
            "topk_group": 1,
            "routed_scaling_factor": 2.5,
        },
    ),
    "deepseek_v3": (
        "DeepseekV3",
        {
            **_LATENT,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "routed_scaling_factor": 2.5,
        },
    ),
    "glm4_moe": (
        "Glm4Moe",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "num_hidden_layers": 3,
            "head_dim": 8,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "gpt_oss": (
        "GptOss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "phimoe": ("Phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "minimax": (
        "MiniMax",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "jamba": (
        "Jamba",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 4,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    "granitemoe": (
        "GraniteMoe",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {
            "moe_num_experts": 6,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 0,
        },
    ),
    "dots1": (
        "Dots1",
        {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "first_k_dense_replace": 0,
        },
    ),
    "minimax_m2": (
        "MiniMaxM2",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    ),
    "qwen3_next": (
        "Qwen3Next",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "shared_expert_intermediate_size": 24,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "lfm2_moe": (
        "Lfm2Moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 4,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        },
    ),
    "afmoe": (
        "Afmoe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_dense_layers": 0,
            "num_shared_experts": 1,
            "head_dim": 8,
        },
    ),
    "dbrx": (
        "Dbrx",
        {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "vocab_size": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            "ffn_config": {
                "hidden_size": 32,
                "ffn_hidden_size": 24,
                "moe_num_experts": 4,
                "moe_top_k": 2,
            },
        },
    ),
    "llama4": (
        "Llama4",
        {
            "intermediate_size_mlp": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "interleave_moe_layer_step": 1,
            "head_dim": 8,
        },
    ),
}
"""Name of a family: stem of its classes, and what differs from `COMMON`."""


def tiny_model(family: str, *, seed: int = 0, **more: Any) -> Any:
    """Make a tiny model with random weights, large enough that routing matters."""
    import torch
    import transformers

    stem, changes = FAMILIES[family]
    names = {"llama4": ("Llama4TextConfig", "Llama4ForCausalLM")}
    config, model = names.get(family, (f"{stem}Config", f"{stem}ForCausalLM"))
    arguments = changes if family == "dbrx" else COMMON | changes | more
    torch.manual_seed(seed)
    made = getattr(transformers, model)(getattr(transformers, config)(**arguments))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim >= 2 or "bias" in name:
                parameter.normal_(std=0.2)
        for name, buffer in made.named_buffers():
            if "correction_bias" in name:
                buffer.normal_(std=0.3)
    return made.eval()
