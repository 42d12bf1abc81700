// kv/pages.h - the rows of slots: some tensors of one width and dtype, row s of each belonging to slot s. They lie in
// pages that caches share until one of them writes; no policy is known here.
//   paged       pages of KvRows::kPage slots, which only grow at their end: nothing ever moves
//   together    one page that holds all slots next to each other, so that some may be dropped anywhere
// Caches that share pages may be used by different threads, each by one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hawser/base/buffer.h"
#include "hawser/ops/backend.h"

namespace hawser {

class KvPages {
 public:
  /// `columns` of `dtype` a row; Q8_0: bytes.
  KvPages(Backend* backend, int32_t tensors, int64_t columns, DType dtype, bool paged);

  bool paged() const { return paged_; }
  int64_t size() const { return size_; }
  /// Slots that there is memory for, from the first row of the first page on.
  int64_t capacity() const { return static_cast<int64_t>(pages_.size()) * page_slots_; }
  int64_t base() const { return base_; }  // row of slot 0; 0 where paged

  /// Room for `more` slots behind the last, which may be written afterwards until the next Fork. Together: memory for
  /// `most` slots at most, with some to spare, where that is enough; -1: as it comes. True: rows have other places.
  bool Extend(int64_t more, int64_t most);
  /// Memory for `size` slots at once, with some to spare, so that Extend need not copy on its way there; together.
  void Reserve(int64_t size);
  /// Slots that there may be memory for on the way from here to `size`, by Extend with `most`; and bytes of so many.
  int64_t CapacityFor(int64_t size, int64_t most) const;
  int64_t BytesOf(int64_t slots) const;
  /// Takes back the last slots, or what lies behind the first `size`.
  void Truncate(int64_t size);
  /// Every row of its own: afterwards all may be written.
  void Own();

  KvRows Rows(int32_t tensor) const;
  /// Rows of slots that lie together (Together), to be written.
  Mat Run(int32_t tensor, int64_t slot, int64_t count);
  int64_t Together(int64_t slot, int64_t count) const {
    return paged_ ? std::min(count, page_slots_ - slot % page_slots_) : count;
  }

  /// What a Keep has moved: `count` slots from `begin` on have other rows than before, and the rows of all slots count
  /// from `shift` further on.
  struct Moved {
    int64_t begin = 0, count = 0, shift = 0;
  };
  /// Drops all slots but these, ascending; together. Of `tensors` the rows are kept, those of the others are lost where
  /// slots have moved. Either what is in front of the last gap moves up or what is behind the first moves down,
  /// whichever is less.
  Moved Keep(const std::vector<int32_t>& keep, std::span<const int32_t> tensors);
  /// The same where each of so many heads, whose columns lie side by side, keeps other slots, all as many.
  void KeepOfHeads(std::span<const std::vector<int32_t>> keep);
  /// Gives back memory where there is more than twice what is needed; together. True: rows have other places.
  bool Shrink();

  /// The same slots, or the first `size` of them, in the same memory until one of both writes.
  KvPages Fork(int64_t size) const;
  void Clear();

  int64_t bytes() const;
  /// visit(page, bytes) for each; shared ones are the same pointer everywhere.
  void Visit(const std::function<void(const void*, int64_t)>& visit) const;

 private:
  struct Page {
    Matrix memory;  // [tensors, stride] bytes
  };
  /// Whether others hold the page too. False: what they have read of it is behind them.
  static bool Shared(const std::shared_ptr<Page>& page);
  std::shared_ptr<Page> NewPage(int64_t slots) const;
  void Push(std::shared_ptr<Page> page);
  /// A page of `slots` with rows [from, from + count) of another at [to, to + count).
  std::shared_ptr<Page> CopyOf(const Page& page, int64_t from, int64_t count, int64_t slots, int64_t to) const;
  void Place(int64_t slots);
  int64_t row_bytes() const;
  std::byte* At(const Page& page, int32_t tensor, int64_t row) const;

  Backend* backend_;
  int32_t tensors_;
  int64_t columns_;
  DType dtype_;
  bool paged_;
  int64_t page_slots_;  // together: of the one page
  int64_t stride_ = 0;  // bytes between tensors of a page
  int64_t base_ = 0, size_ = 0;
  std::vector<std::shared_ptr<Page>> pages_;
  std::vector<const void*> data_;  // of each page
};

/// Slots with a quarter to spare, so that rows that move up seldom have to come back.
int64_t WithSpare(int64_t slots);

}  // namespace hawser
