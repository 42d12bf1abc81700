#include "hawser/kv/pages.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr int64_t kLine = 64;  // bytes: where tensors of a page begin

int64_t Stride(int64_t slots, int64_t row_bytes) { return (slots * row_bytes + kLine - 1) / kLine * kLine; }

}  // namespace

int64_t WithSpare(int64_t slots) { return slots + slots / 4 + 16; }

KvPages::KvPages(Backend* backend, int32_t tensors, int64_t columns, DType dtype, bool paged)
    : backend_(backend),
      tensors_(tensors),
      columns_(columns),
      dtype_(dtype),
      paged_(paged),
      page_slots_(paged ? KvRows::kPage : 0),
      stride_(Stride(page_slots_, row_bytes())) {}

int64_t KvPages::row_bytes() const { return columns_ * static_cast<int64_t>(SizeOf(dtype_)); }

std::byte* KvPages::At(const Page& page, int32_t tensor, int64_t row) const {
  return static_cast<std::byte*>(const_cast<void*>(page.memory.view().data)) + tensor * stride_ + row * row_bytes();
}

bool KvPages::Shared(const std::shared_ptr<Page>& page) {
  if (page.use_count() > 1) return true;
  std::atomic_thread_fence(std::memory_order_acquire);
  return false;
}

std::shared_ptr<KvPages::Page> KvPages::NewPage(int64_t slots) const {
  return std::make_shared<Page>(Page{backend_->NewMatrix(tensors_, Stride(slots, row_bytes()), DType::kU8)});
}

void KvPages::Push(std::shared_ptr<Page> page) {
  data_.push_back(page->memory.view().data);
  pages_.push_back(std::move(page));
}

std::shared_ptr<KvPages::Page> KvPages::CopyOf(const Page& page, int64_t from, int64_t count, int64_t slots,
                                               int64_t to) const {
  std::shared_ptr<Page> copy = NewPage(slots);
  const int64_t stride = Stride(slots, row_bytes());
  auto* data = static_cast<std::byte*>(copy->memory.view().data);
  for (int32_t tensor = 0; tensor < tensors_; ++tensor) {
    std::memcpy(data + tensor * stride + to * row_bytes(), At(page, tensor, from),
                static_cast<size_t>(count * row_bytes()));
  }
  return copy;
}

bool KvPages::Extend(int64_t more, int64_t most) {
  const int64_t size = size_ + more;
  if (paged_) {
    const int64_t first = size_ / page_slots_;  // page of the first new slot
    if (first < static_cast<int64_t>(pages_.size()) && Shared(pages_[first])) {
      pages_[first] = CopyOf(*pages_[first], 0, size_ % page_slots_, page_slots_, 0);
      data_[first] = pages_[first]->memory.view().data;
    }
    while (capacity() < size) Push(NewPage(page_slots_));
    size_ = size;
    return false;
  }
  // Rows that moved up leave room in front; when the end is reached, everything goes back to row 0, which the quarter
  // of spare rows makes rare.
  const bool moves = base_ + size > capacity();
  if (moves) {
    int64_t slots = WithSpare(size);
    if (most >= 0 && slots > capacity()) {
      slots = std::min(WithSpare(std::max(size, most)), std::max(slots, 2 * capacity()));
    }
    Place(std::max(slots, capacity()));
  } else {
    Own();
  }
  size_ = size;
  return moves;
}

void KvPages::Reserve(int64_t size) {
  if (!paged_ && base_ + size > capacity()) Place(std::max(WithSpare(size), capacity()));
}

int64_t KvPages::CapacityFor(int64_t size, int64_t most) const {
  int64_t slots = WithSpare(size);
  if (paged_) slots = (size + page_slots_ - 1) / page_slots_ * page_slots_;
  if (!paged_ && most >= 0) slots = std::min(2 * slots, WithSpare(std::max(size, most)));
  return std::max(slots, capacity());
}

int64_t KvPages::BytesOf(int64_t slots) const {
  return paged_ ? slots / page_slots_ * tensors_ * stride_ : tensors_ * Stride(slots, row_bytes());
}

/// Moves all slots to row 0 of a page of `slots`.
void KvPages::Place(int64_t slots) {
  if (slots == page_slots_ && !Shared(pages_.front())) {
    for (int32_t tensor = 0; tensor < tensors_; ++tensor) {
      std::memmove(At(*pages_.front(), tensor, 0), At(*pages_.front(), tensor, base_),
                   static_cast<size_t>(size_ * row_bytes()));
    }
  } else {
    std::shared_ptr<Page> page = pages_.empty() ? NewPage(slots) : CopyOf(*pages_.front(), base_, size_, slots, 0);
    pages_.clear();
    data_.clear();
    Push(std::move(page));
    page_slots_ = slots;
    stride_ = Stride(slots, row_bytes());
  }
  base_ = 0;
}

