// train/tensorboard.h - scalars as TensorBoard event files, beside metrics.jsonl.
//   file    events.out.tfevents.<seconds>.hawser, one each time a run is begun or gone on with, ascending
//   record  u64 length, u32 masked crc of those 8 bytes, Event, u32 masked crc of the Event     (TFRecord)
//   Event   1 wall_time f64 | 2 step int64 | 3 file_version text | 5 summary | 7 session_log      (protobuf)
//   summary 1 value { 1 tag text | 2 simple_value f32 }     session_log 1 status (1: START)
// The crc is CRC-32C (Castagnoli, RFC 3720 B.4), masked as rotate-right-15 + 0xa282ead8. Little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "hawser/base/file.h"

namespace hawser {

uint32_t Crc32c(std::span<const std::byte> bytes);
uint32_t MaskedCrc32c(std::span<const std::byte> bytes);

class TensorBoardLog {
 public:
  /// Cuts every event of a step after `step`, and a record that was cut off, from the files in `folder`, removes files
  /// that hold nothing then, and begins a new file after them. Readers that hold an older file open learn of it by a
  /// START event. Errors: kIo.
  TensorBoardLog(const std::filesystem::path& folder, int64_t step);
  /// One event with all of `scalars`, in one write. Errors: kIo.
  void Append(int64_t step, std::span<const std::pair<std::string_view, double>> scalars);

 private:
  AppendFile file_;
};

}  // namespace hawser
