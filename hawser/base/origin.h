// base/origin.h - where a result comes from: what pages and files for people say of the run that wrote them.
#pragma once

#include <string>

namespace hawser {

struct Origin {
  std::string version;  // "0.1.0"
  std::string command;  // as a shell reads it; empty before SetCommandLine
  std::string machine;  // "x86_64, 2 of 8 cores, AMD EPYC 9354, 15.6 GiB, Linux 6.1"
  std::string date;     // now, "2026-03-01 12:00 UTC"
};

/// The program's version, "0.1.0".
const char* Version();
/// Keeps the words of the command for ThisRun; call it at the start of main.
void SetCommandLine(int argc, char** argv);
Origin ThisRun();

}  // namespace hawser
