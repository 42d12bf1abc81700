#!/usr/bin/env python3
"""Numbers of transformers (torch, f32, eager attention) for a tiny checkpoint of each family and variant, for
hawser/zoo/parity_test.cc. Weights and ids follow from names by a formula (values, token_ids), so that a file holds only
a configuration, the names and shapes of its tensors, and what the reference computes.

    families.py make  hawser/zoo/testdata [NAME...]    the files of the test
    families.py write FOLDER [NAME...]                 the checkpoints as Hugging Face folders

Baichuan has no class in transformers: its reference is written here, from its public description.
"""
import json
import math
import pathlib
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

LENGTHS = (1, 7, 300)
ROWS_OF_300 = (0, 1, 63, 130, 257, 299)
SKETCHES = 7  # random projections of a gradient beside its norm

BASE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None)
NEOX = dict(model_type="gpt_neox", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
FALCON = dict(model_type="falcon", vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
              max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
BLOOM = dict(model_type="bloom", vocab_size=64, n_layer=2, bos_token_id=1, eos_token_id=2)
MPT = dict(model_type="mpt", vocab_size=64, d_model=32, n_heads=4, n_layers=2, max_seq_len=512, bos_token_id=0,
           eos_token_id=0)
BAICHUAN = dict(model_type="baichuan", architectures=["BaichuanForCausalLM"], vocab_size=64, hidden_size=32,
                intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, hidden_act="silu", rms_norm_eps=1e-6,
                bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, torch_dtype="float32", use_cache=True)
GEMMA = dict(BASE, head_dim=16, query_pre_attn_scalar=12, sliding_window=24, bos_token_id=2, eos_token_id=1)
PHI3 = dict(BASE, model_type="phi3")
LONG = dict(short_factor=[1.05, 1.02, 1.1, 1.3], long_factor=[1.1, 1.9, 3.5, 4.0])

# Configurations as files have them: a few in the words of transformers 4 (rope_theta, rope_scaling), marked "raw", the
# others as transformers 5 writes them.
VARIANTS = {
    "llama": dict(BASE, model_type="llama"),
    "llama_bias_tied": dict(BASE, model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                            head_dim=16),
    "llama_llama3": dict(BASE, model_type="llama", raw=True, rope_theta=500000.0, head_dim=16, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64)),
    "llama_yarn": dict(BASE, model_type="llama", raw=True, rope_theta=10000.0, head_dim=16, rope_scaling=dict(
        rope_type="yarn", factor=8.0, original_max_position_embeddings=64)),
    "llama_linear": dict(BASE, model_type="llama", raw=True, rope_theta=10000.0,
                         rope_scaling=dict(type="linear", factor=4.0)),
    "llama_dynamic": dict(BASE, model_type="llama", raw=True, max_position_embeddings=128,
                          rope_scaling=dict(type="dynamic", factor=2.0)),
    "mistral": dict(BASE, model_type="mistral", sliding_window=24),
    "mistral_no_window": dict(BASE, model_type="mistral", sliding_window=None, head_dim=16),
    "qwen2": dict(BASE, model_type="qwen2", tie_word_embeddings=True, rope_theta=1000000.0),
    "qwen2_windows": dict(BASE, model_type="qwen2", raw=True, num_hidden_layers=3, use_sliding_window=True,
                          sliding_window=20, max_window_layers=1, rope_theta=1000000.0),
    "qwen3": dict(BASE, model_type="qwen3", head_dim=16, rope_theta=1000000.0),
    "qwen3_bias_windows": dict(BASE, model_type="qwen3", head_dim=8, attention_bias=True, use_sliding_window=True,
                               sliding_window=20, max_window_layers=1, tie_word_embeddings=True),
    "gpt_neox": dict(NEOX),
    "gpt_neox_serial": dict(NEOX, raw=True, use_parallel_residual=False, rotary_pct=1.0, rotary_emb_base=10000,
                            hidden_act="gelu_new", tie_word_embeddings=True),
    "gpt_neox_no_bias": dict(NEOX, attention_bias=False, rotary_pct=0.5, rotary_emb_base=5000),
    "falcon_7b": dict(FALCON, multi_query=True, parallel_attn=True, bias=False),
    "falcon_40b": dict(FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=False, tie_word_embeddings=False),
    "falcon_11b": dict(FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1,
                       ffn_hidden_size=96, rope_theta=500042.0),
    "falcon_rw": dict(FALCON, raw=True, num_attention_heads=4, alibi=True, multi_query=False, parallel_attn=False,
                      bias=True),
    "falcon_rw_odd": dict(FALCON, num_attention_heads=6, hidden_size=48, alibi=True, multi_query=False,
                          parallel_attn=True, num_kv_heads=6),
    "bloom": dict(BLOOM, hidden_size=48, n_head=6),
    "bloom_old": dict(BLOOM, raw=True, n_embed=32, n_head=4, seq_length=512, attention_softmax_in_fp32=True,
                      masked_softmax_fusion=True, offset_alibi=100, unk_token_id=0, pad_token_id=3,
                      bias_dropout_fusion=True, skip_bias_add=True, skip_bias_add_qkv=False),
    "mpt": dict(MPT, attn_config=dict(clip_qkv=1.5)),
    "mpt_old": dict(MPT, raw=True, d_model=48, n_heads=6, expansion_ratio=4, emb_pdrop=0, resid_pdrop=0,
                    learned_pos_emb=True, no_bias=True, norm_type="low_precision_layernorm", logit_scale=None,
                    attn_config=dict(alibi=True, alibi_bias_max=8, attn_impl="torch", attn_pdrop=0,
                                     attn_type="multihead_attention", attn_uses_sequence_id=False, clip_qkv=None,
                                     prefix_lm=False, qk_ln=False, softmax_scale=0.25)),
    "baichuan_7b": dict(BAICHUAN, raw=True, max_position_embeddings=512),
    "baichuan_13b": dict(BAICHUAN, raw=True, num_attention_heads=5, hidden_size=40, model_max_length=512),
    "phi3": dict(PHI3, sliding_window=24),
    "phi3_longrope": dict(PHI3, raw=True, max_position_embeddings=512, original_max_position_embeddings=128,
                          rope_theta=10000.0, rope_scaling=dict(type="longrope", **LONG)),
    "phi3_partial": dict(PHI3, raw=True, head_dim=None, num_attention_heads=2, rope_theta=10000.0,
                         partial_rotary_factor=0.5, tie_word_embeddings=True, original_max_position_embeddings=64,
                         rope_scaling=dict(type="longrope", **LONG)),
    "gemma": dict(BASE, model_type="gemma", head_dim=16, bos_token_id=2, eos_token_id=1),
    "gemma2": dict(GEMMA, model_type="gemma2", attn_logit_softcapping=4.0, final_logit_softcapping=6.0),
    "gemma2_bias": dict(GEMMA, model_type="gemma2", attention_bias=True, attn_logit_softcapping=None,
                        final_logit_softcapping=None, tie_word_embeddings=False, layer_types=[
                            "full_attention", "sliding_attention"]),
    "gemma3_text": dict(GEMMA, model_type="gemma3_text", num_hidden_layers=3, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention"]),
    "gemma3_text_old": dict(GEMMA, model_type="gemma3_text", raw=True, num_hidden_layers=3, sliding_window_pattern=3,
                            rope_theta=1000000.0, rope_local_base_freq=10000.0,
                            rope_scaling=dict(rope_type="linear", factor=8.0), hidden_activation="gelu_pytorch_tanh"),
    "olmo2": dict(BASE, model_type="olmo2", rope_theta=500000.0),
    "olmo2_bias_tied": dict(BASE, model_type="olmo2", attention_bias=True, head_dim=16, tie_word_embeddings=True),
    "smollm3": dict(BASE, model_type="smollm3", num_hidden_layers=4, no_rope_layer_interval=3),
    "smollm3_windows": dict(BASE, model_type="smollm3", raw=True, num_hidden_layers=3, no_rope_layers=[1, 0, 1],
                            use_sliding_window=True, sliding_window=20, attention_bias=True, mlp_bias=True,
                            tie_word_embeddings=False, rope_theta=10000.0),
}


def mix(name, count):
    """Numbers of 64 bits from a name: splitmix64 over its FNV-1a hash."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def values(name, shape, plus_one):
    """A weight: uniform, scaled so that no branch dominates. Norms lie around 1, or around 0 where 1 is added."""
    unit = ((mix(name, math.prod(shape)) >> np.uint64(56)).astype(np.float32) - 128) / 128
    if name.endswith(".bias"):
        scale, center = 0.5, 0.0
    elif len(shape) == 1:
        scale, center = 0.5, 0.0 if plus_one else 1.0
    elif "embed_tokens" in name or "embed_in" in name or "embeddings" in name or "wte" in name:
        scale, center = 1.0, 0.0
    else:
        scale, center = 2.0 ** round(math.log2(2.4 / math.sqrt(shape[1]))), 0.0
    return (center + scale * unit).astype(np.float32).reshape(shape)


def token_ids(count, vocab):
    return (mix("ids", count) % np.uint64(vocab)).astype(np.int64)


class Baichuan(torch.nn.Module):
    """RMS norms, one matrix W_pack for q, k and v, SwiGLU; rotary positions (7B) or ALiBi (13B)."""

    def __init__(self, config, weights):
        super().__init__()
        self.config = config
        self.alibi = "max_position_embeddings" not in config
        self.names = dict(weights)
        self.weights = torch.nn.ParameterDict(
            {name.replace(".", "/"): torch.nn.Parameter(torch.from_numpy(w)) for name, w in weights.items()})

    def named_gradients(self):
        return {name: self.weights[name.replace(".", "/")].grad for name in self.names}

    def forward(self, ids):
        c, w = self.config, lambda name: self.weights[(name + ".weight").replace(".", "/")]
        heads = c["num_attention_heads"]
        dim = c["hidden_size"] // heads
        length = ids.shape[0]
        norm = lambda x, name: w(name) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c["rms_norm_eps"]))
        place = torch.arange(length, dtype=torch.float32)
        mask = torch.full((length, length), float("-inf")).triu(1)
        if self.alibi:
            whole = 2 ** math.floor(math.log2(heads))
            slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
            slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
            mask = mask + torch.tensor(slopes)[:, None, None] * (place[None, None, :] - place[None, :, None])
        else:
            angles = place[:, None] * (1.0 / c.get("rope_theta", 10000.0) ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
            cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
            rotate = lambda x: x * cos + torch.cat([-x[..., dim // 2:], x[..., :dim // 2]], -1) * sin
        x = w("model.embed_tokens")[ids]
        for layer in range(c["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            packed = norm(x, at + "input_layernorm") @ w(at + "self_attn.W_pack").T
            q, k, v = (part.view(length, heads, dim).transpose(0, 1) for part in packed.chunk(3, -1))
            if not self.alibi:
                q, k = rotate(q), rotate(k)
            seen = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(dim) + mask, -1) @ v
            x = x + seen.transpose(0, 1).reshape(length, -1) @ w(at + "self_attn.o_proj").T
            h = norm(x, at + "post_attention_layernorm")
            h = torch.nn.functional.silu(h @ w(at + "mlp.gate_proj").T) * (h @ w(at + "mlp.up_proj").T)
            x = x + h @ w(at + "mlp.down_proj").T
        return norm(x, "model.norm") @ w("lm_head").T


def baichuan_shapes(c):
    h, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    shapes = {"model.embed_tokens.weight": (v, h), "model.norm.weight": (h,), "lm_head.weight": (v, h)}
    for layer in range(c["num_hidden_layers"]):
        for name, shape in (("self_attn.W_pack", (3 * h, h)), ("self_attn.o_proj", (h, h)), ("mlp.gate_proj", (f, h)),
                            ("mlp.up_proj", (f, h)), ("mlp.down_proj", (h, f)), ("input_layernorm", (h,)),
                            ("post_attention_layernorm", (h,))):
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return shapes


def write_folder(name, folder):
    """The checkpoint as a Hugging Face folder; returns its configuration and weights."""
    from transformers import AutoConfig, AutoModelForCausalLM
    config = {key: value for key, value in VARIANTS[name].items() if value is not None or key != "head_dim"}
    raw = config.pop("raw", False)
    folder.mkdir(parents=True, exist_ok=True)
    if config["model_type"] == "baichuan":
        shapes = baichuan_shapes(config)
    else:
        (folder / "config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
        model.float().save_pretrained(folder)
        shapes = {key: value.shape for key, value in load_file(folder / "model.safetensors").items()}
        if not raw:
            config = json.loads((folder / "config.json").read_text())
    weights = {key: values(key, tuple(shape), config["model_type"].startswith("gemma"))
               for key, shape in sorted(shapes.items())}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return config, weights


def reference(folder, config, weights):
    """A function from ids to logits, and one that names gradients as the file does."""
    if config["model_type"] == "baichuan":
        model = Baichuan(config, weights)
        return model, model.named_gradients
    from transformers import AutoModelForCausalLM
    # Eager attention of Falcon adds its biases twice, once with the mask and once more.
    attention = "sdpa" if config["model_type"] == "falcon" else "eager"
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()
    renamed = {"embed_out.weight": "lm_head.weight"}

    def gradients():
        found = dict(model.named_parameters())
        return {name: found[renamed.get(name, name) if name not in found else name].grad for name in weights}
    return lambda ids: model(ids[None], use_cache=False).logits[0], gradients


def summary(name, gradient):
    flat = gradient.detach().numpy().astype(np.float64).ravel()
    signs = [1.0 - 2.0 * (mix(f"{name}#{i}", flat.size) >> np.uint64(63)).astype(np.float64) for i in range(SKETCHES)]
    return np.array([np.linalg.norm(flat)] + [sign @ flat for sign in signs], dtype=np.float32)


def make(name, out):
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        config, weights = write_folder(name, folder)
        forward, gradients = reference(folder, config, weights)
        tensors = {}
        with torch.no_grad():
            for length in LENGTHS:
                logits = forward(torch.from_numpy(token_ids(length, 64))).float().numpy()
                tensors[f"logits.{length}"] = logits[list(ROWS_OF_300)] if length == 300 else logits
        ids = torch.from_numpy(token_ids(300, 64))
        loss = torch.nn.functional.cross_entropy(forward(ids)[:-1].float(), ids[1:])
        loss.backward()
        tensors["loss"] = np.array([loss.item()], dtype=np.float32)
        tensors["gradients"] = np.stack([summary(key, value) for key, value in gradients().items()])
        metadata = {"config": json.dumps(config, separators=(",", ":")),
                    "weights": json.dumps([[key, list(w.shape)] for key, w in weights.items()], separators=(",", ":"))}
        save_file(tensors, out / f"{name}.safetensors", metadata=metadata)
        spread = tensors["logits.300"].std()
        print(f"{name}: {(out / f'{name}.safetensors').stat().st_size} bytes, loss {loss.item():.3f}, "
              f"spread of logits {spread:.2f}", flush=True)


def main():
    command, out, names = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:] or list(VARIANTS)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        if command == "make":
            make(name, out)
        else:
            write_folder(name, out / name)


if __name__ == "__main__":
    main()
