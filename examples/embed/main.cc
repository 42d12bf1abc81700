// embed MODEL PROMPT: continues a text, token by token the most probable one.
#include <cstdio>

#include "hawser/device/registry.h"
#include "hawser/infer/generation.h"
#include "hawser/model/kv_shape.h"
#include "hawser/zoo/load.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto backend = hawser::MakeBackend("cpu");
  const auto [model, weights] = hawser::LoadModelToRun(argv[1], /*tokenizer=*/{}, /*dtype=*/{});
  hawser::Decoder decoder(backend.get(), weights);
  hawser::KvCache cache = hawser::NewKvCache(backend.get(), decoder.spec(), {}, {}, weights.dtype(), /*max_length=*/0);
  hawser::Generation generation(&decoder, &cache);
  const hawser::GenerateOptions options = {
      .max_new = 24, .sampler = {.temperature = 0}, .end_ids = hawser::EndIds(decoder.spec(), *model.tokenizer)};
  const auto ids = hawser::PromptIds(argv[2], *model.tokenizer);
  std::printf("%s\n", hawser::Generate(generation, ids, *model.tokenizer, options).text.c_str());
}
