#include "hawser/zoo/hf_keys.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

using nlohmann::json;

/// Change nothing that is computed here, whatever they say: where a file came from, how a program runs it, how it was
/// initialised, labels of classifiers, defaults of sampling, and dropout, which is for training elsewhere.
constexpr std::string_view kHarmless[] = {"attention_dropout",
                                          "attn_pdrop",
                                          "attn_implementation",
                                          "auto_map",
                                          "bad_words_ids",
                                          "begin_suppress_tokens",
                                          "cache_implementation",
                                          "chunk_size_feed_forward",
                                          "classifier_dropout",
                                          "decoder_start_token_id",
                                          "diversity_penalty",
                                          "do_sample",
                                          "early_stopping",
                                          "emb_pdrop",
                                          "embd_pdrop",
                                          "encoder_no_repeat_ngram_size",
                                          "exponential_decay_length_penalty",
                                          "finetuning_task",
                                          "forced_bos_token_id",
                                          "forced_eos_token_id",
                                          "gradient_checkpointing",
                                          "hidden_dropout",
                                          "id2label",
                                          "initializer_range",
                                          "is_decoder",
                                          "is_llama_config",
                                          "keys_to_ignore_at_inference",
                                          "label2id",
                                          "length_penalty",
                                          "max_length",
                                          "max_new_tokens",
                                          "max_sequence_length",
                                          "max_window_layers",
                                          "min_length",
                                          "model_max_length",
                                          "name_or_path",
                                          "no_repeat_ngram_size",
                                          "num_beam_groups",
                                          "num_beams",
                                          "num_labels",
                                          "num_return_sequences",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "output_past",
                                          "output_scores",
                                          "pad_token_id",
                                          "prefix",
                                          "pretraining_tp",
                                          "problem_type",
                                          "remove_invalid_values",
                                          "repetition_penalty",
                                          "resid_pdrop",
                                          "return_dict",
                                          "return_dict_in_generate",
                                          "sep_token_id",
                                          "suppress_tokens",
                                          "task_specific_params",
                                          "temperature",
                                          "tf_legacy_loss",
                                          "tie_encoder_decoder",
                                          "tokenizer_class",
                                          "top_k",
                                          "top_p",
                                          "torchscript",
                                          "transformers.js_config",
                                          "transformers_version",
                                          "typical_p",
                                          "unk_token_id",
                                          "unsloth_fixed",
                                          "unsloth_version",
                                          "use_bfloat16",
                                          "use_cache"};

/// Of rope_scaling and rope_parameters: read for some kind, or without a meaning. extrapolation_factor and attn_factor
/// are looked at by the kind that knows them.
constexpr std::string_view kRope[] = {"rope_type",
                                      "type",
                                      "rope_theta",
                                      "partial_rotary_factor",
                                      "factor",
                                      "original_max_position_embeddings",
                                      "attention_factor",
                                      "beta_fast",
                                      "beta_slow",
                                      "short_factor",
                                      "long_factor",
                                      "low_freq_factor",
                                      "high_freq_factor",
                                      "mscale",
                                      "mscale_all_dim",
                                      "truncate",
                                      "extrapolation_factor",
                                      "attn_factor",
                                      "finetuned"};

template <class List>
bool In(const List& list, std::string_view key) {
  return std::find(std::begin(list), std::end(list), key) != std::end(list);
}

/// Words and flags under a name with a leading underscore are a program's own notes, as are paths it read.
template <class Json>
bool IsNote(std::string_view key, const Json& value) {
  const bool word = value.is_string() || value.is_boolean();
  return word && (key.starts_with('_') || key.ends_with("name_or_path"));
}

/// What a member that is not there would be.
template <class Json>
bool IsOff(const Json& value) {
  if (value.is_boolean()) return !value.template get<bool>();
  if (value.is_number()) return value.template get<double>() == 0;
  return value.empty() || (value.is_string() && value.template get_ref<const std::string&>().empty());
}

[[noreturn]] void Refuse(std::string_view key, const json& value) {
  std::string text = JsonText(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  Fail(
      ErrorKind::kUnsupported,
      "'{}' = {} is not supported, and not known to change nothing; if the model does not depend on it, delete it from "
      "config.json",
      key, text);
}

/// Families without windows do not read these: they must say that there is none, or one that is never full.
bool NamesNoWindow(const json& config, std::string_view key, const json& value) {
  if (key == "layer_types") {
    return value.is_array() && std::ranges::all_of(value, [](const json& type) { return type == "full_attention"; });
  }
  if (key != "sliding_window") return false;
  const auto use = config.find("use_sliding_window"), context = config.find("max_position_embeddings");
  if (use != config.end() && *use == false) return true;
  return context != config.end() && context->is_number() && value.is_number() && value >= *context;
}

/// A block that speaks of kinds of layers has one for each inside (hf_rope.h knows for which families).
void CheckRope(const std::string& scope, const json& block) {
  for (const auto& [name, member] : block.items()) {
    const bool inside = name == "full_attention" || name == "sliding_attention";
    if (inside && member.is_object()) {
      CheckRope(scope + "." + name, member);
    } else if (!IsOff(member) && !In(kRope, name)) {
      Refuse(scope + "." + name, member);
    }
  }
}

}  // namespace

void CheckHfKeys(const json& config, const std::vector<std::string>& known, const std::string& scope) {
  for (const auto& [key, value] : config.items()) {
    if (IsOff(value) || In(kHarmless, key) || IsNote(key, value)) continue;
    const bool is_window = key == "sliding_window" || key == "layer_types";
    if (!In(known, key) && !(is_window && NamesNoWindow(config, key, value))) Refuse(scope + key, value);
    if ((key == "rope_scaling" || key == "rope_parameters") && value.is_object()) CheckRope(key, value);
  }
}

bool IsCarriedHfKey(std::string_view key, const nlohmann::ordered_json& value, const std::vector<std::string>& known) {
  return !In(known, key) && key != "auto_map" && (In(kHarmless, key) || IsNote(key, value) || IsOff(value));
}

}  // namespace hawser
