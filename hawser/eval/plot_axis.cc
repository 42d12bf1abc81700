#include "hawser/eval/plot_axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace hawser {
namespace {

double Warp(AxisScale kind, double value) { return kind == AxisScale::kLinear ? value : std::log2(value); }

void Widen(PlotScale* s, bool from_zero, int ticks) {
  if (s->kind == AxisScale::kLinear) {
    const double high = s->high;
    const std::vector<double> at = AxisTicks(s->kind, s->low, s->high, ticks);
    const double step = at.size() > 1 ? at[1] - at[0] : s->high - s->low;
    s->low = std::floor(s->low / step + 1e-9) * step;
    s->high = std::ceil(s->high / step - 1e-9) * step;
    if (from_zero && high > s->high - 0.3 * step) s->high += 0.5 * step;  // room for the value on top
    return;
  }
  // Bars need some length below the least value; lines a little air.
  const double air = std::pow(s->high / s->low, 0.06);
  s->low /= from_zero ? std::max(2.0, air) : air;
  s->high *= air;
}

}  // namespace

bool PlotScale::Shows(double value) const { return std::isfinite(value) && (kind == AxisScale::kLinear || value > 0); }

double PlotScale::operator()(double value) const {
  const double a = Warp(kind, low), b = Warp(kind, high);
  return from + (Warp(kind, value) - a) / (b - a) * (to - from);
}

void PlotRange::Add(double value) {
  if (!PlotScale{.kind = axis_.scale}.Shows(value)) return;
  low_ = std::min(low_, value);
  high_ = std::max(high_, value);
}

PlotScale PlotRange::Settle(bool tight, bool from_zero, int ticks) const {
  PlotScale s{.kind = axis_.scale, .low = low_, .high = high_};
  const bool log = axis_.scale != AxisScale::kLinear;
  if (!log && (from_zero || (!tight && s.low > 0 && s.low < 0.5 * s.high))) s.low = std::min(0.0, s.low);
  if (s.low == s.high) {
    const double pad = s.high == 0 ? 1 : std::abs(s.high) * 0.5;
    s.low = log ? s.low / 2 : s.low - pad;
    s.high = log ? s.high * 2 : s.high + pad;
  }
  if (!tight) Widen(&s, from_zero, ticks);
  if (axis_.min && s.Shows(*axis_.min)) s.low = *axis_.min;
  if (axis_.max && s.Shows(*axis_.max)) s.high = *axis_.max;
  if (!(s.low < s.high)) s.high = log ? s.low * 2 : s.low + 1;
  return s;
}

std::vector<double> AxisTicks(AxisScale scale, double low, double high, int count) {
  std::vector<double> ticks;
  if (!(low < high) || !std::isfinite(high - low) || count < 1) return ticks;
  constexpr double kSlack = 1e-9;
  if (scale == AxisScale::kLinear) {
    const double raw = (high - low) / count;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    double step = 10 * power;
    for (const double factor : {5.0, 2.0, 1.0}) {
      if (factor * power >= raw * (1 - kSlack)) step = factor * power;
    }
    const double first = std::ceil(low / step - kSlack), last = high / step + kSlack;
    if (!(std::max(std::abs(first), std::abs(last)) < 0x1p52)) return ticks;  // where k + 1 is k again
    for (double k = first; k <= last; ++k) ticks.push_back(k * step);
    return ticks;
  }
  if (low <= 0) return ticks;
  const double base = scale == AxisScale::kLog2 ? 2 : 10;
  const double first = std::ceil(std::log(low) / std::log(base) - kSlack);
  const double last = std::floor(std::log(high) / std::log(base) + kSlack);
  const double skip = std::max(1.0, std::ceil((last - first) / count));
  if (scale == AxisScale::kLog10 && last - first < 2) {
    // Few decades: finer and finer until there are enough, and plain steps inside one.
    const std::vector<double> factors = {1, 2, 5};
    for (double decade = first - 1; decade <= last; ++decade) {
      for (const double factor : factors) {
        const double v = factor * std::pow(10.0, decade);
        if (v >= low * (1 - kSlack) && v <= high * (1 + kSlack)) ticks.push_back(v);
      }
    }
    if (ticks.size() < 3) return AxisTicks(AxisScale::kLinear, low, high, count);
    return ticks;
  }
  for (double k = std::ceil(first / skip) * skip; k <= last; k += skip) ticks.push_back(std::pow(base, k));
  if (ticks.size() < 2) return AxisTicks(AxisScale::kLinear, low, high, count);
  return ticks;
}

std::string TickLabel(AxisScale scale, double value) {
  const auto trimmed = [](double v) {
    std::string text = fmt::format("{:.6f}", v);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text == "-0" ? "0" : text;
  };
  const double size = std::abs(value);
  if (scale == AxisScale::kLog2) {
    constexpr struct {
      double unit;
      const char* name;
    } kBinary[] = {{0x1p30, "G"}, {0x1p20, "M"}, {0x1p10, "K"}};
    for (const auto& [unit, name] : kBinary) {
      if (size >= unit && std::fmod(size * 4, unit) == 0) return trimmed(value / unit) + name;
    }
    return trimmed(value);
  }
  if (size >= 1e12 || (size > 0 && size < 1e-4)) return fmt::format("{:.2g}", value);
  if (size >= 1e9) return trimmed(value / 1e9) + "G";
  if (size >= 1e6) return trimmed(value / 1e6) + "M";
  if (size >= 1e4) return trimmed(value / 1e3) + "k";
  return trimmed(value);
}

}  // namespace hawser
