// base/folder.h - what becomes of names in folders, and folders that are replaced as a whole.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// What is in `folder`, in the order of names; nothing where it cannot be read.
std::vector<std::filesystem::path> EntriesOf(const std::filesystem::path& folder);

/// Of what is not there nothing is removed. Errors: kIo naming the path.
void RemoveFile(const std::filesystem::path& path);
/// With all that is in it; links are removed, not followed.
void RemoveTree(const std::filesystem::path& path);
/// As RemoveTree where it does not matter if something stays: the next run removes it.
void RemoveQuietly(const std::filesystem::path& path);

/// Errors: kIo naming the new path.
void RenamePath(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes names in `folder` durable. Errors are ignored: not all file systems can.
void SyncFolder(const std::filesystem::path& folder);

/// "." where the path names none.
std::filesystem::path ParentFolder(const std::filesystem::path& path);

/// Lets `write` fill a new folder beside `path`, which then takes the place of `path` in one step (two where the file
/// system knows no exchange), so that a kill at any time leaves the old content or the new. Entries of the old folder
/// for whose names `stale` is false are kept. The caller holds a FolderLock on `path`, so what is left of new folders
/// is of processes that died, and is removed. If anything fails `path` is what it was. Errors: those of `write`, and
/// kIo naming the path.
void ReplaceFolder(const std::filesystem::path& path, const std::function<bool(const std::string& name)>& stale,
                   const std::function<void(const std::filesystem::path& folder)>& write);

/// Says what there is (`mode`, of stat) where a regular file was wanted: a pipe, a device, ... Errors: kIo, always.
[[noreturn]] void FailNotRegular(const std::filesystem::path& path, unsigned mode);
[[noreturn]] void FailIo(const std::filesystem::path& path, std::string_view action, int code);

}  // namespace hawser
