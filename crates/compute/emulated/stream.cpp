// Streams, events, captures and graphs. All streams share one queue, in the order of the calls; it is worked off when the program waits.
#include <pthread.h>

#include <chrono>
#include <set>

#include "driver.h"

namespace emulated {

std::recursive_mutex driver_lock;

namespace {

constexpr size_t LONGEST_QUEUE = 4096;
enum Mode { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

struct Event {
    bool timing, recorded = false, pending = false;
    double time = 0;
    std::shared_ptr<Capture> capture;  // recorded in a capture
    Stream* stream = nullptr;
};

struct Graph {
    std::shared_ptr<const std::vector<Command>> commands;
};

// Never destroyed, as threads may outlast static objects.
struct State {
    std::vector<Command> queue;
    Stream null_stream;
    std::set<void*> streams, graphs, executables;
    std::set<std::shared_ptr<Capture>> captures;
    std::set<void*> events;
    std::vector<std::shared_ptr<Event>> event_owners;
};
State& state() {
    static State& s = *new State;
    return s;
}

double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::shared_ptr<Event> find_event(void* handle) {
    for (auto& e : state().event_owners)
        if (e.get() == handle) return e;
    return nullptr;
}

Status invalidate(Capture& capture, Status status) {
    capture.invalidated = true;
    return status;
}

Graph* find_graph(void* handle, const std::set<void*>& among) { return among.count(handle) ? static_cast<Graph*>(handle) : nullptr; }

}  // namespace

Stream* find_stream(void* handle) {
    if ((uintptr_t)handle <= 2) return &state().null_stream;  // null, legacy, per thread
    return state().streams.count(handle) ? static_cast<Stream*>(handle) : nullptr;
}

void finish_commands() {
    while (!state().queue.empty()) {
        std::vector<Command> commands;
        commands.swap(state().queue);
        for (const Command& c : commands) c();
    }
}

Status enqueue(Stream* stream, Command command) {
    if (stream->capture) {
        if (stream->capture->invalidated) return CAPTURE_INVALIDATED;
        stream->capture->commands.push_back(std::move(command));
        stream->unjoined = !stream->origin;
        return SUCCESS;
    }
    if (stream == &state().null_stream)  // it would wait for the capturing stream
        for (void* s : state().streams) {
            auto* other = static_cast<Stream*>(s);
            if (other->capture && !other->non_blocking) return invalidate(*other->capture, CAPTURE_IMPLICIT);
        }
    state().queue.push_back(std::move(command));
    if (state().queue.size() >= LONGEST_QUEUE) finish_commands();
    return SUCCESS;
}

Status forbid_capture() {
    Status status = SUCCESS;
    for (auto& c : state().captures)
        if (c->mode == GLOBAL || (c->mode == THREAD_LOCAL && c->thread == (uint64_t)pthread_self())) status = invalidate(*c, CAPTURE_UNSUPPORTED);
    return status;
}

}  // namespace emulated

using namespace emulated;

#define BEGIN                   \
    Locked lock(driver_lock);   \
    if (Status s = ready()) return s
#define FIND_STREAM(handle)                \
    Stream* stream = find_stream(handle);  \
    if (!stream) return INVALID_HANDLE
#define FIND_EVENT(handle)              \
    auto event = find_event(handle);    \
    if (!event) return INVALID_HANDLE

EMULATED_API int emulated_enqueue(void* handle, void (*run)(const void*), const void* arguments, size_t bytes) {
    BEGIN;
    FIND_STREAM(handle);
    return enqueue(stream, [run, copy = copied(arguments, bytes)] { run(copy.data()); });
}

// ---- Streams ---------------------------------------------------------------------------------------------------------------------
EMULATED_API int cuStreamCreate(void** to, unsigned flags) {
    BEGIN;
    if (flags > 1) return INVALID_VALUE;
    auto* stream = new Stream;
    stream->non_blocking = flags == 1;
    state().streams.insert(stream);
    *to = stream;
    return SUCCESS;
}
EMULATED_API int cuStreamCreateWithPriority(void** to, unsigned flags, int) { return cuStreamCreate(to, flags); }

EMULATED_API int cuStreamDestroy_v2(void* handle) {
    BEGIN;
    if (!state().streams.count(handle)) return INVALID_HANDLE;
    finish_commands();
    state().streams.erase(handle);
    delete static_cast<Stream*>(handle);
    return SUCCESS;
}

EMULATED_API int cuStreamSynchronize(void* handle) {
    BEGIN;
    FIND_STREAM(handle);
    if (stream->capture) return invalidate(*stream->capture, CAPTURE_UNSUPPORTED);
    finish_commands();
    return SUCCESS;
}

EMULATED_API int cuStreamQuery(void* handle) {
    BEGIN;
    FIND_STREAM(handle);
    if (stream->capture) return invalidate(*stream->capture, CAPTURE_UNSUPPORTED);
    if (state().queue.empty()) return SUCCESS;
    finish_commands();  // so that a program that asks again and again goes on
    return NOT_READY;
}

EMULATED_API int cuCtxSynchronize() {
    BEGIN;
    for (auto& c : state().captures) return invalidate(*c, CAPTURE_UNSUPPORTED);
    finish_commands();
    return SUCCESS;
}

// ---- Events ----------------------------------------------------------------------------------------------------------------------
EMULATED_API int cuEventCreate(void** to, unsigned flags) {
    BEGIN;
    auto event = std::make_shared<Event>();
    event->timing = !(flags & 2);
    state().event_owners.push_back(event);
    *to = event.get();
    return SUCCESS;
}

EMULATED_API int cuEventDestroy_v2(void* handle) {
    BEGIN;
    auto& owners = state().event_owners;
    for (size_t i = 0; i < owners.size(); i++)
        if (owners[i].get() == handle) {
            owners.erase(owners.begin() + (ptrdiff_t)i);
            return SUCCESS;
        }
    return INVALID_HANDLE;
}

EMULATED_API int cuEventRecord(void* handle, void* stream_handle) {
    BEGIN;
    FIND_EVENT(handle);
    FIND_STREAM(stream_handle);
    event->stream = stream;
    event->capture = stream->capture;
    if (stream->capture) return stream->capture->invalidated ? CAPTURE_INVALIDATED : SUCCESS;
    event->recorded = event->pending = true;
    return enqueue(stream, [event] { event->time = now(), event->pending = false; });
}

EMULATED_API int cuEventSynchronize(void* handle) {
    BEGIN;
    FIND_EVENT(handle);
    if (event->capture) return invalidate(*event->capture, CAPTURED_EVENT);
    if (event->pending) finish_commands();
    return SUCCESS;
}

EMULATED_API int cuEventQuery(void* handle) {
    BEGIN;
    FIND_EVENT(handle);
    if (event->capture) return invalidate(*event->capture, CAPTURED_EVENT);
    if (!event->pending) return SUCCESS;
    finish_commands();
    return NOT_READY;
}

EMULATED_API int cuEventElapsedTime(float* to, void* from_handle, void* to_handle) {
    BEGIN;
    auto begin = find_event(from_handle), end = find_event(to_handle);
    if (!begin || !end || !begin->timing || !end->timing || !begin->recorded || !end->recorded) return INVALID_HANDLE;
    if (begin->pending || end->pending) return NOT_READY;
    *to = (float)(end->time - begin->time);
    return SUCCESS;
}
EMULATED_API int cuEventElapsedTime_v2(float* to, void* begin, void* end) { return cuEventElapsedTime(to, begin, end); }

// An event of a capture takes the waiting stream into it, or joins what was recorded there.
EMULATED_API int cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    BEGIN;
    FIND_STREAM(handle);
    FIND_EVENT(event_handle);
    if (!event->capture) {
        if (stream->capture && event->recorded) return invalidate(*stream->capture, CAPTURE_ISOLATION);
        return SUCCESS;
    }
    if (event->capture->invalidated) return CAPTURE_INVALIDATED;
    if (stream->capture && stream->capture != event->capture) return invalidate(*stream->capture, CAPTURE_ISOLATION);
    if (!stream->capture) stream->capture = event->capture, stream->origin = false, stream->unjoined = true;
    if (event->stream != stream) event->stream->unjoined = false;
    return SUCCESS;
}

