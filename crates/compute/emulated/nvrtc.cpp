// NVRTC's functions. The kernels were compiled when this library was built; "compiling" checks that a program's text and its kx.h are
// those of the build, byte for byte, and gives a CUBIN that names the file (driver.cpp reads it).
#include <string.h>

#include <set>
#include <string>
#include <vector>

#include "sources.h"

#define EMULATED_API extern "C" __attribute__((visibility("default")))

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_INPUT = 3,
    INVALID_PROGRAM = 4,
    INVALID_OPTION = 5,
    COMPILATION = 6,
    NO_NAME_EXPRESSIONS_AFTER_COMPILATION = 8,
    NO_LOWERED_NAMES_BEFORE_COMPILATION = 9,
    NAME_EXPRESSION_NOT_VALID = 10,
};
const char* const RESULTS[] = {
    "NVRTC_SUCCESS", "NVRTC_ERROR_OUT_OF_MEMORY", "NVRTC_ERROR_PROGRAM_CREATION_FAILURE", "NVRTC_ERROR_INVALID_INPUT",
    "NVRTC_ERROR_INVALID_PROGRAM", "NVRTC_ERROR_INVALID_OPTION", "NVRTC_ERROR_COMPILATION", "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
    "NVRTC_ERROR_NO_NAME_EXPRESSIONS_AFTER_COMPILATION", "NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION",
    "NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID", "NVRTC_ERROR_INTERNAL_ERROR",
};
const int ARCHITECTURES[] = {80, 86, 89, 90, 100, 120};

struct Program {
    std::string name, text, log, cubin;
    std::vector<std::pair<std::string, std::string>> headers;  // name, text
    std::set<std::string> names;
};

std::string strip(const char* option, const char* long_form, const char* short_form) {
    for (const char* form : {long_form, short_form})
        if (form && !strncmp(option, form, strlen(form))) return option + strlen(form);
    return "";
}

bool known_architecture(const std::string& value) {
    for (int a : ARCHITECTURES)
        for (const char* kind : {"sm_", "compute_"})
            for (const char* suffix : {"", "a"})
                if (value == kind + std::to_string(a) + suffix) return true;
    return false;
}

// An option that changes nothing here; macros would, as the kernels are compiled already.
bool known_option(const char* option) {
    static const char* const whole[] = {"--use_fast_math", "-use_fast_math", "--std=c++17", "-std=c++17", "--std=c++14", "--std=c++20",
                                        "--generate-line-info", "-lineinfo", "--restrict", "--extra-device-vectorization",
                                        "--device-as-default-execution-space", "-default-device", "--no-cache"};
    static const char* const prefixes[] = {"--fmad=", "-fmad=", "--ptxas-options=", "-Xptxas=", "--maxrregcount=", "--include-path=", "-I",
                                           "--ftz=", "--prec-div=", "--prec-sqrt=", "--diag-suppress=", "--split-compile="};
    for (const char* o : whole)
        if (!strcmp(option, o)) return true;
    for (const char* o : prefixes)
        if (!strncmp(option, o, strlen(o))) return true;
    return false;
}

// The file that this text is; an error in the log if there is none.
const Source* find_source(Program& p) {
    for (const Source* s = KERNEL_SOURCES; s->file; s++)
        if (p.text == s->text) return s;
    for (const Source* s = KERNEL_SOURCES; s->file; s++) {
        const char* base = strrchr(s->file, '/');
        if (p.name == s->file || p.name == (base ? base + 1 : s->file)) {
            p.log = p.name + ": error: the emulated kernels were built from another text of this file: run tools/emulated_cuda.sh\n";
            return nullptr;
        }
    }
    p.log = p.name + ": error: no emulated kernels of this text were built: run tools/emulated_cuda.sh\n";
    return nullptr;
}

