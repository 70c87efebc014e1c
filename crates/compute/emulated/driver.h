// driver.h: what the parts of the emulated driver share. One lock guards all of it: calls of several host threads take turns.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "emulated.h"

namespace emulated {

// CUresult, as far as it is used.
enum Status : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    UNKNOWN = 999,
};

extern std::recursive_mutex driver_lock;
typedef std::lock_guard<std::recursive_mutex> Locked;

// FD_EMULATED_DRIVER: the driver that is played.
bool plays(const char* driver);
// SUCCESS if the driver is initialised and the calling thread has the context.
Status ready();

// ---- Commands: what a stream is asked to do (stream.cpp) -------------------------------------------------------------------------
typedef std::function<void()> Command;

// Arguments of a command, copied when it was given.
typedef std::vector<max_align_t> Copied;
inline Copied copied(const void* from, size_t bytes) {
    Copied copy((bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t));
    memcpy(copy.data(), from, bytes);
    return copy;
}

struct Capture {
    int mode;
    uint64_t thread;
    bool invalidated = false;
    std::vector<Command> commands;
};

struct Stream {
    bool non_blocking = false;
    std::shared_ptr<Capture> capture;
    bool origin = false;    // the capture began here
    bool unjoined = false;  // work that the origin has not yet waited for
};

// Does a command when its turn comes, or records it if the stream is capturing.
Status enqueue(Stream* stream, Command command);
// The stream of a handle; null if there is none.
Stream* find_stream(void* handle);
// Does everything that was asked for. Commands wait for it: a program that reads results too early, or overwrites pinned memory too
// early, does so here as well.
void finish_commands();
// Called first by functions that may not run during a capture: invalidates it and says so.
Status forbid_capture();

// ---- Memory (memory.cpp) ---------------------------------------------------------------------------------------------------------
// Whether these bytes lie in one allocation on the device.
bool on_device(const void* p, size_t bytes);
bool pinned(const void* p, size_t bytes);

}  // namespace emulated

#define EMULATED_API extern "C" __attribute__((visibility("default")))

// For the other emulated libraries. `run` gets a copy of the arguments, at once or, after a capture, at every launch of the graph.
EMULATED_API int emulated_enqueue(void* stream, void (*run)(const void* arguments), const void* arguments, size_t bytes);
EMULATED_API int emulated_on_device(const void* p, size_t bytes);
EMULATED_API unsigned emulated_threads();