// ---- Captures and graphs ---------------------------------------------------------------------------------------------------------
EMULATED_API int cuStreamBeginCapture_v2(void* handle, int mode) {
    BEGIN;
    FIND_STREAM(handle);
    if (stream == &state().null_stream || stream->capture) return CAPTURE_UNSUPPORTED;
    if (mode < GLOBAL || mode > RELAXED) return INVALID_VALUE;
    auto capture = std::make_shared<Capture>();
    capture->mode = mode, capture->thread = (uint64_t)pthread_self();
    stream->capture = capture, stream->origin = true, stream->unjoined = false;
    state().captures.insert(capture);
    return SUCCESS;
}

EMULATED_API int cuStreamEndCapture(void* handle, void** to) {
    BEGIN;
    FIND_STREAM(handle);
    *to = nullptr;
    if (!stream->capture) return INVALID_VALUE;
    if (!stream->origin) return CAPTURE_UNMATCHED;
    auto capture = stream->capture;
    bool unjoined = false;
    for (void* s : state().streams) {
        auto* other = static_cast<Stream*>(s);
        if (other->capture != capture) continue;
        unjoined |= other->unjoined;
        other->capture = nullptr, other->origin = other->unjoined = false;
    }
    for (auto& e : state().event_owners)
        if (e->capture == capture) e->capture = nullptr;
    state().captures.erase(capture);
    if (capture->invalidated) return CAPTURE_INVALIDATED;
    if (unjoined) return CAPTURE_UNJOINED;
    auto* graph = new Graph{std::make_shared<const std::vector<Command>>(std::move(capture->commands))};
    state().graphs.insert(graph);
    *to = graph;
    return SUCCESS;
}

