// eval/plot_canvas.h - the page under a plot: title, legend, axes and frame, laid out so that no text meets another or
// a curve.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hawser/base/svg.h"
#include "hawser/eval/plot_axis.h"

namespace hawser {

/// Pixels of a text, generously: exact widths are the viewer's.
double TextWidth(std::string_view text, double size);
/// `text`, its end replaced by an ellipsis where it is wider than `width` pixels.
std::string FitText(std::string_view text, double size, double width);
/// `text` in lines of at most `width` pixels, broken at blanks, and words where one alone is wider.
std::vector<std::string> WrapText(std::string_view text, double size, double width);

const SvgColor& SeriesColor(size_t series);
/// A point of series number `series` in its colour and shape, `size` times as large as usual; `more` (XML) inside.
std::string SeriesMarker(size_t series, double x, double y, double size, std::string_view more = {});

/// A rectangle in pixels, from its left upper corner.
struct PlotBox {
  double x = 0, y = 0, width = 0, height = 0;
};
/// A bar of series number `series`; `more` (XML) inside. Series that share a colour differ in how they are filled:
/// whole, pale with an edge, an edge alone, a dashed edge.
std::string SeriesBar(size_t series, const PlotBox& box, std::string_view more = {});

/// Calls come in this order: constructor (title), Legend, Frame, XAxis or Groups, what is drawn, Finish.
class PlotCanvas {
 public:
  PlotCanvas(int width, int height, const std::string& title, const std::string& subtitle);

  struct LegendEntry {
    std::string_view name;
    bool dashed = false;
    bool marked = false;  // its points have marks
  };
  /// Swatches in rows under the title; one nameless series needs none.
  void Legend(const std::vector<LegendEntry>& entries, bool lines);

  int TickCount() const;
  /// Settles left(), right() and bottom(), `below` pixels above the lower edge; top() stands but for the marks.
  void Frame(const Axis& y_axis, const PlotScale& y, double below);
  /// Names of marks in rows over the plot, each beside a thin line across it.
  void Marks(const std::vector<PlotMark>& marks, const PlotScale& x);
  /// Ticks and lines of the y axis; `y` gets its pixels.
  void YAxis(const Axis& axis, PlotScale* y);
  void XAxis(const Axis& axis, const PlotScale& x);
  void Baseline(std::string_view x_label);

  struct Style {
    double size = 12;
    const SvgColor* color = &kSvgSoftInk;
    int weight = 400;
    const char* anchor = "start";
    double turn = 0;  // degrees, about its own point
  };
  void Text(double x, double y, std::string_view text, const Style& style);
  void Line(double x1, double y1, double x2, double y2, const SvgColor& color, std::string_view more = {});
  void Add(std::string_view svg) { svg_ += svg; }

  double left() const { return left_; }
  double right() const { return right_; }
  double top() const { return top_; }
  double bottom() const { return bottom_; }
  double height() const { return height_; }

  /// What is drawn between the two is cut off at the plot's rectangle.
  void BeginClip();
  void EndClip() { svg_ += "</svg>\n"; }
  std::string Finish() const;
  /// The same, `height` pixels high.
  std::string FinishAt(double height);
  std::string FinishEmpty();

 private:
  int width_;
  double height_;
  std::string title_;
  double left_ = 0, right_ = 0, top_ = 0, bottom_ = 0;
  std::string svg_;
};

}  // namespace hawser