void KvPages::Truncate(int64_t size) {
  HAWSER_CHECK(size >= 0 && size <= size_);
  size_ = size;
  if (!paged_) return;
  pages_.resize(static_cast<size_t>((size + page_slots_ - 1) / page_slots_));
  data_.resize(pages_.size());
}

void KvPages::Own() {
  for (size_t p = 0; p < pages_.size(); ++p) {
    if (!Shared(pages_[p])) continue;
    const int64_t first = paged_ ? static_cast<int64_t>(p) * page_slots_ : 0;
    pages_[p] = CopyOf(*pages_[p], base_, std::min(size_ - first, page_slots_ - base_), page_slots_, base_);
    data_[p] = pages_[p]->memory.view().data;
  }
}

KvRows KvPages::Rows(int32_t tensor) const {
  KvRows rows;
  rows.m = {.dtype = dtype_, .rows = size_, .cols = columns_, .ld = columns_};
  if (pages_.empty()) return rows;
  rows.m.data = At(*pages_.front(), tensor, base_);
  if (paged_) {
    rows.pages = data_.data();
    rows.offset = tensor * stride_;
  }
  return rows;
}

Mat KvPages::Run(int32_t tensor, int64_t slot, int64_t count) {
  const int64_t row = base_ + slot;
  const Page& page = *pages_[static_cast<size_t>(row / page_slots_)];
  HAWSER_DCHECK(row % page_slots_ + count <= page_slots_);
  return {At(page, tensor, row % page_slots_), dtype_, count, columns_, columns_};
}

KvPages::Moved KvPages::Keep(const std::vector<int32_t>& keep, std::span<const int32_t> tensors) {
  HAWSER_CHECK(!paged_);
  Own();
  const auto kept = static_cast<int64_t>(keep.size());
  const int64_t dropped = size_ - kept;
  // Slots move down by a number that grows from 0 in front of the first gap to `dropped` behind the last.
  int64_t head = 0;  // kept slots before the first gap
  while (head < kept && keep[head] == head) ++head;
  int64_t tail = kept;  // kept slots from here on are behind the last gap
  while (tail > 0 && keep[tail - 1] == tail - 1 + dropped) --tail;
  // Moving up moves what is in front of the last gap, moving down what is behind the first.
  const bool up = tail <= kept - head;
  const Moved moved{.begin = up ? 0 : head, .count = up ? tail : kept - head, .shift = up ? dropped : 0};

  // Runs of neighbours move together; upwards the last run first, so that none is overwritten before it has moved.
  for (const int32_t tensor : tensors) {
    std::byte* rows = pages_.empty() ? nullptr : At(*pages_.front(), tensor, base_);
    for (int64_t done = 0; done < moved.count;) {
      int64_t first = up ? moved.begin + moved.count - 1 - done : moved.begin + done;
      int64_t run = 1;
      if (up) {
        while (first > moved.begin && keep[first - 1] + 1 == keep[first]) --first, ++run;
      } else {
        while (first + run < moved.begin + moved.count && keep[first + run] == keep[first] + run) ++run;
      }
      std::memmove(rows + (moved.shift + first) * row_bytes(), rows + keep[first] * row_bytes(),
                   static_cast<size_t>(run * row_bytes()));
      done += run;
    }
  }
  base_ += moved.shift;
  size_ = kept;
  return moved;
}

void KvPages::KeepOfHeads(std::span<const std::vector<int32_t>> keep) {
  HAWSER_CHECK(!paged_ && !pages_.empty());
  Own();
  const auto kept = static_cast<int64_t>(keep.front().size());
  const int64_t width = row_bytes() / static_cast<int64_t>(keep.size());
  for (int32_t tensor = 0; tensor < tensors_; ++tensor) {
    std::byte* rows = At(*pages_.front(), tensor, base_);
    for (size_t head = 0; head < keep.size(); ++head, rows += width) {
      HAWSER_CHECK(static_cast<int64_t>(keep[head].size()) == kept);
      for (int64_t i = 0; i < kept; ++i) {
        const int64_t from = keep[head][static_cast<size_t>(i)];
        if (from != i) std::memcpy(rows + i * row_bytes(), rows + from * row_bytes(), static_cast<size_t>(width));
      }
    }
  }
  size_ = kept;
}

bool KvPages::Shrink() {
  const int64_t enough = WithSpare(size_);
  if (paged_ || 2 * enough >= capacity()) return false;
  Place(enough);
  return true;
}

KvPages KvPages::Fork(int64_t size) const {
  KvPages fork = *this;
  fork.Truncate(size);
  return fork;
}

void KvPages::Clear() {
  size_ = base_ = 0;
  if (paged_) Truncate(0);
}

int64_t KvPages::bytes() const { return BytesOf(capacity()); }

void KvPages::Visit(const std::function<void(const void*, int64_t)>& visit) const {
  for (const auto& page : pages_) visit(page.get(), tensors_ * stride_);
}

}  // namespace hawser