EMULATED_API int cuStreamIsCapturing(void* handle, int* to) {
    BEGIN;
    FIND_STREAM(handle);
    *to = !stream->capture ? 0 : stream->capture->invalidated ? 2 : 1;
    return SUCCESS;
}

EMULATED_API int cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
    BEGIN;
    Graph* graph = find_graph(handle, state().graphs);
    if (!graph) return INVALID_HANDLE;
    if (nodes) return NOT_SUPPORTED;
    *count = graph->commands->size();
    return SUCCESS;
}

EMULATED_API int cuGraphInstantiateWithFlags(void** to, void* handle, unsigned long long) {
    BEGIN;
    Graph* graph = find_graph(handle, state().graphs);
    if (!graph) return INVALID_HANDLE;
    auto* executable = new Graph(*graph);
    state().executables.insert(executable);
    *to = executable;
    return SUCCESS;
}

EMULATED_API int cuGraphLaunch(void* handle, void* stream_handle) {
    BEGIN;
    FIND_STREAM(stream_handle);
    Graph* executable = find_graph(handle, state().executables);
    if (!executable) return INVALID_HANDLE;
    auto commands = executable->commands;
    return enqueue(stream, [commands] {
        for (const Command& c : *commands) c();
    });
}

EMULATED_API int cuGraphUpload(void* handle, void* stream_handle) {
    BEGIN;
    FIND_STREAM(stream_handle);
    return find_graph(handle, state().executables) ? SUCCESS : INVALID_HANDLE;
}

EMULATED_API int cuGraphExecDestroy(void* handle) {
    BEGIN;
    if (!state().executables.erase(handle)) return INVALID_HANDLE;
    delete static_cast<Graph*>(handle);
    return SUCCESS;
}

EMULATED_API int cuGraphDestroy(void* handle) {
    BEGIN;
    if (!state().graphs.erase(handle)) return INVALID_HANDLE;
    delete static_cast<Graph*>(handle);
    return SUCCESS;
}