Result compile(Program& p, int count, const char* const* options) {
    p.log.clear(), p.cubin.clear();
    for (int i = 0; i < count; i++) {
        const std::string architecture = strip(options[i], "--gpu-architecture=", "-arch=");
        if (architecture.empty() ? known_option(options[i]) : known_architecture(architecture)) continue;
        p.log = std::string("nvrtc: error: invalid option, or not one that the emulation knows: ") + options[i] + "\n";
        return INVALID_OPTION;
    }
    const Source* source = find_source(p);
    if (!source) return COMPILATION;
    for (const Source* known = KERNEL_HEADERS; known->file; known++) {
        const std::string* header = nullptr;
        for (const auto& h : p.headers)
            if (h.first == known->file) header = &h.second;
        const bool included = p.text.find("#include \"" + std::string(known->file) + "\"") != std::string::npos;
        if (header ? *header != known->text : included) {
            p.log = p.name + (header ? ": error: the emulated kernels were built with another " + std::string(known->file) +
                                           ": run tools/emulated_cuda.sh\n"
                                     : ": error: could not open source file \"" + std::string(known->file) + "\"\n");
            return COMPILATION;
        }
    }
    p.cubin = std::string("emulated CUDA kernels of ") + source->file + ";";
    return SUCCESS;
}

Result give(const std::string& text, char* to) {
    memcpy(to, text.c_str(), text.size() + 1);
    return SUCCESS;
}

}  // namespace

EMULATED_API const char* nvrtcGetErrorString(int result) {
    return result >= 0 && result < (int)(sizeof RESULTS / sizeof *RESULTS) ? RESULTS[result] : "NVRTC_ERROR unknown";
}

EMULATED_API int nvrtcVersion(int* major, int* minor) {
    *major = 13, *minor = 0;
    return SUCCESS;
}

EMULATED_API int nvrtcGetNumSupportedArchs(int* count) {
    *count = sizeof ARCHITECTURES / sizeof *ARCHITECTURES;
    return SUCCESS;
}

EMULATED_API int nvrtcGetSupportedArchs(int* to) {
    memcpy(to, ARCHITECTURES, sizeof ARCHITECTURES);
    return SUCCESS;
}

EMULATED_API int nvrtcCreateProgram(Program** to, const char* text, const char* name, int count, const char* const* headers,
                                    const char* const* names) {
    if (!to || !text || count < 0 || (count && (!headers || !names))) return INVALID_INPUT;
    auto* p = new Program;
    p->name = name ? name : "default_program";
    p->text = text;
    for (int i = 0; i < count; i++) p->headers.emplace_back(names[i], headers[i]);
    *to = p;
    return SUCCESS;
}

EMULATED_API int nvrtcDestroyProgram(Program** p) {
    if (!p || !*p) return INVALID_PROGRAM;
    delete *p;
    *p = nullptr;
    return SUCCESS;
}

EMULATED_API int nvrtcCompileProgram(Program* p, int count, const char* const* options) {
    return p ? compile(*p, count, options) : INVALID_PROGRAM;
}

EMULATED_API int nvrtcGetProgramLogSize(Program* p, size_t* bytes) {
    if (!p) return INVALID_PROGRAM;
    *bytes = p->log.size() + 1;
    return SUCCESS;
}
EMULATED_API int nvrtcGetProgramLog(Program* p, char* to) { return p ? give(p->log, to) : INVALID_PROGRAM; }

EMULATED_API int nvrtcGetCUBINSize(Program* p, size_t* bytes) {
    if (!p || p->cubin.empty()) return INVALID_PROGRAM;
    *bytes = p->cubin.size() + 1;
    return SUCCESS;
}
EMULATED_API int nvrtcGetCUBIN(Program* p, char* to) { return p && !p->cubin.empty() ? give(p->cubin, to) : INVALID_PROGRAM; }
EMULATED_API int nvrtcGetPTXSize(Program* p, size_t* bytes) { return nvrtcGetCUBINSize(p, bytes); }
EMULATED_API int nvrtcGetPTX(Program* p, char* to) { return nvrtcGetCUBIN(p, to); }

// Names of kernels that are not templates are their own lowered names.
EMULATED_API int nvrtcAddNameExpression(Program* p, const char* name) {
    if (!p) return INVALID_PROGRAM;
    if (!p->cubin.empty()) return NO_NAME_EXPRESSIONS_AFTER_COMPILATION;
    p->names.insert(name);
    return SUCCESS;
}
EMULATED_API int nvrtcGetLoweredName(Program* p, const char* name, const char** to) {
    if (!p) return INVALID_PROGRAM;
    if (p->cubin.empty()) return NO_LOWERED_NAMES_BEFORE_COMPILATION;
    const auto found = p->names.find(name);
    if (found == p->names.end()) return NAME_EXPRESSION_NOT_VALID;
    *to = found->c_str();
    return SUCCESS;
}
