#include "ptx/library.h"

#include <cxxabi.h>
#include <dirent.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>

#include "ptx/decode.h"

namespace hadal {
namespace ptx {
namespace {

void replaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

bool isNamePart(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Parts at commas outside of all brackets.
std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  int depth = 0;
  for (const char c : text) {
    if (c == '<' || c == '(' || c == '{' || c == '[') depth++;
    if (c == '>' || c == ')' || c == '}' || c == ']') depth--;
    if (c == ',' && depth == 0)
      parts.emplace_back();
    else if (c != ' ' || !parts.back().empty())
      parts.back() += c;
  }
  if (parts.size() == 1 && parts[0].empty()) parts.clear();
  return parts;
}

// The text between the bracket at `open` and its partner.
std::string inside(const std::string& text, size_t open) {
  int depth = 0;
  for (size_t at = open; at < text.size(); at++) {
    const char c = text[at];
    if (c == '<' || c == '(' || c == '{' || c == '[') depth++;
    if (c == '>' || c == ')' || c == '}' || c == ']') depth--;
    if (depth == 0) return text.substr(open + 1, at - open - 1);
  }
  return "";
}

// Both compilers' spelling of names, types and numbers made one: namespaces that all kernels share are left out (g++
// leaves them out where it can), const too, numbers have neither suffix nor cast, enumerators are their numbers.
std::string canonical(std::string text, const Enumerators& enumerators) {
  for (const char* const common : {"(anonymous namespace)::", "{anonymous}::", "hadal::", "cuda::"})
    replaceAll(text, common, "");
  static const std::regex constant("\\bconst\\b"), longs("\\blong int\\b"), unsignedLong("\\blong unsigned int\\b"),
      shorts("\\bshort int\\b"), unsignedShort("\\bshort unsigned int\\b"), suffix("\\b(\\d+)[ul]+\\b"),
      cast("\\([\\w: ]+\\)(-?\\d)"), enumerator("\\b\\w+(::\\w+)+\\b(?![<(:])"), blanks("\\s*([<>,*&(){}])\\s*"),
      ends("^\\s+|\\s+$");
  text = std::regex_replace(text, constant, "");
  text = std::regex_replace(text, unsignedLong, "unsigned long");
  text = std::regex_replace(text, unsignedShort, "unsigned short");
  text = std::regex_replace(text, longs, "long");
  text = std::regex_replace(text, shorts, "short");
  text = std::regex_replace(text, suffix, "$1");
  text = std::regex_replace(text, cast, "$1");
  if (!enumerators.empty()) {
    std::string replaced;
    size_t from = 0;
    for (std::sregex_iterator match(text.begin(), text.end(), enumerator), end; match != end; ++match) {
      const std::string whole = match->str();
      const size_t last = whole.rfind("::"), before = whole.rfind("::", last - 1);
      const auto found = enumerators.find(before == std::string::npos ? whole : whole.substr(before + 2));
      replaced += text.substr(from, static_cast<size_t>(match->position()) - from) +
                  (found == enumerators.end() ? whole : found->second);
      from = static_cast<size_t>(match->position()) + whole.size();
    }
    text = replaced + text.substr(from);
  }
  text = std::regex_replace(text, blanks, "$1");
  return std::regex_replace(text, ends, "");
}

}  // namespace

KernelName nameOfEntry(const std::string& mangled) {
  int status = 0;
  char* const raw = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  if (!raw) return {};
  std::string text = raw;
  free(raw);
  replaceAll(text, "(anonymous namespace)::", "");
  const std::string start = "void hadal::cuda::entry<";
  if (!text.starts_with(start)) return {};
  const std::vector<std::string> parts = split(inside(text, start.size() - 1));
  if (parts.size() < 3) return {};
  std::string body = parts[0];
  if (body.starts_with("&")) body = body.substr(1);
  if (body.starts_with("(")) {  // (void name<…>(parameters)): a template's, with its type
    body = inside(body, 0);
    body = body.substr(body.find(' ') + 1);
    int depth = 0;
    size_t at = 0;
    for (; at < body.size() && (body[at] != '(' || depth > 0); at++)
      depth += body[at] == '<' ? 1 : body[at] == '>' ? -1 : 0;
    body = body.substr(0, at);
  }
  KernelName name{canonical(body, {}), "", parts[1], parts[2]};
  for (size_t n = 3; n < parts.size(); n++) name.arguments += (n > 3 ? "," : "") + canonical(parts[n], {});
  return name;
}

KernelName nameOfLaunch(const std::string& pretty, const Enumerators& enumerators) {
  const size_t with = pretty.rfind("[with ");
  if (with == std::string::npos) fail("[ptx] not the name of a launch: %s", pretty.c_str());
  KernelName name;
  // `auto body = …; int threads = …; int blocksPerProcessor = …; Args = {…}`
  std::string rest = inside(pretty, with).substr(5);
  for (size_t from = 0; from < rest.size();) {
    int depth = 0;
    size_t to = from;
    for (; to < rest.size() && (rest[to] != ';' || depth > 0); to++)
      depth += strchr("<({", rest[to]) ? 1 : strchr(">)}", rest[to]) ? -1 : 0;
    const std::string one = rest.substr(from, to - from);
    from = to + 1;
    const size_t equals = one.find(" = ");
    if (equals == std::string::npos) continue;
    size_t start = equals;
    while (start > 0 && isNamePart(one[start - 1])) start--;
    const std::string key = one.substr(start, equals - start), value = one.substr(equals + 3);
    if (key == "body") name.body = canonical(value, enumerators);
    if (key == "threads") name.threads = value;
    if (key == "blocksPerProcessor") name.blocks = value;
    if (key == "Args" && value.starts_with("{")) {
      const std::vector<std::string> types = split(inside(value, 0));
      for (size_t n = 0; n < types.size(); n++) name.arguments += (n ? "," : "") + canonical(types[n], enumerators);
    }
  }
  if (name.body.starts_with("&")) name.body = name.body.substr(1);
  if (name.body.empty() || name.threads.empty()) fail("[ptx] not the name of a launch: %s", pretty.c_str());
  return name;
}

// ---- Library

Library::Library(const std::string& folder) {
  DIR* const opened = opendir(folder.c_str());
  if (!opened) fail("[ptx] cannot read the folder %s", folder.c_str());
  std::vector<std::string> names;
  while (const dirent* const one = readdir(opened))
    if (std::string_view(one->d_name).ends_with(".ptx")) names.emplace_back(one->d_name);
  closedir(opened);
  std::sort(names.begin(), names.end());
  if (names.empty()) fail("[ptx] no .ptx file in %s", folder.c_str());
  for (const std::string& name : names) {
    files.push_back(std::make_unique<File>(File{folder + "/" + name, readFile(folder + "/" + name), nullptr}));
    File& file = *files.back();
    const std::string& text = file.text;
    for (size_t at = text.find(".entry "); at != std::string::npos; at = text.find(".entry ", at)) {
      const bool isLine = at == 0 || text[at - 1] == '\n' || text[at - 1] == ' ';
      at += 7;
      if (!isLine) continue;
      size_t end = at;
      while (end < text.size() && (isNamePart(text[end]) || text[end] == '$')) end++;
      Entry entry{text.substr(at, end - at), {}, &file};
      entry.name = nameOfEntry(entry.mangled);
      byBody.emplace(entry.name.body, all.size());
      all.push_back(std::move(entry));
    }
  }
  // Lines `Kind::wide 1`, made from the sources.
  std::ifstream list(folder + "/enumerators.txt");
  for (std::string name, number; list >> name >> number;) enumerators[name] = number;
}

Kernel& Library::decode(Entry& entry) {
  if (entry.kernel) return *entry.kernel;
  if (!entry.file->module) entry.file->module = std::make_unique<Module>(entry.file->path, std::move(entry.file->text));
  const Module& module = *entry.file->module;
  auto kernel = std::make_unique<Kernel>();
  Decoder(module, *kernel).decodeEntry(module.functions.at(entry.mangled));
  decoded.push_back(std::move(kernel));
  return *(entry.kernel = decoded.back().get());
}

// The text of an entry without what differs between two files that hold the same one.
std::string Library::bodyOf(const Entry& entry) {
  const std::string& text = entry.file->module ? entry.file->module->text : entry.file->text;
  const size_t at = text.find(".entry " + entry.mangled), end = text.find("\n}", at);
  std::string body = text.substr(at, end - at);
  replaceAll(body, entry.mangled, "");
  static const std::regex labels("\\$L__BB\\d+_|(__local_depot|callseq )\\d+");
  return std::regex_replace(body, labels, "");
}

Kernel& Library::find(const std::string& pretty) {
  if (const auto found = byLaunch.find(pretty); found != byLaunch.end()) return *found->second;
  const KernelName wanted = nameOfLaunch(pretty, enumerators);
  std::vector<Entry*> matches;
  const auto [first, last] = byBody.equal_range(wanted.body);
  std::string near;
  for (auto one = first; one != last; ++one) {
    Entry& entry = all[one->second];
    near += "\n  " + entry.file->path + ": " + entry.name.text();
    if (entry.name.threads == wanted.threads && (wanted.blocks.empty() || entry.name.blocks == wanted.blocks))
      matches.push_back(&entry);
  }
  if (matches.size() > 1)
    std::erase_if(matches, [&](const Entry* one) { return one->name.arguments != wanted.arguments; });
  if (matches.empty()) {
    if (near.empty()) {
      const std::string simple = wanted.body.substr(0, wanted.body.find('<'));
      int shown = 0;
      for (const Entry& one : all)
        if (one.name.body.substr(0, one.name.body.find('<')) == simple && shown++ < 8)
          near += "\n  " + one.file->path + ": " + one.name.text();
    }
    fail("[ptx] no kernel of the PTX is the launched one.\n  wanted: %s\n  there are:%s\n  from: %s",
         wanted.text().c_str(), near.empty() ? " none of that name" : near.c_str(), pretty.c_str());
  }
  // A template that several files use is the same kernel in each.
  for (size_t n = 1; n < matches.size(); n++)
    if (bodyOf(*matches[n]) != bodyOf(*matches[0]))
      fail("[ptx] two kernels of the PTX may be the launched one.\n  wanted: %s\n  %s: %s\n  %s: %s\n  from: %s",
           wanted.text().c_str(), matches[0]->file->path.c_str(), matches[0]->mangled.c_str(),
           matches[n]->file->path.c_str(), matches[n]->mangled.c_str(), pretty.c_str());
  Kernel& kernel = decode(*matches[0]);
  byLaunch[pretty] = &kernel;
  return kernel;
}

Kernel& Library::entry(const std::string& mangled) {
  for (Entry& one : all)
    if (one.mangled == mangled) return decode(one);
  fail("[ptx] no entry %s", mangled.c_str());
}

std::vector<std::string> Library::entries() const {
  std::vector<std::string> names;
  for (const Entry& one : all) names.push_back(one.mangled);
  return names;
}

}  // namespace ptx
}  // namespace hadal
